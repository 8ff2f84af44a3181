//! The backtests of all models side by side, checked to be about the same rows.
//!
//! `evaluate` adds the `backtest.parquet` of each train element (and a refitted champion's). Keys and
//! actuals are kept once, forecasts per model. Nothing is judged here.

use std::ops::Range;

use arrow::array::{Array, AsArray, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int32Type};
use arrow::error::ArrowError;
use chrono::{Days, NaiveDate};
use engine::task::{ErrorClass, TaskError};

/// What identifies a row and what came true: equal for all models, in this order.
const SHARED: [(&str, DataType); 6] = [
    ("origin", DataType::Date32),
    ("series", DataType::Utf8),
    ("time", DataType::Date32),
    ("step", DataType::Int32),
    ("actual", DataType::Float64),
    ("train_scale", DataType::Float64),
];

/// Why backtests can not be judged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BacktestError {
    /// A column is missing or of another type.
    #[error(
        "backtest.parquet has no column {name} of type {wanted}; it was written by another version, run train again"
    )]
    Column { name: &'static str, wanted: DataType },
    /// Arrow refused.
    #[error("backtest.parquet can not be read")]
    Arrow(#[from] ArrowError),
    /// Nothing in it.
    #[error("a backtest without rows can not be judged; use fewer windows or more history")]
    Empty,
    /// Two names in one file.
    #[error("one backtest.parquet holds the models {one} and {other}; train writes one model per element")]
    TwoModels { one: String, other: String },
    /// The same name twice.
    #[error("two train elements call their model {model}; give the matrix one element per model")]
    Duplicate { model: String },
    /// Not sorted, or a row twice.
    #[error("rows of {model} are not sorted by origin, series and time, or are there twice: {row}")]
    Unsorted { model: String, row: String },
    /// A forecast of what the model had seen.
    #[error("{model} forecasts a period that it had seen: {row}")]
    Leak { model: String, row: String },
    /// A null where none may be.
    #[error("column {column} of the backtest of {model} has nulls; every row needs one")]
    Null { model: String, column: &'static str },
    /// Other rows, or another truth.
    #[error(
        "{one} and {other} were not judged on the same rows: {detail}. Comparing them would be unfair; give both train elements the same horizon and windows"
    )]
    Mismatch { one: String, other: String, detail: String },
    /// More windows asked for than there are.
    #[error(
        "with.windows asks for {wanted} windows, but train made {made}; raise `windows` of train or lower this one"
    )]
    Windows { wanted: u32, made: usize },
}

impl From<BacktestError> for TaskError {
    fn from(error: BacktestError) -> Self {
        match error {
            BacktestError::Arrow(source) => {
                Self::permanent_from(ErrorClass::System, "backtest.parquet can not be read", source)
            }
            error => Self::permanent(ErrorClass::Model, error.to_string()),
        }
    }
}

/// A stretch of rows of one series at one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Position in [`Backtests::origins`].
    pub(crate) origin: usize,
    /// The rows.
    pub(crate) rows: Range<usize>,
}

/// Forecasts of several models for the same rows.
pub(crate) struct Backtests {
    shared: RecordBatch,
    points: Vec<(String, Float64Array)>,
}

impl Backtests {
    /// The first model's.
    pub(crate) fn new(batches: &[RecordBatch]) -> Result<Self, BacktestError> {
        let (model, shared, point) = split(batches)?;
        let backtests = Self { shared, points: vec![(model, point)] };
        backtests.check_order()?;
        Ok(backtests)
    }

    /// Another model's, which must be about the same rows; returns its name.
    pub(crate) fn add(&mut self, batches: &[RecordBatch]) -> Result<String, BacktestError> {
        let (model, point) = self.points_like(batches)?;
        if self.points.iter().any(|(other, _)| *other == model) {
            return Err(BacktestError::Duplicate { model });
        }
        self.points.push((model.clone(), point));
        Ok(model)
    }

    /// Name and forecasts of a model that is not to be added, about the same rows: the champion's.
    pub(crate) fn points_like(&self, batches: &[RecordBatch]) -> Result<(String, Float64Array), BacktestError> {
        let (model, shared, point) = split(batches)?;
        match difference(&self.shared, &shared) {
            None => Ok((model, point)),
            Some(detail) => Err(BacktestError::Mismatch { one: self.points[0].0.clone(), other: model, detail }),
        }
    }

