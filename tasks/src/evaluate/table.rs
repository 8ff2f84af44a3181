//! Parquet of `evaluate`: reading backtests, writing `metrics.parquet`.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;
use engine::task::{ErrorClass, TaskError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::evaluate::document::MetricRow;
use crate::metrics::Figures;

/// All batches of a Parquet file; blocks.
pub(crate) fn read_batches(path: &Path) -> Result<Vec<RecordBatch>, TaskError> {
    let file = File::open(path)
        .map_err(|source| TaskError::transient_from(format!("can not open {}", path.display()), source))?;
    let unreadable = |source: ArrowError| {
        TaskError::permanent_from(ErrorClass::System, "backtest.parquet is not readable Parquet", source)
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(|source| unreadable(source.into()))?;
    reader.collect::<Result<_, _>>().map_err(unreadable)
}

/// `metrics.parquet`: one row per model, origin and slice; an undefined figure is null.
pub(crate) fn metrics_batch(rows: &[MetricRow]) -> Result<RecordBatch, TaskError> {
    let text =
        |of: fn(&MetricRow) -> &str| Arc::new(rows.iter().map(|r| Some(of(r))).collect::<StringArray>()) as ArrayRef;
    let figure = |of: fn(&Figures) -> Option<f64>| {
        Arc::new(rows.iter().map(|row| of(&row.figures)).collect::<Float64Array>()) as ArrayRef
    };
    let count = |of: fn(&Figures) -> u64| {
        Arc::new(rows.iter().map(|row| Some(of(&row.figures))).collect::<UInt64Array>()) as ArrayRef
    };
    let columns = [
        ("model", text(|row| &row.model), false),
        ("origin", text(|row| &row.origin), false),
        ("slice", text(|row| &row.slice), false),
        ("wape", figure(|figures| figures.wape), true),
        ("smape", figure(|figures| figures.smape), true),
        ("mae", figure(|figures| figures.mae), true),
        ("rmse", figure(|figures| figures.rmse), true),
        ("mase", figure(|figures| figures.mase), true),
        ("bias", figure(|figures| figures.bias), true),
        ("rows", count(|figures| figures.rows), false),
        ("left_out", count(|figures| figures.left_out), false),
        ("unscaled", count(|figures| figures.unscaled), false),
        ("non_finite", count(|figures| figures.non_finite), false),
        ("demand", figure(|figures| figures.demand), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns)
        .map_err(|source| TaskError::permanent_from(ErrorClass::System, "the metrics are not a table", source))
}
