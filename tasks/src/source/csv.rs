//! Separated values after RFC 4180, with faults named by line: the reader says where a quote was opened, not only
//! that the file ended.
//!
//! A state machine of our own, because a lenient parser hides exactly what the report must show. Memory is bounded
//! by the largest record that is accepted.

use std::io::BufRead;
use std::path::PathBuf;

use super::records::{Record, RecordReader};
use super::{Problems, SourceError, SourceFile, columns_in_file, files};
use crate::contract::Table;

/// Larger records are not sales: a quote was left open, or the file is no CSV.
const MAX_RECORD: usize = 1 << 20;

/// Names of separators for the hint when a header does not split.
const OTHER_DELIMITERS: [(char, &str); 4] = [(';', ";"), ('\t', "\\t"), ('|', "|"), (',', ",")];

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within a quoted field: it ends the field, or is half of an escaped quote.
    QuoteSeen,
}

/// A CSV file after its header.
pub(super) struct Csv {
    input: Box<dyn BufRead + Send>,
    path: PathBuf,
    delimiter: u8,
    /// Line of the next byte, from 1.
    line: u64,
    width: usize,
    /// Position in the file of each declared column.
    wanted: Vec<usize>,
    /// All fields of the record under way: end offsets in `bytes`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

/// Opens a file and reads its header.
pub(super) fn open(table: &Table, file: &SourceFile, problems: &mut Problems) -> Result<Csv, SourceError> {
    let mut csv = Csv {
        input: files::text(file)?,
        path: file.path.clone(),
        delimiter: table.delimiter as u8,
        line: 1,
        width: 0,
        wanted: Vec::new(),
        ends: Vec::new(),
        bytes: Vec::new(),
    };
    csv.skip_bom(problems)?;
    if csv.scan()?.is_none() {
        return Err(SourceError::refused(&file.path, "has no header line"));
    }
    let header = csv.header()?;
    csv.width = header.len();
    if header.len() == 1
        && table.columns.len() > 1
        && let Some((_, shown)) = OTHER_DELIMITERS.iter().find(|(other, _)| {
            *other != table.delimiter && table.columns.keys().all(|c| header[0].split(*other).any(|h| h == c))
        })
    {
        let what =
            format!("its header does not split at {:?}, but at {shown:?}; set delimiter = {shown:?}", table.delimiter);
        return Err(SourceError::refused(&file.path, what));
    }
    csv.wanted = columns_in_file(table, file, &header, problems)?;
    Ok(csv)
}

impl Csv {
    fn skip_bom(&mut self, problems: &mut Problems) -> Result<(), SourceError> {
        let start = self.input.fill_buf().map_err(|source| files::read_error(&self.path, source))?;
        if start.starts_with(&[0xef, 0xbb, 0xbf]) {
            self.input.consume(3);
            problems.note(format!("{}: a UTF-8 byte order mark was skipped", self.path.display()));
        }
        Ok(())
    }

    fn header(&self) -> Result<Vec<String>, SourceError> {
        let mut from = 0;
        let mut names = Vec::with_capacity(self.ends.len());
        for end in &self.ends {
            let name = std::str::from_utf8(&self.bytes[from..*end])
                .map_err(|_| SourceError::refused(&self.path, "its header is not UTF-8; save the file as UTF-8"))?;
            names.push(name.trim().to_owned());
            from = *end;
        }
        Ok(names)
    }