    /// Leaves only the last `windows` origins.
    pub(crate) fn keep_last(&mut self, windows: u32) -> Result<(), BacktestError> {
        let origins = self.origins();
        let wanted = usize::try_from(windows).unwrap_or(usize::MAX);
        let Some(first) = origins.len().checked_sub(wanted).and_then(|at| origins.get(at)) else {
            return Err(BacktestError::Windows { wanted: windows, made: origins.len() });
        };
        let start = self.origin_column().partition_point(|origin| origin < first);
        let rows = self.rows() - start;
        self.shared = self.shared.slice(start, rows);
        for (_, point) in &mut self.points {
            *point = point.slice(start, rows);
        }
        Ok(())
    }

    /// Models and their forecasts, by name.
    pub(crate) fn models(&self) -> Vec<(&str, &Float64Array)> {
        let mut models: Vec<_> = self.points.iter().map(|(model, point)| (model.as_str(), point)).collect();
        models.sort_by_key(|(model, _)| *model);
        models
    }

    /// Rows of each model.
    pub(crate) fn rows(&self) -> usize {
        self.shared.num_rows()
    }

    /// Distinct origins in days since 1970-01-01, ascending.
    pub(crate) fn origins(&self) -> Vec<i32> {
        let mut origins = self.origin_column().to_vec();
        origins.dedup();
        origins
    }

    /// Stretches of one series at one origin, in order.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let (origins, series) = (self.origin_column(), self.series());
        let mut runs: Vec<Run> = Vec::new();
        let mut origin = 0;
        for row in 0..self.rows() {
            let new_origin = row > 0 && origins[row] != origins[row - 1];
            origin += usize::from(new_origin);
            match runs.last_mut() {
                Some(run) if !new_origin && series.value(row) == series.value(row - 1) => run.rows.end = row + 1,
                _ => runs.push(Run { origin, rows: row..row + 1 }),
            }
        }
        runs
    }

    /// The series of each row.
    pub(crate) fn series(&self) -> &StringArray {
        self.shared.column(1).as_string()
    }

    /// Days since 1970-01-01 of each row.
    pub(crate) fn times(&self) -> &[i32] {
        self.shared.column(2).as_primitive::<Date32Type>().values()
    }

    /// Periods after the origin of each row, from 1.
    pub(crate) fn steps(&self) -> &Int32Array {
        self.shared.column(3).as_primitive::<Int32Type>()
    }

    /// What came true.
    pub(crate) fn actuals(&self) -> &Float64Array {
        self.shared.column(4).as_primitive::<Float64Type>()
    }

    /// The MASE denominator of each row's series.
    pub(crate) fn scales(&self) -> &Float64Array {
        self.shared.column(5).as_primitive::<Float64Type>()
    }

    fn origin_column(&self) -> &[i32] {
        self.shared.column(0).as_primitive::<Date32Type>().values()
    }

    fn check_order(&self) -> Result<(), BacktestError> {
        let (origins, series, times, steps) = (self.origin_column(), self.series(), self.times(), self.steps());
        let key = |row: usize| (origins[row], series.value(row), times[row]);
        for row in 0..self.rows() {
            let model = || self.points[0].0.clone();
            if row > 0 && key(row) <= key(row - 1) {
                return Err(BacktestError::Unsorted { model: model(), row: describe(&self.shared, row) });
            }
            if times[row] <= origins[row] || steps.value(row) < 1 {
                return Err(BacktestError::Leak { model: model(), row: describe(&self.shared, row) });
            }
        }
        Ok(())
    }
}

/// The date that many days after 1970-01-01, as people write it.
pub(crate) fn date(days: i32) -> String {
    let distance = Days::new(u64::from(days.unsigned_abs()));
    let epoch = NaiveDate::default();
    let date = if days < 0 { epoch.checked_sub_days(distance) } else { epoch.checked_add_days(distance) };
    date.map_or_else(|| format!("day {days}"), |date| date.to_string())
}

