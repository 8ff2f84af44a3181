//! From bytes to the lines of a log, in bounded memory and bounded in all.
//!
//! Called by the log's pump, which puts what is pending. Pure: the moment is an argument.
//!
//! Both ends of a long log are kept: up to the limit lines go out as they come; later ones wait in a
//! ring, of which the last are put when the attempt ends, after a line that says how much was cut.
//! A long line is cut on its own, for the same reason.

use std::collections::VecDeque;

use serde_json::json;

use crate::clock::rfc3339;
use crate::secret::{Redaction, Redactor};
use crate::task::{LOG_FORMAT_VERSION, LogLine, LogStream};

/// The most that is kept of a line: far more than a person reads.
const LINE_BYTES: usize = 16 << 10;

/// The most that is held back for the end.
const TAIL_BYTES: u64 = 1 << 20;

/// The lines of one log.
pub(super) struct Lines {
    limit: u64,
    partial: [Partial; 3],
    /// Before anything is cut: half a secret would not be found.
    hidden: [Redaction; 3],
    /// Encoded lines that may be put.
    pending: VecDeque<Vec<u8>>,
    pending_bytes: usize,
    /// What may still be put before the tail begins.
    head_left: u64,
    /// Whether lines go to the tail by now.
    full: bool,
    tail: VecDeque<Encoded>,
    tail_bytes: u64,
    tail_limit: u64,
    cut_lines: u64,
    cut_bytes: u64,
}

/// The beginning of a line whose end has not come.
#[derive(Default)]
struct Partial {
    text: Vec<u8>,
    /// Bytes beyond [`LINE_BYTES`].
    cut: u64,
    /// When its first byte came.
    at: Option<i64>,
}

struct Encoded {
    json: Vec<u8>,
    /// Bytes of output that it stands for.
    raw: u64,
}

impl Lines {
    /// An empty log that stores at most `limit` bytes (and a few lines of the engine's own).
    pub(super) fn new(limit: u64) -> Self {
        let tail_limit = (limit / 4).min(TAIL_BYTES);
        Self {
            limit,
            partial: Default::default(),
            hidden: Default::default(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            // The line between the two ends needs room as well.
            head_left: limit.saturating_sub(tail_limit).saturating_sub(512),
            full: false,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_limit,
            cut_lines: 0,
            cut_bytes: 0,
        }
    }

    /// Keeps none of the secrets that `redactor` knows.
    pub(super) fn without(mut self, redactor: &Redactor) -> Self {
        self.hidden = std::array::from_fn(|_| redactor.stream());
        self
    }

    /// Takes bytes of a stream as they came.
    pub(super) fn push(&mut self, stream: LogStream, bytes: &[u8], now: i64) {
        let mut hidden = std::mem::take(&mut self.hidden[stream as usize]);
        self.take(stream, &hidden.push(bytes), now);
        self.hidden[stream as usize] = hidden;
    }

    fn take(&mut self, stream: LogStream, bytes: &[u8], now: i64) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            self.partial(stream).push(&rest[..at], now);
            self.end_line(stream, now);
            rest = &rest[at + 1..];
        }
        if !rest.is_empty() {
            self.partial(stream).push(rest, now);
        }
    }

    /// Ends the lines that have no end, and lets the tail go.
    pub(super) fn end(&mut self, now: i64) {
        for stream in [LogStream::Stdout, LogStream::Stderr, LogStream::Engine] {
            let held = self.hidden[stream as usize].finish();
            self.take(stream, &held, now);
            if self.partial(stream).at.is_some() {
                self.end_line(stream, now);
            }
        }
        if self.cut_lines > 0 {
            let (lines, bytes) = (self.cut_lines, self.cut_bytes);
            let text = format!("{lines} lines ({bytes} bytes) were cut here: a log holds {} bytes", self.limit);
            self.queue(encode(LogStream::Engine, &text, now));
        }
        while let Some(line) = self.tail.pop_front() {
            self.queue(line.json);
        }
    }

    /// Whether a line may be put.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes of lines that may be put.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// The next chunk: whole lines up to `size` bytes, at least one.
    pub(super) fn take_chunk(&mut self, size: usize) -> Option<Vec<u8>> {
        let mut chunk = self.pending.pop_front()?;
        while let Some(next) = self.pending.pop_front_if(|next| chunk.len() + next.len() <= size) {
            chunk.extend_from_slice(&next);
        }
        self.pending_bytes -= chunk.len();
        Some(chunk)
    }

    fn partial(&mut self, stream: LogStream) -> &mut Partial {
        &mut self.partial[stream as usize]
    }

    fn end_line(&mut self, stream: LogStream, now: i64) {
        let partial = std::mem::take(self.partial(stream));
        let raw = partial.text.len() as u64 + partial.cut + 1;
        let at = partial.at.unwrap_or(now);
        let json = encode(stream, &String::from_utf8_lossy(&partial.text), at);
        self.keep(Encoded { json, raw });
        if partial.cut > 0 {
            let text = format!("{} bytes of the line above were cut", partial.cut);
            self.keep(Encoded { json: encode(LogStream::Engine, &text, at), raw: 0 });
        }
        // The buffer of a line is used again: lines are many.
        let mut text = partial.text;
        text.clear();
        self.partial(stream).text = text;
    }

    fn keep(&mut self, line: Encoded) {
        let size = line.json.len() as u64;
        if !self.full && size <= self.head_left {
            self.head_left -= size;
            return self.queue(line.json);
        }
        self.full = true;
        self.tail_bytes += size;
        self.tail.push_back(line);
        while self.tail_bytes > self.tail_limit
            && let Some(first) = self.tail.pop_front()
        {
            self.tail_bytes -= first.json.len() as u64;
            self.cut_lines += 1;
            self.cut_bytes += first.raw;
        }
    }

    fn queue(&mut self, json: Vec<u8>) {
        self.pending_bytes += json.len();
        self.pending.push_back(json);
    }
}

