//! Values of secrets in memory: printed by nothing, and found in what an attempt says.
//!
//! The executor makes them (it looks the values up), and hands a [`Redactor`] to whatever takes an attempt's words:
//! its log, its last lines, its message, its outputs. Pure: where values come from is the executor's business. A
//! reference in a DAG is `dag`'s.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// What stands where a secret stood.
pub const MASK: &str = "***";

/// Shorter values are words of every log: to hide them would hide the log, and tell what they are.
const LEAST_CHARS: usize = 4;

/// Shorter lines of a value of several lines are its braces and headings, unless all are shorter.
const LEAST_LINE_CHARS: usize = 8;

/// All values of an attempt together, in bytes: four of the largest. A program can not be handed much more in its
/// environment, and the automaton takes a few hundred bytes for each.
pub const TOTAL_LIMIT: usize = 256 << 10;

/// A secret's value. Its `Debug` hides it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Hides a value.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself: for whoever hands it to the task that asked for it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Puts [`MASK`] wherever one of an attempt's secrets stands. Clones share what they look for; the default looks for
/// nothing.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Needles>>);

struct Needles {
    automaton: AhoCorasick,
    /// Bytes of the longest one.
    longest: usize,
    /// Those that do not end with their line.
    across: Vec<Across>,
}

impl Redactor {
    /// Looks for these values: each as it is, without the spaces around it and, where it has several lines, each line
    /// of 8 characters or more (of 4, if none has 8); each of these also as it stands in JSON. Values of fewer than 4
    /// characters are not looked for.
    ///
    /// # Panics
    /// The values are larger than any memory: [`TOTAL_LIMIT`] is the caller's to keep.
    pub fn new(values: &[SecretText]) -> Self {
        let mut needles: Vec<String> = values.iter().flat_map(|value| forms(value.expose())).collect();
        needles.sort();
        needles.dedup();
        let Some(longest) = needles.iter().map(String::len).max() else { return Self(None) };
        let mut builder = AhoCorasick::builder();
        // All matches, however they overlap; a table for each byte of each state would be large.
        builder.match_kind(MatchKind::Standard).kind(Some(AhoCorasickKind::ContiguousNFA));
        let automaton = builder.build(&needles).expect("a few MiB of needles are far below the library's limits");
        let across = needles.into_iter().filter(|needle| needle.contains('\n')).map(Across::new).collect();
        Self(Some(Arc::new(Needles { automaton, longest, across })))
    }

    /// The text without secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let found = self.0.as_ref().map(|needles| needles.find(text.as_bytes())).unwrap_or_default();
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let (mut hidden, mut at) = (String::with_capacity(text.len()), 0);
        for range in found {
            hidden.push_str(&text[at..range.start]);
            hidden.push_str(MASK);
            at = range.end;
        }
        hidden.push_str(&text[at..]);
        Cow::Owned(hidden)
    }

    /// The value without secrets in its texts, keys and numbers: a number with one in its digits becomes [`MASK`].
    pub fn value(&self, value: Value) -> Value {
        if self.0.is_none() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(&text).into_owned()),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.value(item)).collect()),
            Value::Object(entries) => {
                let entries = entries.into_iter().map(|(key, item)| (self.text(&key).into_owned(), self.value(item)));
                Value::Object(entries.collect::<Map<_, _>>())
            }
            Value::Number(number) if matches!(self.text(&number.to_string()), Cow::Owned(_)) => Value::from(MASK),
            other => other,
        }
    }

    /// A filter for one stream of bytes.
    pub fn stream(&self) -> Redaction {
        Redaction { redactor: self.clone(), held: Vec::new(), masked: None }
    }
}

/// What a value is looked for as.
fn forms(value: &str) -> Vec<String> {
    let has = |text: &str, least: usize| text.chars().nth(least - 1).is_some();
    let mut parts = vec![value, value.trim()];
    if value.contains('\n') {
        let lines = || value.lines().map(str::trim);
        let is_long = lines().any(|line| has(line, LEAST_LINE_CHARS));
        let least = if is_long { LEAST_LINE_CHARS } else { LEAST_CHARS };
        parts.extend(lines().filter(|line| has(line, least)));
    }
    parts.sort_unstable();
    parts.dedup();
    let mut forms: Vec<String> = parts.into_iter().flat_map(written).collect();
    forms.retain(|form| has(form, LEAST_CHARS));
    forms
}

