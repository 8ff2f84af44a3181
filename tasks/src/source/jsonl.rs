//! JSON lines: one object per line.
//!
//! Keys that are absent are null, as JSON writers leave nulls out; a key that no row of the file has is a missing
//! column. Nested values fit no column.

use std::io::{BufRead, Read};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::records::{Record, RecordReader};
use super::{Problems, SourceError, SourceFile, columns_in_file, files};
use crate::contract::Table;

/// As for CSV: a longer line is no record of sales.
const MAX_LINE: u64 = 1 << 20;

/// An open file.
pub(super) struct JsonLines {
    input: Box<dyn BufRead + Send>,
    table: Arc<Table>,
    file: SourceFile,
    line: u64,
    buffer: Vec<u8>,
    /// All keys seen, in order of appearance.
    keys: Vec<String>,
}

pub(super) fn open(table: &Arc<Table>, file: &SourceFile) -> Result<JsonLines, SourceError> {
    Ok(JsonLines {
        input: files::text(file)?,
        table: Arc::clone(table),
        file: file.clone(),
        line: 0,
        buffer: Vec::new(),
        keys: Vec::new(),
    })
}

impl JsonLines {
    /// The next line that is not blank; false at the end.
    fn next_line(&mut self) -> Result<bool, SourceError> {
        loop {
            self.buffer.clear();
            let mut limited = (&mut self.input).take(MAX_LINE);
            let read = limited
                .read_until(b'\n', &mut self.buffer)
                .map_err(|source| files::read_error(&self.file.path, source))?;
            self.line += 1;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 == MAX_LINE && self.buffer.last() != Some(&b'\n') {
                let what = format!("line {} is longer than 1 MiB; write one object per line", self.line);
                return Err(SourceError::refused(&self.file.path, what));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn fields(&mut self, object: &Map<String, Value>, record: &mut Record) {
        for key in object.keys().filter(|key| !self.keys.contains(key)).collect::<Vec<_>>() {
            self.keys.push(key.clone());
        }
        for name in self.table.columns.keys() {
            let start = record.text.len();
            match object.get(name) {
                None | Some(Value::Null) => {
                    record.fields.push(None);
                    continue;
                }
                Some(Value::String(text)) => record.text.extend_from_slice(text.as_bytes()),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                    record.text.extend_from_slice(value.to_string().as_bytes());
                }
                Some(Value::Array(_) | Value::Object(_)) => {
                    record.fault = Some(("nested", format!("{name} is nested; a column holds one value")));
                }
            }
            record.fields.push(Some(start..record.text.len()));
        }
    }
}

impl RecordReader for JsonLines {
    fn read(&mut self, record: &mut Record) -> Result<bool, SourceError> {
        if !self.next_line()? {
            return Ok(false);
        }
        record.line = self.line;
        match serde_json::from_slice::<Value>(&self.buffer) {
            Ok(Value::Object(object)) => self.fields(&object, record),
            Ok(_) => record.fault = Some(("json", "is no JSON object".into())),
            Err(error) => record.fault = Some(("json", format!("is no JSON: {error}"))),
        }
        Ok(true)
    }

    fn end(&mut self, problems: &mut Problems) -> Result<(), SourceError> {
        // A file without one good row is reported as that, not as one that lacks all columns.
        if self.keys.is_empty() {
            return Ok(());
        }
        columns_in_file(&self.table, &self.file, &self.keys, problems).map(|_| ())
    }
}