impl Partial {
    fn push(&mut self, bytes: &[u8], now: i64) {
        self.at.get_or_insert(now);
        let (kept, cut) = bytes.split_at(bytes.len().min(LINE_BYTES - self.text.len()));
        self.text.extend_from_slice(kept);
        self.cut += cut.len() as u64;
    }
}

/// A line that says how much of a log is missing at its place.
pub(super) fn lost(bytes: u64, now: i64) -> Vec<u8> {
    let text = format!("{bytes} bytes of this log could not be stored: the artifact store did not take them");
    encode(LogStream::Engine, &text, now)
}

fn encode(stream: LogStream, text: &str, at: i64) -> Vec<u8> {
    let line = LogLine { v: LOG_FORMAT_VERSION, at: rfc3339(at), stream, line: text.to_owned() };
    let mut json = json!(line).to_string().into_bytes();
    json.push(b'\n');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lines: &mut Lines) -> Vec<LogLine> {
        lines.end(0);
        let mut all = Vec::new();
        while let Some(chunk) = lines.take_chunk(1 << 10) {
            let text = String::from_utf8(chunk).expect("UTF-8");
            all.extend(text.lines().map(|line| serde_json::from_str::<LogLine>(line).expect("a line")));
        }
        assert_eq!(lines.pending_bytes(), 0);
        all
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.line.as_str()).collect()
    }

    #[test]
    fn lines_come_whole_in_whatever_pieces() {
        let mut lines = Lines::new(1 << 20);
        for piece in [&b"a\nb"[..], b"b\n\nc", b"", b"c\r\n", b"\xff"] {
            lines.push(LogStream::Stdout, piece, 1_000);
        }
        lines.push(LogStream::Stderr, b"between\n", 2_000);
        let all = drain(&mut lines);
        assert_eq!(texts(&all), ["a", "bb", "", "cc\r", "between", "\u{fffd}"]);
        assert_eq!((all[4].stream, all[4].at.as_str()), (LogStream::Stderr, "1970-01-01T00:00:00.002Z"));
        assert_eq!(all[0].v, LOG_FORMAT_VERSION);
    }

    #[test]
    fn secrets_are_hidden_before_lines_are_cut() {
        let value = "a secret of some length";
        let secret = crate::secret::SecretText::new(value.to_owned());
        let mut lines = Lines::new(1 << 20).without(&Redactor::new(&[secret]));
        // It would be cut in its middle, and so no longer be one.
        lines.push(LogStream::Stdout, &vec![b'x'; LINE_BYTES - 10], 0);
        for piece in [
            &value[..9],
            &value[9..],
            "
said: a sec",
        ] {
            lines.push(LogStream::Stdout, piece.as_bytes(), 0);
            lines.push(LogStream::Stderr, b"...", 0);
        }
        lines.push(LogStream::Stdout, &value.as_bytes()[5..], 0);
        let all = drain(&mut lines);
        assert_eq!(all[0].line, format!("{}***", "x".repeat(LINE_BYTES - 10)));
        assert_eq!(texts(&all)[1..], ["said: ***", "........."]);
    }

    #[test]
    fn a_line_of_a_gigabyte_costs_a_few_kilobytes() {
        let mut lines = Lines::new(1 << 20);
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..1024 {
            lines.push(LogStream::Stdout, &piece, 0);
        }
        assert!(lines.partial(LogStream::Stdout).text.capacity() <= 2 * LINE_BYTES);
        lines.push(LogStream::Stdout, b"\nnext\n", 0);
        let all = drain(&mut lines);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].line.len(), LINE_BYTES);
        assert_eq!(all[1].line, format!("{} bytes of the line above were cut", (1_u64 << 30) - LINE_BYTES as u64));
        assert_eq!((all[1].stream, all[2].line.as_str()), (LogStream::Engine, "next"));
    }

    #[test]
    fn both_ends_of_a_long_log_are_kept() {
        let limit = 64 << 10;
        let mut lines = Lines::new(limit);
        let mut stored = 0;
        for number in 0..100_000 {
            lines.push(LogStream::Stdout, format!("line {number}\n").as_bytes(), 0);
            stored += lines.take_chunk(1 << 10).map_or(0, |chunk| chunk.len() as u64);
        }
        assert!(lines.tail_bytes <= lines.tail_limit);
        let all = drain(&mut lines);
        assert!(all.last().is_some_and(|line| line.line == "line 99999"), "{:?}", all.last());
        let cut = all.iter().find(|line| line.stream == LogStream::Engine).expect("a line says what was cut");
        assert!(cut.line.contains("lines (") && cut.line.contains("were cut here"), "{}", cut.line);
        let rest: u64 = all.iter().map(|line| json!(line).to_string().len() as u64 + 1).sum();
        assert!(stored + rest <= limit, "{stored} + {rest} bytes");
    }

    #[test]
    fn bytes_that_grow_when_written_as_json_count_as_they_are_stored() {
        let mut lines = Lines::new(100_000);
        for _ in 0..100 {
            lines.push(LogStream::Stdout, &[0; 16_000], 0);
            lines.push(LogStream::Stdout, b"\n", 0);
        }
        lines.end(0);
        assert!(lines.pending_bytes() <= 100_000, "{}", lines.pending_bytes());
    }
}
