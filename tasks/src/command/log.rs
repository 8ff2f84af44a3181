//! What a child process prints, in bounded memory: how it began and how it ended.
//!
//! `child` pushes into it, `command` publishes it as `log.txt`. It knows nothing of lines while it
//! gathers, so that one line of a gigabyte costs no more than a million lines.

use std::collections::VecDeque;

/// The most that `log.txt` may weigh: enough to see what happened, little enough to open.
pub(super) const LIMIT: usize = 8 << 20;

/// Kept of the start, and again of the end; the remainder is room for the line between them.
const KEPT: usize = (LIMIT - 256) / 2;

/// The most that an error message repeats of the end.
const EXCERPT_BYTES: usize = 4 << 10;
const EXCERPT_LINES: usize = 20;

/// The first and last bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Log {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    cut: u64,
}

impl Log {
    /// Appends what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(KEPT - self.head.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..excess);
        self.cut += excess as u64;
    }

    /// The whole text, or its two ends with a line between them that says what was cut.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = self.head.clone();
        if self.cut > 0 {
            text.extend_from_slice(format!("\n--- {} bytes were cut here ---\n", self.cut).as_bytes());
        }
        let (front, back) = self.tail.as_slices();
        text.extend_from_slice(front);
        text.extend_from_slice(back);
        text
    }

    /// The last lines, for an error message.
    pub(super) fn last_lines(&self) -> String {
        let text = self.text();
        let end = String::from_utf8_lossy(&text[text.len().saturating_sub(EXCERPT_BYTES)..]);
        let lines: Vec<_> = end.trim_end().lines().collect();
        lines[lines.len().saturating_sub(EXCERPT_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_output_is_kept_as_it_is() {
        let mut log = Log::default();
        log.push(b"one\n");
        log.push(b"two\n");
        assert_eq!(log.text(), b"one\ntwo\n");
        assert_eq!(log.last_lines(), "one\ntwo");
    }

    #[test]
    fn long_output_keeps_both_ends_and_counts_the_rest() {
        let mut log = Log::default();
        let piece = [b'x'; 60_000];
        log.push(b"start");
        let pieces = 2 * LIMIT / piece.len();
        (0..pieces).for_each(|_| log.push(&piece));
        log.push(b"end");
        let text = log.text();
        assert!(text.len() <= LIMIT, "{} bytes", text.len());
        assert!(text.starts_with(b"start") && text.ends_with(b"end"));
        let cut = 5 + pieces * piece.len() + 3 - 2 * KEPT;
        let line = format!("\n--- {cut} bytes were cut here ---\n");
        assert_eq!(text[KEPT..KEPT + line.len()], *line.as_bytes());
    }

    #[test]
    fn an_excerpt_is_bounded_in_lines_and_bytes() {
        let mut log = Log::default();
        log.push((0..1000).map(|line| format!("line {line}\n")).collect::<String>().as_bytes());
        assert_eq!(log.last_lines().lines().count(), EXCERPT_LINES);
        assert!(log.last_lines().ends_with("line 999"));
        log.push("é".repeat(EXCERPT_BYTES).as_bytes());
        assert!(log.last_lines().len() <= EXCERPT_BYTES + 3, "cut inside a character, which takes 3 bytes to say");
    }
}
