//! Raw tables as typed batches: CSV, JSON lines and Parquet behind one reader, in the files' order.
//!
//! `ingest` calls [`TableReader`]; `validate` reads its panel elsewhere. A row that can not be read as the contract
//! declares it is left out and noted with its place in [`Problems`]; whether that fails the attempt is the caller's
//! choice. Memory is bounded by one batch, whatever the size of a file.

mod batch;
mod cells;
mod csv;
mod files;
mod jsonl;
mod parquet;
mod problems;
mod records;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

pub use files::{SourceFile, locate};
pub use problems::{Example, Problem, Problems, RowId};

use crate::contract::{Format, Table, UnknownColumns};

/// The column that carries each row's [`RowId`].
pub const ROW: &str = "__row";

/// Rows per batch: DataFusion's own batch size, so nothing is cut or joined on the way.
const BATCH_ROWS: usize = 8192;

/// Why a source can not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The data is not what the contract says.
    #[error("{path}: {what}")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// What, and how to mend it.
        what: String,
    },
    /// No expression of a contract can represent it.
    #[error("{path}: requires_custom_adapter: {reason}")]
    NeedsAdapter {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file could not be read; worth another try.
    #[error("can not read {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
}

impl SourceError {
    pub(crate) fn refused(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Refused { path: path.into(), what: what.into() }
    }
}

/// The schema that a table is read into: its declared columns, then [`ROW`].
pub fn schema_of(table: &Table) -> SchemaRef {
    let mut fields: Vec<Field> =
        table.columns.iter().map(|(name, column)| Field::new(name, column.cell.arrow(), true)).collect();
    fields.push(Field::new(ROW, DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

/// One open file of some format.
trait FileReader: Send {
    /// The next batch in [`schema_of`]'s shape; `None` at the end. Bad rows are noted and left out.
    fn next(&mut self, problems: &mut Problems) -> Result<Option<RecordBatch>, SourceError>;
}

/// Reads the files of one table, one after the other.
pub struct TableReader {
    table: Arc<Table>,
    waiting: VecDeque<(usize, SourceFile)>,
    open: Option<Box<dyn FileReader>>,
    rows: u64,
}

impl TableReader {
    /// A reader over `files`, as [`locate`] found them.
    pub fn new(table: Arc<Table>, files: Vec<SourceFile>) -> Self {
        Self { table, waiting: files.into_iter().enumerate().collect(), open: None, rows: 0 }
    }

    /// The next batch; `None` at the end.
    ///
    /// # Errors
    /// A file whose structure is broken, or that lacks a declared column. Single bad rows are only noted.
    pub fn next(&mut self, problems: &mut Problems) -> Result<Option<RecordBatch>, SourceError> {
        loop {
            if let Some(reader) = &mut self.open {
                if let Some(batch) = reader.next(problems)? {
                    self.rows += batch.num_rows() as u64;
                    return Ok(Some(batch));
                }
                self.open = None;
            }
            let Some((index, file)) = self.waiting.pop_front() else { return Ok(None) };
            problems.file(index, &file.shown);
            self.open = Some(open(&self.table, &file, index, problems)?);
        }
    }

    /// Good rows handed out so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

fn open(
    table: &Arc<Table>,
    file: &SourceFile,
    index: usize,
    problems: &mut Problems,
) -> Result<Box<dyn FileReader>, SourceError> {
    match files::format(table, file)? {
        Format::Csv => Ok(Box::new(records::Records::new(csv::open(table, file, problems)?, table, file, index))),
        Format::Jsonl => Ok(Box::new(records::Records::new(jsonl::open(table, file)?, table, file, index))),
        Format::Parquet => Ok(Box::new(parquet::ParquetFile::open(table, file, index, problems)?)),
    }
}

/// Compares a file's columns with the declared ones; returns the position of each declared column.
fn columns_in_file(
    table: &Table,
    file: &SourceFile,
    found: &[String],
    problems: &mut Problems,
) -> Result<Vec<usize>, SourceError> {
    if let Some(twice) = found.iter().enumerate().find_map(|(i, name)| found[..i].contains(name).then_some(name)) {
        let what = format!("two columns are called {twice:?}; rename one, a contract can not tell them apart");
        return Err(SourceError::refused(&file.path, what));
    }
    let missing: Vec<&str> = table.columns.keys().filter(|name| !found.contains(name)).map(String::as_str).collect();
    if !missing.is_empty() {
        let what = format!(
            "column{} {} not there; the file has {}. Correct the contract's columns, or bring the right file",
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", ") + if missing.len() == 1 { " is" } else { " are" },
            found.join(", "),
        );
        return Err(SourceError::refused(&file.path, what));
    }
    let unknown: Vec<&str> =
        found.iter().filter(|name| !table.columns.contains_key(*name)).map(String::as_str).collect();
    if !unknown.is_empty() && table.unknown_columns == UnknownColumns::Fail {
        let what = format!("column {} is not in the contract, and unknown_columns = \"fail\"", unknown.join(", "));
        return Err(SourceError::refused(&file.path, what));
    }
    unknown.iter().for_each(|name| problems.unknown_column(name));
    Ok(table.columns.keys().filter_map(|name| found.iter().position(|other| other == name)).collect())
}