/// Model, shared columns and forecasts of one file.
fn split(batches: &[RecordBatch]) -> Result<(String, RecordBatch, Float64Array), BacktestError> {
    let first = batches.first().ok_or(BacktestError::Empty)?;
    let batch = concat_batches(&first.schema(), batches)?;
    if batch.num_rows() == 0 {
        return Err(BacktestError::Empty);
    }
    let model = one_model(column(&batch, "model", &DataType::Utf8)?.as_string())?;
    let point = column(&batch, "point", &DataType::Float64)?.as_primitive::<Float64Type>().clone();
    let mut indices = Vec::with_capacity(SHARED.len());
    for (name, wanted) in SHARED {
        let nulls = column(&batch, name, &wanted)?.null_count();
        if nulls > 0 && !matches!(name, "actual" | "train_scale") {
            return Err(BacktestError::Null { model, column: name });
        }
        indices.push(batch.schema_ref().index_of(name)?);
    }
    if point.null_count() > 0 {
        return Err(BacktestError::Null { model, column: "point" });
    }
    Ok((model, batch.project(&indices)?, point))
}

fn column<'a>(batch: &'a RecordBatch, name: &'static str, wanted: &DataType) -> Result<&'a dyn Array, BacktestError> {
    match batch.column_by_name(name) {
        Some(column) if column.data_type() == wanted => Ok(column.as_ref()),
        _ => Err(BacktestError::Column { name, wanted: wanted.clone() }),
    }
}

fn one_model(models: &StringArray) -> Result<String, BacktestError> {
    let one = models.value(0);
    match models.iter().flatten().find(|other| *other != one) {
        Some(other) => Err(BacktestError::TwoModels { one: one.to_owned(), other: other.to_owned() }),
        None => Ok(one.to_owned()),
    }
}

/// The first difference of two sets of rows, if there is one.
fn difference(one: &RecordBatch, other: &RecordBatch) -> Option<String> {
    if one.columns() == other.columns() {
        return None;
    }
    let rows = one.num_rows().min(other.num_rows());
    let equal = |row: usize| one.slice(row, 1).columns() == other.slice(row, 1).columns();
    Some(match (0..rows).find(|row| !equal(*row)) {
        Some(row) => format!("row {row} is {} in one and {} in the other", describe(one, row), describe(other, row)),
        None => format!("one has {} rows and the other {}", one.num_rows(), other.num_rows()),
    })
}

