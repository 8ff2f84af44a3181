//! What the report needs of `backtest.parquet`: sums per day, origin, step and series, then a few series whole.
//!
//! Called by the task, where blocking is allowed. Two passes over the files, so that memory hangs on
//! the number of series and days and not on the number of rows. It judges nothing: the figures of
//! record are those of `metrics.json`; the sums here draw the pictures and stand in when evaluation failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int32Type, TimeUnit, TimestampSecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, NaiveDateTime};
use indexmap::{IndexMap, IndexSet};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::metrics::{Observation, Tally};

/// Why a backtest could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BacktestError {
    /// The file could not be opened.
    #[error("can not open {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
    /// Parquet refused.
    #[error("{path} is not readable Parquet")]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: ParquetError,
    },
    /// A column is missing or can not be read as the type that the report needs.
    #[error("column {column:?} of backtest.parquet is missing or is no {wanted}")]
    Column {
        /// Which column.
        column: &'static str,
        /// What it should be.
        wanted: DataType,
        /// What lay beneath, if the column is there.
        #[source]
        source: Option<ArrowError>,
    },
    /// Arrow refused.
    #[error("{path} ends in the middle of its rows")]
    Rows {
        /// Which file.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: ArrowError,
    },
}

/// Seconds since 1970-01-01 UTC, of a day or of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// `2011-10-14`, or `2011-10-14 05:00:00` when it is not midnight; both are dates to plotly.
    pub(super) fn text(self) -> String {
        let moment: NaiveDateTime =
            DateTime::from_timestamp(self.0, 0).map_or(NaiveDateTime::MIN, |moment| moment.naive_utc());
        let midnight = self.0.rem_euclid(86_400) == 0;
        moment.format(if midnight { "%Y-%m-%d" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
    }
}

/// Demand and forecast of all series at one moment, where the actual is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Total {
    /// Sum of actuals.
    pub(super) actual: f64,
    /// Sum of forecasts for the same rows.
    pub(super) point: f64,
}

/// One series over all windows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct SeriesSums {
    /// Sum of actuals.
    pub(super) demand: f64,
    /// The model whose rows the demand is counted on: every model forecasts the same periods.
    counted_on: Option<usize>,
    /// Periods with a known actual.
    pub(super) periods: u64,
    /// Those where it is 0.
    pub(super) zeros: u64,
    /// Figures per model, by the model's position.
    pub(super) scores: Vec<Tally>,
}

impl SeriesSums {
    /// Mean demand per period.
    pub(super) fn mean(&self) -> f64 {
        if self.periods == 0 { 0.0 } else { self.demand / self.periods as f64 }
    }

    /// Share of periods without demand.
    pub(super) fn zero_share(&self) -> f64 {
        if self.periods == 0 { 0.0 } else { self.zeros as f64 / self.periods as f64 }
    }
}

/// The sums of the first pass. Models are numbered in the order of the files.
#[derive(Debug, Clone, Default)]
pub(super) struct Backtest {
    /// Names, in the order of the files.
    pub(super) models: IndexSet<String>,
    /// Each origin: the last moment that the models saw.
    pub(super) origins: BTreeSet<Moment>,
    /// Per moment of a window: (origin, time) to a total per model.
    pub(super) totals: BTreeMap<(Moment, Moment), Vec<Option<Total>>>,
    /// Per model.
    overall: Vec<Tally>,
    /// Per model and origin.
    pub(super) by_origin: BTreeMap<(usize, Moment), Tally>,
    /// The longest step ahead.
    pub(super) horizon: i32,
    /// Per series, in order of appearance.
    pub(super) series: IndexMap<String, SeriesSums>,
}

/// One row of a backtest with a known series and model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Position in [`Backtest::models`].
    pub(super) model: usize,
    /// Position in [`Backtest::series`].
    pub(super) series: usize,
    /// The last moment that the model saw.
    pub(super) origin: Moment,
    /// The moment that was forecast.
    pub(super) time: Moment,
    /// Periods ahead, from 1.
    pub(super) step: i32,
    /// What happened, if it is known.
    pub(super) actual: Option<f64>,
    /// What was forecast.
    pub(super) point: f64,
    /// The series' scale for MASE.
    pub(super) scale: Option<f64>,
}

impl Row {
    /// What the metrics need of it.
    pub(super) fn observation(&self) -> Observation {
        Observation { actual: self.actual, point: self.point, scale: self.scale }
    }
}