/// How programs write a text: as it is, as JSON has it, and as the number that it is.
fn written(text: &str) -> Vec<String> {
    if text.chars().nth(LEAST_CHARS - 1).is_none() {
        return Vec::new();
    }
    let mut forms = vec![text.to_owned()];
    // Quotes, line ends and control characters escaped, as also Rust does in `{:?}`.
    let json = Value::from(text).to_string();
    let json = &json[1..json.len() - 1];
    for is_ascii in [false, true] {
        forms.extend(["", "<>&\u{2028}\u{2029}", "/"].map(|more| escaped(json, is_ascii, more)));
    }
    // What a JSON number of more digits than fit is read as.
    let number = serde_json::from_str::<Number>(text).ok().and_then(|number| number.as_f64());
    forms.extend(number.map(|number| Value::from(number).to_string()));
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// A text that is escaped as JSON needs it, with these characters escaped as well, and all that are not ASCII.
fn escaped(json: &str, is_ascii: bool, more: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '/' if more == "/" => text.push_str("\\/"),
            _ if more.contains(char) || is_ascii && !(' '..='~').contains(&char) => {
                let units =
                    char.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
                text.push_str(&units);
            }
            _ => text.push(char),
        }
    }
    text
}

/// What is looked for and has ends of lines in it.
struct Across {
    text: Vec<u8>,
    /// For each beginning of it, the bytes of the longest shorter one that this ends with.
    borders: Vec<usize>,
}

impl Across {
    fn new(text: String) -> Self {
        let text = text.into_bytes();
        let mut it = Self { borders: vec![0; text.len()], text };
        let mut length = 0;
        for at in 1..it.text.len() {
            length = it.next(length, it.text[at]);
            it.borders[at] = length;
        }
        it
    }

    /// How many bytes at the end may be its beginning. Linear in its length, whatever the bytes.
    fn begun(&self, bytes: &[u8]) -> usize {
        // All of it would be found already.
        let end = &bytes[bytes.len().saturating_sub(self.text.len() - 1)..];
        end.iter().fold(0, |length, byte| self.next(length, *byte))
    }

    /// How much of it is there, one byte after `length` of it were.
    fn next(&self, mut length: usize, byte: u8) -> usize {
        while length > 0 && self.text[length] != byte {
            length = self.borders[length - 1];
        }
        if self.text[length] == byte { length + 1 } else { 0 }
    }
}

impl Needles {
    /// Where secrets stand, in order. What overlaps or touches is one place: its parts would tell each other's ends.
    fn find(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        // By their ends: the next one may begin before the last one.
        for one in self.automaton.find_overlapping_iter(bytes) {
            let mut place = one.range();
            while let Some(last) = found.pop_if(|last| place.start <= last.end) {
                place.start = place.start.min(last.start);
            }
            found.push(place);
        }
        found
    }
}

/// A filter for one stream of bytes that comes in pieces of any size: a secret that is cut in two is found, too. What
/// may be the beginning of one is held back, beyond the end of a line only where a value has that very end.
#[derive(Default)]
pub struct Redaction {
    redactor: Redactor,
    /// Bytes that were not let through yet, behind those that were masked already.
    held: Vec<u8>,
    /// How many of them belong to a place whose mask is out; `None`: what went out last was no mask.
    masked: Option<usize>,
}

