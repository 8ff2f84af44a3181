//! The feature table in memory: what `features` writes, as models read it.
//!
//! `train` and `evaluate` load one [`FeatureFrame`] from `features.parquet` and `features.json` and
//! hand slices of it to models. It computes nothing; it checks that the two files fit together.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float32Array, RecordBatch};
use arrow::datatypes::{Date32Type, Float32Type, Float64Type, Schema};
use arrow::error::ArrowError;
use engine::task::{ErrorClass, TaskError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::features::document::FeaturesDocument;

/// Columns of `features.parquet` before the features themselves.
pub const KEY_COLUMNS: [&str; 4] = ["series", "time", "demand", "closed"];

/// Rows that the Parquet reader hands over at once: enough to amortize its bookkeeping, few enough
/// that a batch stays in the cache while it is turned into rows.
const READ_BATCH_ROWS: usize = 8_192;

/// Features of all series: one row per series and period, sorted by series, then time, without holes.
#[derive(Debug, Clone)]
pub struct FeatureFrame {
    document: FeaturesDocument,
    series: Vec<String>,
    /// Series `i` is rows `offsets[i]..offsets[i + 1]`.
    offsets: Vec<usize>,
    /// Days since 1970-01-01.
    times: Vec<i32>,
    /// NaN = unknown.
    demand: Vec<f64>,
    closed: Vec<bool>,
    /// Row-major, `rows x document.columns`; NaN = missing. Shared, so that a booster reads it in place.
    values: Arc<Vec<f32>>,
}

impl FeatureFrame {
    /// Reads `features.parquet`; blocks.
    ///
    /// # Errors
    /// Permanent, if the table is not the one that the document describes.
    pub fn read(table: &Path, document: FeaturesDocument) -> Result<Self, TaskError> {
        let file = File::open(table)
            .map_err(|source| TaskError::transient_from(format!("can not open {}", table.display()), source))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(READ_BATCH_ROWS).build())
            .map_err(|source| unreadable(source.into()))?;
        Self::from_batches(document, reader)
    }

    /// Makes a frame from batches of the file's shape.
    ///
    /// # Errors
    /// Permanent, if the batches are not what the document describes.
    pub fn from_batches(
        document: FeaturesDocument,
        batches: impl IntoIterator<Item = Result<RecordBatch, ArrowError>>,
    ) -> Result<Self, TaskError> {
        let rows = usize::try_from(document.rows).unwrap_or(0);
        let mut values = Vec::with_capacity(rows * document.columns.len());
        let mut frame = Self {
            document,
            series: Vec::new(),
            offsets: Vec::new(),
            times: Vec::with_capacity(rows),
            demand: Vec::with_capacity(rows),
            closed: Vec::with_capacity(rows),
            values: Arc::default(),
        };
        for batch in batches {
            let batch = batch.map_err(unreadable)?;
            frame.check_schema(&batch.schema())?;
            frame.append_keys(&batch)?;
            append_values(&batch, &mut values)?;
        }
        frame.offsets.push(frame.times.len());
        frame.values = Arc::new(values);
        Ok(frame)
    }

    fn check_schema(&self, schema: &Schema) -> Result<(), TaskError> {
        let expected = KEY_COLUMNS.iter().copied().chain(self.document.columns.iter().map(|c| c.name.as_str()));
        if schema.fields().iter().map(|field| field.name().as_str()).eq(expected) {
            return Ok(());
        }
        Err(TaskError::permanent(
            ErrorClass::System,
            "features.parquet does not have the columns that features.json names; run the features task again",
        ))
    }

    fn append_keys(&mut self, batch: &RecordBatch) -> Result<(), TaskError> {
        let series = batch.column(0).as_string_opt::<i32>().ok_or_else(|| mistyped("series"))?;
        let times = batch.column(1).as_primitive_opt::<Date32Type>().ok_or_else(|| mistyped("time"))?;
        let demand = batch.column(2).as_primitive_opt::<Float64Type>().ok_or_else(|| mistyped("demand"))?;
        let closed = batch.column(3).as_boolean_opt().ok_or_else(|| mistyped("closed"))?;
        for row in 0..batch.num_rows() {
            let name = series.value(row);
            if self.series.last().map(String::as_str) != Some(name) {
                self.series.push(name.to_owned());
                self.offsets.push(self.times.len() + row);
            }
        }
        self.times.extend_from_slice(times.values());
        self.demand.extend(demand.iter().map(|value| value.unwrap_or(f64::NAN)));
        self.closed.extend(closed.iter().map(|value| value == Some(true)));
        Ok(())
    }

    /// What the columns are.
    pub fn document(&self) -> &FeaturesDocument {
        &self.document
    }

    /// The series' names, sorted.
    pub fn series(&self) -> &[String] {
        &self.series
    }

    /// Rows of series `index`.
    pub fn rows_of(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    /// Number of features.
    pub fn width(&self) -> usize {
        self.document.columns.len()
    }

    /// Days since 1970-01-01, one per row.
    pub fn times(&self) -> &[i32] {
        &self.times
    }

    /// Demand, one per row; NaN = unknown.
    pub fn demand(&self) -> &[f64] {
        &self.demand
    }

    /// Whether nothing can be sold, one per row.
    pub fn closed(&self) -> &[bool] {
        &self.closed
    }

    /// All features, row-major; NaN = missing.
    pub fn values(&self) -> &Arc<Vec<f32>> {
        &self.values
    }

    /// The features of one row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width()..(row + 1) * self.width()]
    }

    /// Rows of series `index` whose time is in `(after, until]`.
    pub fn rows_between(&self, index: usize, after: i32, until: i32) -> Range<usize> {
        let rows = self.rows_of(index);
        let times = &self.times[rows.clone()];
        let start = rows.start + times.partition_point(|time| *time <= after);
        start..rows.start + times.partition_point(|time| *time <= until)
    }
}

/// Appends the batch's features row by row; null becomes NaN.
fn append_values(batch: &RecordBatch, values: &mut Vec<f32>) -> Result<(), TaskError> {
    let (start, width) = (values.len(), batch.num_columns() - KEY_COLUMNS.len());
    values.resize(start + batch.num_rows() * width, f32::NAN);
    for at in 0..width {
        let array = batch.column(KEY_COLUMNS.len() + at);
        let column: &Float32Array = array
            .as_primitive_opt::<Float32Type>()
            .ok_or_else(|| mistyped(batch.schema().field(KEY_COLUMNS.len() + at).name()))?;
        let cells = values[start + at..].iter_mut().step_by(width);
        if column.null_count() == 0 {
            cells.zip(column.values()).for_each(|(cell, value)| *cell = *value);
        } else {
            cells.zip(column.iter()).for_each(|(cell, value)| *cell = value.unwrap_or(f32::NAN));
        }
    }
    Ok(())
}

fn unreadable(source: ArrowError) -> TaskError {
    TaskError::permanent_from(ErrorClass::System, "features.parquet is not readable Parquet", source)
}

fn mistyped(column: &str) -> TaskError {
    TaskError::permanent(
        ErrorClass::System,
        format!(
            "column {column} of features.parquet has another type than this version writes; run the features task again"
        ),
    )
}