impl Backtest {
    /// Reads all files once and adds them up.
    ///
    /// # Errors
    /// The first file or column that is not as it should be.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self, BacktestError> {
        let mut backtest = Self::default();
        for file in files {
            for batch in batches(file)? {
                backtest.add_batch(&columns(&batch?)?);
            }
        }
        Ok(backtest)
    }

    /// Reads the files again and hands each row to `visit`.
    ///
    /// # Errors
    /// As [`Backtest::read`].
    pub(super) fn visit(&self, files: &[PathBuf], mut visit: impl FnMut(&Row)) -> Result<(), BacktestError> {
        for file in files {
            for batch in batches(file)? {
                let columns = columns(&batch?)?;
                for at in 0..columns.rows {
                    let (model, series) = columns.names(at);
                    if let (Some(model), Some(series)) =
                        (self.models.get_index_of(model), self.series.get_index_of(series))
                    {
                        visit(&columns.row(at, model, series));
                    }
                }
            }
        }
        Ok(())
    }

    /// The figures of a model over everything.
    pub(super) fn overall(&self, model: usize) -> Tally {
        self.overall.get(model).copied().unwrap_or_default()
    }

    fn add_batch(&mut self, columns: &Columns) {
        for at in 0..columns.rows {
            let (model, series) = columns.names(at);
            let model = match self.models.get_index_of(model) {
                Some(known) => known,
                None => self.models.insert_full(model.to_owned()).0,
            };
            // A borrowed look-up first: an entry would make a string for each row.
            let series = match self.series.get_index_of(series) {
                Some(known) => known,
                None => self.series.insert_full(series.to_owned(), SeriesSums::default()).0,
            };
            self.add_row(&columns.row(at, model, series));
        }
    }

    fn add_row(&mut self, row: &Row) {
        self.origins.insert(row.origin);
        let seen = row.observation();
        at(&mut self.overall, row.model).add(seen);
        self.by_origin.entry((row.model, row.origin)).or_default().add(seen);
        self.horizon = self.horizon.max(row.step);
        let sums = &mut self.series[row.series];
        at(&mut sums.scores, row.model).add(seen);
        let Some(actual) = row.actual.filter(|actual| actual.is_finite() && row.point.is_finite()) else { return };
        let totals = self.totals.entry((row.origin, row.time)).or_default();
        let total = at(totals, row.model).get_or_insert_default();
        total.actual += actual;
        total.point += row.point;
        if *sums.counted_on.get_or_insert(row.model) == row.model {
            sums.demand += actual;
            sums.periods += 1;
            sums.zeros += u64::from(actual == 0.0);
        }
    }
}

/// The element at `position`, which grows the vector when it is new.
fn at<T: Default + Clone>(items: &mut Vec<T>, position: usize) -> &mut T {
    if items.len() <= position {
        items.resize(position + 1, T::default());
    }
    &mut items[position]
}

/// The columns of one batch in the types that the report needs.
struct Columns {
    rows: usize,
    model: ArrayRef,
    series: ArrayRef,
    origin: ArrayRef,
    time: ArrayRef,
    step: ArrayRef,
    actual: ArrayRef,
    point: ArrayRef,
    scale: ArrayRef,
}

impl Columns {
    fn names(&self, at: usize) -> (&str, &str) {
        (self.model.as_string::<i32>().value(at), self.series.as_string::<i32>().value(at))
    }

    fn row(&self, at: usize, model: usize, series: usize) -> Row {
        let number = |array: &ArrayRef| array.is_valid(at).then(|| array.as_primitive::<Float64Type>().value(at));
        let moment = |array: &ArrayRef| Moment(array.as_primitive::<TimestampSecondType>().value(at));
        Row {
            model,
            series,
            origin: moment(&self.origin),
            time: moment(&self.time),
            step: self.step.as_primitive::<Int32Type>().value(at),
            actual: number(&self.actual),
            point: number(&self.point).unwrap_or(f64::NAN),
            scale: number(&self.scale),
        }
    }
}

fn columns(batch: &RecordBatch) -> Result<Columns, BacktestError> {
    let column = |column: &'static str, wanted: DataType| {
        let found = batch.column_by_name(column).ok_or_else(|| BacktestError::Column {
            column,
            wanted: wanted.clone(),
            source: None,
        })?;
        cast(found, &wanted).map_err(|source| BacktestError::Column { column, wanted, source: Some(source) })
    };
    let seconds = || DataType::Timestamp(TimeUnit::Second, None);
    Ok(Columns {
        rows: batch.num_rows(),
        model: column("model", DataType::Utf8)?,
        series: column("series", DataType::Utf8)?,
        origin: column("origin", seconds())?,
        time: column("time", seconds())?,
        step: column("step", DataType::Int32)?,
        actual: column("actual", DataType::Float64)?,
        point: column("point", DataType::Float64)?,
        scale: column("train_scale", DataType::Float64)?,
    })
}

fn batches(path: &Path) -> Result<impl Iterator<Item = Result<RecordBatch, BacktestError>>, BacktestError> {
    let open = |source| BacktestError::Open { path: path.to_owned(), source };
    let parquet = |source| BacktestError::Parquet { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(parquet)?.build().map_err(parquet)?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| batch.map_err(|source| BacktestError::Rows { path: path.clone(), source })))
}
