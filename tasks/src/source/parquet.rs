//! Parquet files as typed batches, refused early where they are cut, foreign or absurd.
//!
//! Columns are cast to the declared types; a value that does not survive its cast, and any NaN or infinity, makes
//! its row bad, as in text files.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{BATCH_ROWS, FileReader, Problems, RowId, SourceError, SourceFile, columns_in_file, files, schema_of};
use crate::contract::{CellType, Table};

/// A footer describes columns and row groups; one of this size is damage or an attack.
const MAX_FOOTER: u64 = 64 << 20;
/// Columns of a raw table.
const MAX_COLUMNS: usize = 10_000;
/// Rows that a byte of Parquet can hold by run-length encoding, generously: more is a false count.
const MAX_ROWS_PER_BYTE: u64 = 1 << 20;

/// An open file.
pub(super) struct ParquetFile {
    reader: ParquetRecordBatchReader,
    table: Arc<Table>,
    schema: SchemaRef,
    path: PathBuf,
    index: usize,
    rows: u64,
}

impl ParquetFile {
    pub(super) fn open(
        table: &Arc<Table>,
        file: &SourceFile,
        index: usize,
        problems: &mut Problems,
    ) -> Result<Self, SourceError> {
        frame(file)?;
        let damaged = |error: parquet::errors::ParquetError| damaged(&file.path, &error);
        let handle = File::open(&file.path).map_err(|source| SourceError::Io { path: file.path.clone(), source })?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(handle).map_err(damaged)?;
        limits(file, &builder)?;
        let found: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        let mut wanted = columns_in_file(table, file, &found, problems)?;
        for &at in &wanted {
            let field = builder.schema().field(at);
            if field.data_type().is_nested() && !matches!(field.data_type(), DataType::Dictionary(..)) {
                let reason = format!("column {} is nested ({}); flatten it before", field.name(), field.data_type());
                return Err(SourceError::NeedsAdapter { path: file.path.clone(), reason });
            }
        }
        wanted.sort_unstable();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(damaged)?;
        let (table, schema) = (Arc::clone(table), schema_of(table));
        Ok(Self { reader, table, schema, path: file.path.clone(), index, rows: 0 })
    }

    /// The declared columns in their types; `bad` gets the rows that do not fit.
    fn typed(
        &self,
        raw: &RecordBatch,
        bad: &mut [bool],
        problems: &mut Problems,
    ) -> Result<Vec<ArrayRef>, SourceError> {
        let mut arrays = Vec::with_capacity(self.table.columns.len());
        for (name, column) in &self.table.columns {
            let from = raw.column_by_name(name).expect("the projection has every declared column");
            let from = text_nulls(from, &self.table, column.cell);
            let options = CastOptions { safe: true, ..CastOptions::default() };
            let to = cast_with_options(&from, &column.cell.arrow(), &options).map_err(|_| {
                let what =
                    format!("column {name} is {} and can not be read as {}", from.data_type(), column.cell.word());
                SourceError::refused(&self.path, what)
            })?;
            for (row, bad) in bad.iter_mut().enumerate() {
                if *bad || !unfit(&from, &to, row) {
                    continue;
                }
                *bad = true;
                let code = if column.cell == CellType::Number { "not_finite" } else { column.cell.word() };
                let value = array_value_to_string(&from, row).unwrap_or_default();
                let id = RowId::new(self.index, self.rows + row as u64 + 1);
                problems.row(code, id, Some(name), Some(&value), &format!("is no {}", column.cell.word()));
            }
            arrays.push(to);
        }
        Ok(arrays)
    }
}

/// A value that is not there any more after the cast, or is not finite.
fn unfit(from: &ArrayRef, to: &ArrayRef, row: usize) -> bool {
    if to.is_null(row) {
        return from.is_valid(row);
    }
    matches!(to.data_type(), DataType::Float64) && !to.as_primitive::<Float64Type>().value(row).is_finite()
}

/// Declared null texts become nulls before a text column is cast to another type.
fn text_nulls(array: &ArrayRef, table: &Table, cell: CellType) -> ArrayRef {
    let (DataType::Utf8, false) = (array.data_type(), cell == CellType::Text) else { return Arc::clone(array) };
    let texts = array.as_string::<i32>().iter();
    let kept = texts.map(|text| text.filter(|text| !table.null_values.iter().any(|null| null == text.trim())));
    Arc::new(kept.collect::<arrow::array::StringArray>())
}

impl FileReader for ParquetFile {
    fn next(&mut self, problems: &mut Problems) -> Result<Option<RecordBatch>, SourceError> {
        let Some(raw) = self.reader.next() else {
            if self.rows == 0 {
                return Err(SourceError::refused(&self.path, "has no row of data"));
            }
            return Ok(None);
        };
        let raw = raw.map_err(|error| SourceError::refused(&self.path, format!("is damaged: {error}")))?;
        let mut bad = vec![false; raw.num_rows()];
        let mut arrays = self.typed(&raw, &mut bad, problems)?;
        let ids = (1..=raw.num_rows() as u64).map(|row| RowId::new(self.index, self.rows + row).0);
        arrays.push(Arc::new(Int64Array::from_iter_values(ids)));
        self.rows += raw.num_rows() as u64;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).expect("cast to the schema's types");
        if !bad.contains(&true) {
            return Ok(Some(batch));
        }
        let good: BooleanArray = bad.iter().map(|bad| Some(!bad)).collect();
        Ok(Some(filter_record_batch(&batch, &good).expect("one flag per row")))
    }
}

/// The outer frame: magic at both ends, a footer that fits.
fn frame(file: &SourceFile) -> Result<(), SourceError> {
    let refuse = |what: &str| Err(SourceError::refused(&file.path, what));
    let head = files::head(&file.path, 4)?;
    if head != b"PAR1" {
        return refuse("is no Parquet file (it does not start with PAR1); correct `format` or bring the right file");
    }
    if file.bytes < 12 {
        return refuse("is cut: shorter than the smallest Parquet file");
    }
    let tail = files::tail(&file.path, 8)?;
    if !tail.ends_with(b"PAR1") {
        return refuse("is cut or damaged: it does not end with PAR1; copy it again");
    }
    let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if footer > MAX_FOOTER || footer + 12 > file.bytes {
        return refuse("is damaged: its footer claims to be larger than it can be");
    }
    Ok(())
}

fn limits(file: &SourceFile, builder: &ParquetRecordBatchReaderBuilder<File>) -> Result<(), SourceError> {
    let columns = builder.schema().fields().len();
    if columns > MAX_COLUMNS {
        return Err(SourceError::refused(&file.path, format!("has {columns} columns; at most {MAX_COLUMNS} are read")));
    }
    let rows = builder.metadata().file_metadata().num_rows();
    let counted: i64 = builder.metadata().row_groups().iter().map(|group| group.num_rows()).sum();
    if rows < 0 || rows != counted || rows as u64 > file.bytes.saturating_mul(MAX_ROWS_PER_BYTE) {
        let what = format!("is damaged: its footer claims {rows} rows, its row groups {counted}");
        return Err(SourceError::refused(&file.path, what));
    }
    Ok(())
}

fn damaged(path: &std::path::Path, error: &parquet::errors::ParquetError) -> SourceError {
    SourceError::refused(path, format!("is damaged: {error}"))
}
