//! The feature table as Arrow batches: chunks of series, computed on all cores, in the panel's order.
//!
//! Called by the `features` kind and by tests. A chunk's rows hang on nothing but its own series, and
//! chunks are cut by rows, not by cores: the batches are the same on any number of threads.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, RecordBatch, StringBuilder};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine::task::{ErrorClass, TaskError};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tokio_util::sync::CancellationToken;

use crate::features::compute::series_features;
use crate::features::panel::{Panel, nothing_known};
use crate::features::spec::Spec;

/// Rows of a chunk, about: one batch of 60 features is then near 8 MB, so a wave of them on all cores
/// stays small beside the panel.
const CHUNK_ROWS: usize = 32_768;

/// The columns of `features.parquet`.
pub(super) fn table_schema(spec: &Spec) -> SchemaRef {
    let mut fields = vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("time", DataType::Date32, false),
        Field::new("demand", DataType::Float64, true),
        Field::new("closed", DataType::Boolean, false),
    ];
    fields.extend(spec.features.iter().map(|f| Field::new(&f.column.name, DataType::Float32, true)));
    Arc::new(Schema::new(fields))
}

/// Computes all features and hands the batches to `write`, in order; blocks.
///
/// # Errors
/// What `write` returns; [`TaskError::Canceled`] within one wave of the cancel.
pub(super) fn write_table(
    spec: &Spec,
    panel: &Panel,
    cancel: &CancellationToken,
    mut write: impl FnMut(&RecordBatch) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    let schema = table_schema(spec);
    let last_known = panel.last_known().ok_or_else(nothing_known)?;
    let chunks = chunks(panel);
    let wave = rayon::current_num_threads().max(1) * 2;
    for wave in chunks.chunks(wave) {
        if cancel.is_cancelled() {
            return Err(TaskError::Canceled);
        }
        let wave = wave.to_vec().into_par_iter();
        let batches: Vec<Result<RecordBatch, TaskError>> =
            wave.map(|series| chunk_batch(spec, (panel, last_known), &schema, series)).collect();
        for batch in batches {
            write(&batch?)?;
        }
    }
    Ok(())
}

/// Ranges of series with about [`CHUNK_ROWS`] rows each.
fn chunks(panel: &Panel) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for series in 0..panel.series.len() {
        if panel.offsets[series + 1] - panel.offsets[start] >= CHUNK_ROWS {
            chunks.push(start..series + 1);
            start = series + 1;
        }
    }
    if start < panel.series.len() {
        chunks.push(start..panel.series.len());
    }
    chunks
}

fn chunk_batch(
    spec: &Spec,
    (panel, last_known): (&Panel, i32),
    schema: &SchemaRef,
    series: Range<usize>,
) -> Result<RecordBatch, TaskError> {
    let rows = panel.offsets[series.start]..panel.offsets[series.end];
    let mut features = vec![Vec::with_capacity(rows.len()); spec.features.len()];
    let mut names = StringBuilder::with_capacity(rows.len(), rows.len() * 8);
    for index in series {
        panel.rows_of(index).for_each(|_| names.append_value(&panel.series[index]));
        series_features(spec, panel, last_known, index, &mut features);
    }
    let demand = panel.demand[rows.clone()].iter().map(|value| (!value.is_nan()).then_some(*value));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(names.finish()),
        Arc::new(Date32Array::from(panel.times[rows.clone()].to_vec())),
        Arc::new(demand.collect::<Float64Array>()),
        Arc::new(BooleanArray::from(panel.closed[rows].to_vec())),
    ];
    columns.extend(features.into_iter().map(|values| Arc::new(nullable(values)) as ArrayRef));
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|source| TaskError::permanent_from(ErrorClass::System, "the features are not a table", source))
}

/// NaN becomes null: readers outside know null.
fn nullable(values: Vec<f32>) -> Float32Array {
    let nulls = values
        .iter()
        .any(|value| value.is_nan())
        .then(|| NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |row| !values[row].is_nan())));
    Float32Array::new(values.into(), nulls)
}