/// A row for people.
fn describe(shared: &RecordBatch, row: usize) -> String {
    let number = |at: usize| {
        let column = shared.column(at).as_primitive::<Float64Type>();
        if column.is_null(row) { "unknown".to_owned() } else { column.value(row).to_string() }
    };
    let day = |at: usize| date(shared.column(at).as_primitive::<Date32Type>().value(row));
    format!(
        "(origin {}, series {}, time {}, step {}, actual {}, scale {})",
        day(0),
        shared.column(1).as_string::<i32>().value(row),
        day(2),
        shared.column(3).as_primitive::<Int32Type>().value(row),
        number(4),
        number(5)
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array};

    use super::*;

    /// A row of a backtest in a test: origin, series, step, actual, point; daily, scale 2.
    pub(crate) type Row = (i32, &'static str, i32, Option<f64>, f64);

    pub(crate) fn batch(model: &str, rows: &[Row]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 8] = [
            ("model", Arc::new(StringArray::from(vec![model; rows.len()]))),
            ("origin", Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Date32Array>())),
            ("series", Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>())),
            ("time", Arc::new(rows.iter().map(|row| Some(row.0 + row.2)).collect::<Date32Array>())),
            ("step", Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int32Array>())),
            ("actual", Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>())),
            ("point", Arc::new(rows.iter().map(|row| Some(row.4)).collect::<Float64Array>())),
            ("train_scale", Arc::new(rows.iter().map(|_| Some(2.0)).collect::<Float64Array>())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).expect("a batch")
    }

    const ROWS: [Row; 5] = [
        (0, "a", 1, Some(1.0), 2.0),
        (0, "a", 2, None, 2.0),
        (0, "b", 1, Some(3.0), 2.0),
        (2, "a", 1, Some(4.0), 2.0),
        (2, "b", 1, Some(5.0), 2.0),
    ];

    fn mismatch(rows: &[Row]) -> String {
        let mut backtests = Backtests::new(&[batch("one", &ROWS)]).expect("good rows");
        backtests.add(&[batch("two", rows)]).expect_err("other rows").to_string()
    }

    #[test]
    fn models_on_the_same_rows_are_read_side_by_side() {
        let halves = [batch("two", &ROWS[..3]), batch("two", &ROWS[3..])];
        let mut backtests = Backtests::new(&halves).expect("several batches are one backtest");
        backtests.add(&[batch("one", &ROWS)]).expect("the same rows");
        assert_eq!(backtests.models().iter().map(|(model, _)| *model).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(backtests.origins(), [0, 2]);
        let runs: Vec<_> = backtests.runs().into_iter().map(|run| (run.origin, run.rows)).collect();
        assert_eq!(runs, [(0, 0..2), (0, 2..3), (1, 3..4), (1, 4..5)]);
    }

    #[test]
    fn one_series_at_two_origins_is_two_runs() {
        let backtests = Backtests::new(&[batch("m", &[(0, "a", 1, None, 1.0), (1, "a", 1, None, 1.0)])]).expect("rows");
        assert_eq!(backtests.runs().len(), 2);
    }

    #[test]
    fn other_rows_are_refused_with_the_first_difference() {
        assert!(mismatch(&ROWS[..4]).contains("5 rows and the other 4"));
        let mut other = ROWS;
        other[4].3 = Some(5.5);
        let message = mismatch(&other);
        assert!(message.contains("row 4") && message.contains("1970-01-03") && message.contains("5.5"), "{message}");
        other = ROWS;
        other[1].3 = Some(0.0);
        assert!(mismatch(&other).contains("unknown"), "an unknown actual is no zero");
        assert!(mismatch(&ROWS[1..]).contains("row 0"));
    }

    #[test]
    fn forecasts_of_the_past_and_disorder_are_refused() {
        let leak = Backtests::new(&[batch("m", &[(5, "a", 0, Some(1.0), 1.0)])]);
        assert!(matches!(leak, Err(BacktestError::Leak { .. })));
        for rows in [[ROWS[0], ROWS[0]], [ROWS[2], ROWS[0]], [ROWS[3], ROWS[2]]] {
            assert!(matches!(Backtests::new(&[batch("m", &rows)]), Err(BacktestError::Unsorted { .. })), "{rows:?}");
        }
    }

    #[test]
    fn names_must_be_unique_and_single() {
        let mut backtests = Backtests::new(&[batch("m", &ROWS)]).expect("good rows");
        assert!(matches!(backtests.add(&[batch("m", &ROWS)]), Err(BacktestError::Duplicate { .. })));
        let mixed = [batch("m", &ROWS[..1]), batch("n", &ROWS[1..])];
        assert!(matches!(Backtests::new(&mixed), Err(BacktestError::TwoModels { .. })));
        assert!(matches!(Backtests::new(&[batch("m", &[])]), Err(BacktestError::Empty)));
        assert!(matches!(Backtests::new(&[]), Err(BacktestError::Empty)));
    }

    #[test]
    fn a_missing_column_is_named() {
        let whole = batch("m", &ROWS);
        for at in 0..whole.num_columns() {
            let kept: Vec<usize> = (0..whole.num_columns()).filter(|other| *other != at).collect();
            let message = Backtests::new(&[whole.project(&kept).expect("a projection")]).err().map(|e| e.to_string());
            let name = whole.schema_ref().field(at).name();
            assert!(message.as_ref().is_some_and(|message| message.contains(name)), "{name}: {message:?}");
        }
    }

    #[test]
    fn the_last_windows_can_be_kept_and_no_more_than_there_are() {
        let mut backtests = Backtests::new(&[batch("m", &ROWS)]).expect("good rows");
        assert!(matches!(backtests.keep_last(3), Err(BacktestError::Windows { wanted: 3, made: 2 })));
        assert!(backtests.keep_last(0).is_err());
        backtests.keep_last(2).expect("all");
        backtests.keep_last(1).expect("the last");
        assert_eq!((backtests.origins(), backtests.rows()), (vec![2], 2));
        assert_eq!(backtests.models()[0].1.len(), 2);
    }
}
