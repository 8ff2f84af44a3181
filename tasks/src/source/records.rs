//! Text records (CSV, JSON lines) into typed batches.
//!
//! The formats differ in how a record is found; what its fields mean, which texts are null and what makes a row bad
//! is the same for both and stands here.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::batch::BatchBuilder;
use super::cells::{self, Cell};
use super::{FileReader, Problems, RowId, SourceError, SourceFile};
use crate::contract::{CellType, Table};

/// One record: its declared fields, in the contract's order.
pub(super) struct Record {
    /// The line on which it starts, from 1.
    pub(super) line: u64,
    /// Each declared field's range in `text`; `None` = the record says that there is no value.
    pub(super) fields: Vec<Option<std::ops::Range<usize>>>,
    /// The fields' bytes.
    pub(super) text: Vec<u8>,
    /// A structural fault that makes the row bad: code and words.
    pub(super) fault: Option<(&'static str, String)>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self { line: 0, fields: Vec::new(), text: Vec::new(), fault: None }
    }

    pub(super) fn clear(&mut self) {
        self.fields.clear();
        self.text.clear();
        self.fault = None;
    }
}

/// A format's way to find records.
pub(super) trait RecordReader: Send {
    /// Reads the next record into `record`; false at the end.
    fn read(&mut self, record: &mut Record) -> Result<bool, SourceError>;

    /// Called once after the last record: what can only be said of the whole file.
    fn end(&mut self, _problems: &mut Problems) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A text file as batches.
pub(super) struct Records<R> {
    reader: R,
    table: Arc<Table>,
    file: SourceFile,
    index: usize,
    builder: BatchBuilder,
    record: Record,
    cells: Vec<Cell>,
    any: bool,
    ended: bool,
}

impl<R: RecordReader> Records<R> {
    pub(super) fn new(reader: R, table: &Arc<Table>, file: &SourceFile, index: usize) -> Self {
        Self {
            reader,
            table: Arc::clone(table),
            file: file.clone(),
            index,
            builder: BatchBuilder::new(table),
            record: Record::new(),
            cells: Vec::with_capacity(table.columns.len()),
            any: false,
            ended: false,
        }
    }

    /// Adds the current record to the batch, or notes why it is bad.
    fn take(&mut self, problems: &mut Problems) {
        let row = RowId::new(self.index, self.record.line);
        if let Some((code, message)) = &self.record.fault {
            problems.row(code, row, None, None, message);
            return;
        }
        let text = match std::str::from_utf8(&self.record.text) {
            Ok(text) => text,
            Err(error) => {
                let (column, value) = self.field_at(error.valid_up_to());
                let message = "is not UTF-8; save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8, if it is that)";
                problems.row("encoding", row, column.as_deref(), Some(&value), message);
                return;
            }
        };
        self.cells.clear();
        for ((name, column), range) in self.table.columns.iter().zip(&self.record.fields) {
            let value = range.clone().map(|range| &text[range]);
            let cell = match value {
                None => Ok(Cell::Null),
                Some(value) if is_null(&self.table, column.cell, value) => Ok(Cell::Null),
                Some(value) => cells::parse(value, column),
            };
            match cell {
                Ok(cell) => self.cells.push(cell),
                Err(bad) => return problems.row(bad.code, row, Some(name), value, &bad.message),
            }
        }
        let texts = self.record.fields.iter().map(|range| range.clone().map_or("", |range| &text[range]));
        self.builder.push(row, self.cells.iter().copied().zip(texts));
    }

    /// The column that holds byte `at`, and its value with the bad bytes marked.
    fn field_at(&self, at: usize) -> (Option<String>, String) {
        let found = self.record.fields.iter().position(|range| range.as_ref().is_some_and(|r| r.contains(&at)));
        let range = found.and_then(|i| self.record.fields[i].clone()).unwrap_or(0..self.record.text.len());
        let column = found.and_then(|i| self.table.columns.get_index(i)).map(|(name, _)| name.clone());
        (column, String::from_utf8_lossy(&self.record.text[range]).into_owned())
    }
}

/// Other types than text are also matched without surrounding spaces: ` NULL ` can not be a number anyway.
fn is_null(table: &Table, cell: CellType, value: &str) -> bool {
    let value = if cell == CellType::Text { value } else { value.trim() };
    table.null_values.iter().any(|null| null == value)
}

impl<R: RecordReader> FileReader for Records<R> {
    fn next(&mut self, problems: &mut Problems) -> Result<Option<RecordBatch>, SourceError> {
        while !self.ended && !self.builder.is_full() {
            self.record.clear();
            if self.reader.read(&mut self.record)? {
                self.any = true;
                self.take(problems);
            } else {
                self.ended = true;
                self.reader.end(problems)?;
            }
        }
        if self.ended && !self.any {
            return Err(SourceError::refused(&self.file.path, "has no row of data"));
        }
        Ok(self.builder.finish())
    }
}