    /// Reads one record into `bytes` and `ends`. Returns its first line and, if its quoting is wrong, how; `None` at
    /// the end of the file.
    fn scan(&mut self) -> Result<Option<(u64, Option<String>)>, SourceError> {
        self.bytes.clear();
        self.ends.clear();
        let mut scan = Scan { state: State::FieldStart, first_line: self.line, quote_line: self.line, fault: None };
        loop {
            let chunk = self.input.fill_buf().map_err(|source| files::read_error(&self.path, source))?;
            if chunk.is_empty() {
                return self.end_of_file(scan);
            }
            let (used, done) = scan.run(chunk, self.delimiter, &mut self.line, (&mut self.bytes, &mut self.ends));
            self.input.consume(used);
            if self.bytes.len() > MAX_RECORD {
                let quote = if matches!(scan.state, State::Quoted) {
                    format!(": the quote opened on line {} is not closed", scan.quote_line)
                } else {
                    String::new()
                };
                let what = format!("the record on line {} is larger than 1 MiB{quote}", scan.first_line);
                return Err(SourceError::refused(&self.path, what));
            }
            if done {
                if self.ends.len() == 1 && self.bytes.is_empty() && scan.fault.is_none() {
                    // A blank line is no record.
                    self.ends.clear();
                    scan = Scan { state: State::FieldStart, first_line: self.line, quote_line: self.line, fault: None };
                    continue;
                }
                return Ok(Some((scan.first_line, scan.fault)));
            }
        }
    }

    fn end_of_file(&mut self, scan: Scan) -> Result<Option<(u64, Option<String>)>, SourceError> {
        match scan.state {
            State::Quoted => {
                let what = format!("the quote opened on line {} is not closed when the file ends", scan.quote_line);
                Err(SourceError::refused(&self.path, what))
            }
            State::FieldStart if self.ends.is_empty() => Ok(None),
            _ => {
                self.ends.push(self.bytes.len());
                Ok(Some((scan.first_line, scan.fault)))
            }
        }
    }
}

/// Where the machine stands within a record.
struct Scan {
    state: State,
    first_line: u64,
    quote_line: u64,
    fault: Option<String>,
}

impl Scan {
    /// Eats bytes up to the end of the record or of the chunk; returns how many, and whether the record ended.
    fn run(
        &mut self,
        chunk: &[u8],
        delimiter: u8,
        line: &mut u64,
        (bytes, ends): (&mut Vec<u8>, &mut Vec<usize>),
    ) -> (usize, bool) {
        for (at, &byte) in chunk.iter().enumerate() {
            if byte == b'\n' {
                *line += 1;
            }
            if self.state == State::Quoted {
                match byte {
                    b'"' => self.state = State::QuoteSeen,
                    _ => bytes.push(byte),
                }
                continue;
            }
            match byte {
                b'\n' => {
                    if self.state == State::Plain && bytes.last() == Some(&b'\r') && ends.last() != Some(&bytes.len()) {
                        bytes.pop();
                    }
                    ends.push(bytes.len());
                    return (at + 1, true);
                }
                _ if byte == delimiter => {
                    ends.push(bytes.len());
                    self.state = State::FieldStart;
                }
                b'"' if self.state == State::FieldStart => {
                    (self.state, self.quote_line) = (State::Quoted, *line);
                }
                b'"' if self.state == State::QuoteSeen => {
                    bytes.push(b'"');
                    self.state = State::Quoted;
                }
                b'\r' if self.state == State::QuoteSeen => {}
                _ if self.state == State::QuoteSeen => {
                    self.fault.get_or_insert_with(|| format!("text after a closing quote in field {}", ends.len() + 1));
                    bytes.push(byte);
                    self.state = State::Plain;
                }
                _ => {
                    bytes.push(byte);
                    self.state = State::Plain;
                }
            }
            if bytes.len() > MAX_RECORD {
                return (at + 1, false);
            }
        }
        (chunk.len(), false)
    }
}

impl RecordReader for Csv {
    fn read(&mut self, record: &mut Record) -> Result<bool, SourceError> {
        let Some((line, fault)) = self.scan()? else { return Ok(false) };
        record.line = line;
        record.fault = fault.map(|message| ("quoting", message));
        if self.ends.len() != self.width {
            let message = format!("has {} fields, the header has {}", self.ends.len(), self.width);
            record.fault.get_or_insert(("fields", message));
            return Ok(true);
        }
        for &wanted in &self.wanted {
            let from = if wanted == 0 { 0 } else { self.ends[wanted - 1] };
            let start = record.text.len();
            record.text.extend_from_slice(&self.bytes[from..self.ends[wanted]]);
            record.fields.push(Some(start..record.text.len()));
        }
        Ok(true)
    }
}