impl Redaction {
    /// What may be let through by now.
    pub fn push<'b>(&mut self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let Some(needles) = self.redactor.0.clone() else { return Cow::Borrowed(bytes) };
        self.held.extend_from_slice(bytes);
        let line_end = self.held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        // A secret that is not whole yet begins behind this, or has more lines.
        let end = line_end.max((self.held.len() + 1).saturating_sub(needles.longest));
        let across = needles.across.iter().map(|needle| self.held.len() - needle.begun(&self.held));
        let end = across.fold(end, usize::min);
        Cow::Owned(self.release(&needles, end))
    }

    /// What was held back: the stream has ended.
    pub fn finish(&mut self) -> Vec<u8> {
        let Some(needles) = self.redactor.0.clone() else { return Vec::new() };
        self.release(&needles, self.held.len())
    }

    /// Lets the first `end` bytes through.
    fn release(&mut self, needles: &Needles, end: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(end);
        let (mut at, mut is_masked) = (self.masked.unwrap_or(0), self.masked.is_some());
        for place in needles.find(&self.held).into_iter().take_while(|place| place.start < end) {
            if place.start > at || !is_masked {
                out.extend_from_slice(&self.held[at..place.start]);
                out.extend_from_slice(MASK.as_bytes());
                is_masked = true;
            }
            at = at.max(place.end);
        }
        out.extend_from_slice(self.held.get(at..end).unwrap_or_default());
        self.masked = is_masked.then(|| at.checked_sub(end)).flatten();
        self.held.drain(..end);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        Redactor::new(&values.iter().map(|value| SecretText::new((*value).to_owned())).collect::<Vec<_>>())
    }

    /// What a stream lets through when `text` comes in pieces of these sizes, over and over.
    fn streamed(redactor: &Redactor, text: &str, sizes: &[usize]) -> String {
        let (mut stream, mut rest, mut out) = (redactor.stream(), text.as_bytes(), Vec::new());
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            out.extend_from_slice(&stream.push(piece));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        out.extend_from_slice(&stream.finish());
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_value_is_hidden_wherever_it_stands() {
        let redactor = redactor(&["hunter2!", "ab", "p\"w\\d"]);
        for (text, hidden) in [
            ("the token is hunter2!", "the token is ***"),
            ("hunter2!hunter2! hunter2", "*** hunter2"),
            ("ab is too short to hide", "ab is too short to hide"),
            ("as text p\"w\\d, as JSON {\"a\":\"p\\\"w\\\\d\"}", "as text ***, as JSON {\"a\":\"***\"}"),
        ] {
            assert_eq!(redactor.text(text), hidden);
            assert_eq!(streamed(&redactor, text, &[1]), hidden);
        }
        assert_eq!(
            redactor.value(json!({"a": ["hunter2!", 7, {"hunter2!": null}], "b": "xhunter2!x"})),
            json!({"a": ["***", 7, {"***": null}], "b": "x***x"})
        );
        assert_eq!(format!("{:?}", SecretText::new("hunter2!".to_owned())), "***");
    }

    #[test]
    fn a_value_of_digits_is_no_number_either() {
        let long = "1234567890123456789012345";
        let redactor = redactor(&["80861234", long, "-12.34500"]);
        for (text, hidden) in [
            ("[80861234, 8086123, -80861234.5, 80861234e3]", json!(["***", 8_086_123, "***", "***"])),
            (&format!("[{long}, {long}.0, 1234567890123456789]"), json!(["***", "***", 1_234_567_890_123_456_789_i64])),
            ("[-12.345, 12.345, true, null]", json!(["***", 12.345, true, null])),
        ] {
            assert_eq!(redactor.value(serde_json::from_str(text).expect("JSON")), hidden, "{text}");
        }
    }

    #[test]
    fn a_value_is_hidden_as_other_programs_write_it_in_json() {
        let value = "ü<\"&\"/>\u{1f511}\u{2028}\n and a line: ü/>";
        let redactor = redactor(&[value]);
        for said in [
            r#"ü<\"&\"/>🔑\u{2028}\n and a line: ü/>"#.replace(r"\u{2028}", "\u{2028}"),
            r#"ü<\"&\"\/>🔑\u{2028}\n and a line: ü\/>"#.replace(r"\u{2028}", "\u{2028}"),
            r#"ü\u003c\"\u0026\"/\u003e🔑\u2028\n and a line: ü/\u003e"#.to_owned(),
            r#"\u00fc<\"&\"/>\ud83d\udd11\u2028\n and a line: \u00fc/>"#.to_owned(),
            r#"\u00fc<\"&\"\/>\ud83d\udd11\u2028\n and a line: \u00fc\/>"#.to_owned(),
            r#"\u00fc\u003c\"\u0026\"/\u003e\ud83d\udd11\u2028\n and a line: \u00fc/\u003e"#.to_owned(),
        ] {
            let read: String = serde_json::from_str(&format!("\"{said}\"")).expect("JSON");
            assert_eq!(read, value, "{said}");
            assert_eq!(redactor.text(&format!("\"{said}\"")), "\"***\"");
            let line = said.rsplit_once(r"\n ").expect("two lines").1;
            assert_eq!(redactor.text(&format!("<{line}>")), "<***>");
        }
        assert!(forms(value).len() <= 3 * 7 && forms("a-plain-one").len() == 1, "{:?}", forms(value));
    }

    #[test]
    fn overlapping_values_leave_no_end_behind() {
        let redactor = redactor(&["abcd", "cdef", "bc-bc"]);
        assert_eq!(redactor.text("xabcdefx abc-bc"), "x***x a***");
        for sizes in [&[1][..], &[2], &[3, 1]] {
            assert_eq!(streamed(&redactor, "xabcdefx", sizes), "x***x");
            assert_eq!(streamed(&redactor, "abcdef", sizes), "***");
        }
    }

    #[test]
    fn lines_of_a_key_are_hidden_one_by_one() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n  kqhkiG9w0BAQ\nEFAA\n-----END KEY-----";
        let redactor = redactor(&[key]);
        let text = "| MIIEvQIBADANBg\n| kqhkiG9w0BAQ |\n| EFAA\n";
        assert_eq!(streamed(&redactor, text, &[5]), "| ***\n| *** |\n| EFAA\n");
        for sizes in [&[1][..], &[5], &[20], &[1_000]] {
            assert_eq!(streamed(&redactor, &format!("<{key}>\n-----BEGIN KEY-----\nx"), sizes), "<***>\n***\nx");
        }
    }

    #[test]
    fn lines_of_a_short_value_are_hidden_one_by_one_too() {
        let redactor = redactor(&["user\npass123\nabc"]);
        let text = "1: pass123\n2: user\nabc\nuser\npass123\nabc\nuser\n";
        for sizes in [&[1][..], &[7], &[1_000]] {
            assert_eq!(streamed(&redactor, text, sizes), "1: ***\n2: ***\nabc\n***\n***\n");
        }
    }

    #[test]
    fn a_line_is_let_through_with_its_end_and_a_long_one_in_bounded_memory() {
        let (redactor, redactor_of_lines) = (redactor(&["a secret of some length"]), redactor(&["fst\nsnd"]));
        let mut stream = redactor.stream();
        assert_eq!(&*stream.push(b"a secret of\nnext"), b"a secret of\n");
        for _ in 0..1_000 {
            stream.push(&[b'a'; 1_000]);
            assert!(stream.held.len() < 23);
        }
        // Only what may go on behind the end of its line waits.
        let mut stream = redactor_of_lines.stream();
        for (bytes, through) in
            [("a line\nfst\n", "a line\n"), ("other\n", "fst\nother\n"), ("fst\nsn", ""), ("d!\n", "***!\n")]
        {
            assert_eq!(&*stream.push(bytes.as_bytes()), through.as_bytes());
        }
        let nothing = Redactor::default();
        assert!(matches!(nothing.stream().push(b"x"), Cow::Borrowed(b"x")));
    }

    proptest! {
        /// The pieces in which a text comes change nothing.
        #[test]
        fn a_stream_lets_through_what_the_whole_text_would(
            values in prop::collection::vec("[ab\n]{4,7}|[ab]{8}\n[ab\n]{1,9}", 1..4),
            text in "[abc\n]{0,60}",
            sizes in prop::collection::vec(1..9_usize, 1..5),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let redactor = redactor(&values);
            let out = streamed(&redactor, &text, &sizes);
            prop_assert!(values.iter().all(|value| !out.contains(value)));
            prop_assert_eq!(out, redactor.text(&text).into_owned());
        }
    }
}
