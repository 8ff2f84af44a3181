//! The port through which an attempt's output reaches its log, and the shape of a line of it.
//!
//! The executor puts an [`AttemptLog`] into each attempt's context and streams what comes to the
//! artifact store; a test's bench puts one there that remembers. Nothing here stores anything.

use std::collections::VecDeque;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// The version of the lines that this code writes.
pub const LOG_FORMAT_VERSION: u32 = 1;

/// Enough of the end for an error message, little enough for a row of the database.
const LAST_BYTES: usize = 4 << 10;
const LAST_LINES: usize = 20;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// A program's standard output.
    Stdout,
    /// A program's standard error.
    Stderr,
    /// The engine itself: what was cut, why the attempt was ended.
    Engine,
}

/// One line of an attempt's log, as it is stored: a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// [`LOG_FORMAT_VERSION`].
    pub v: u32,
    /// When its first byte came, RFC 3339.
    pub at: String,
    /// Where it came from.
    pub stream: LogStream,
    /// Its text without the newline; what is not UTF-8 is replaced.
    pub line: String,
}

/// Where an attempt's output goes.
#[async_trait]
pub trait AttemptLog: Send + Sync {
    /// Takes bytes as they came, in pieces of any size; lines are made of them behind it. Waits
    /// while the log is behind, so that a program that prints too fast waits for its log. Never
    /// fails: a log that can not be kept is no reason to end the attempt.
    async fn write(&self, stream: LogStream, bytes: &[u8]);
}

/// The last lines of a stream in bounded memory, for an error message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastLines {
    bytes: VecDeque<u8>,
}

impl LastLines {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(LAST_BYTES)..];
        self.bytes.extend(kept);
        let excess = self.bytes.len().saturating_sub(LAST_BYTES);
        self.bytes.drain(..excess);
    }

    /// At most 20 lines and 4 KiB, without the last newline.
    pub fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        let text = [front, back].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_bounded_in_lines_and_bytes() {
        let mut last = LastLines::default();
        assert_eq!(last.text(), "");
        last.push((0..1000).map(|line| format!("line {line}\n")).collect::<String>().as_bytes());
        assert_eq!(last.text().lines().count(), LAST_LINES);
        assert!(last.text().ends_with("line 999"));
        last.push("é".repeat(LAST_BYTES).as_bytes());
        assert!(last.text().len() <= LAST_BYTES + 3, "cut inside a character, which takes 3 bytes to say");
        last.push(b"\nthe end\n");
        assert!(last.text().ends_with("\nthe end"));
    }

    #[test]
    fn a_line_is_the_json_that_is_documented() {
        let line = LogLine {
            v: LOG_FORMAT_VERSION,
            at: "2026-11-02T01:00:00.000Z".into(),
            stream: LogStream::Stderr,
            line: "say \"hi\"".into(),
        };
        let text = r#"{"v":1,"at":"2026-11-02T01:00:00.000Z","stream":"stderr","line":"say \"hi\""}"#;
        assert_eq!(serde_json::to_string(&line).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<LogLine>(text).expect("a line"), line);
    }
}
