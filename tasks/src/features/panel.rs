//! The canonical panel in memory, column by column, on a grid without holes.
//!
//! `features` reads `panel.parquet` and `canonical_schema_snapshot.json` into a [`Panel`]. Rows that
//! validation took out come back as periods with unknown demand, so that a position in a series is a
//! point in time and a lag of 28 rows is a lag of 28 periods.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float64Type};
use arrow::error::ArrowError;
use chrono::NaiveDate;
use engine::task::{ErrorClass, TaskError};
use serde::Deserialize;

use crate::features::Frequency;

/// What a covariate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// The series' name.
    Series,
    /// The period.
    Time,
    /// What is forecast.
    Demand,
    /// Never changes within a series.
    Static,
    /// Unknown for the future.
    PastOnly,
    /// Known for the future.
    KnownFuture,
}

/// What `features` reads of `canonical_schema_snapshot.json`; the rest is the contract's business.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PanelSchema {
    /// How far apart the periods are.
    pub(super) frequency: Frequency,
    /// The panel's columns.
    pub(super) columns: Vec<PanelColumn>,
}

/// One column of the panel.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PanelColumn {
    pub(super) name: String,
    pub(super) role: Role,
}

/// A covariate, one value per row; NaN = missing.
#[derive(Debug, Clone)]
pub(super) struct Covariate {
    pub(super) name: String,
    pub(super) role: Role,
    /// Text values behind the codes 0, 1, 2 ..., sorted; `None` for numbers.
    pub(super) categories: Option<Vec<String>>,
    pub(super) values: Vec<f32>,
    /// What is usual: 0 for numbers, the most frequent code for text. Anything else is an event.
    pub(super) usual: f32,
}

impl Covariate {
    /// Whether it is a number that is 0 or 1, and both occur.
    pub(super) fn is_flag(&self) -> bool {
        let has = |wanted: f32| self.values.contains(&wanted);
        let known = || self.values.iter().filter(|value| !value.is_nan());
        self.categories.is_none() && known().all(|value| *value == 0.0 || *value == 1.0) && has(0.0) && has(1.0)
    }
}

/// The flag for periods on which nothing can be sold.
pub(super) const CLOSED: &str = "closed";

/// All series on their grids, sorted by series, then time.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(super) frequency: Frequency,
    pub(super) series: Vec<String>,
    /// Series `i` is rows `offsets[i]..offsets[i + 1]`.
    pub(super) offsets: Vec<usize>,
    /// Days since 1970-01-01.
    pub(super) times: Vec<i32>,
    /// NaN = unknown.
    pub(crate) demand: Vec<f64>,
    /// All `false` if the contract names no closed days.
    pub(crate) closed: Vec<bool>,
    /// Without `closed`.
    pub(super) covariates: Vec<Covariate>,
}

impl Panel {
    /// Reads the batches of `panel.parquet`.
    ///
    /// # Errors
    /// Permanent, if the panel lacks a column of its schema, is not sorted, or is off its grid.
    pub(super) fn read(
        schema: &PanelSchema,
        batches: impl IntoIterator<Item = Result<RecordBatch, ArrowError>>,
    ) -> Result<Self, TaskError> {
        let mut reader = PanelReader::new(schema);
        for batch in batches {
            let batch = batch.map_err(|source| {
                TaskError::permanent_from(ErrorClass::System, "panel.parquet is not readable Parquet", source)
            })?;
            reader.append(&batch)?;
        }
        reader.finish()
    }

    /// Rows of series `index`.
    pub(super) fn rows_of(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// The last period with known demand, in days since 1970-01-01. Closed periods do not count: those
    /// of a calendar reach into the future.
    pub(super) fn last_known(&self) -> Option<i32> {
        let known = self.times.iter().zip(&self.demand).filter(|(_, demand)| !demand.is_nan());
        known.map(|(time, _)| *time).max()
    }

    /// First period, and [`Self::last_known`].
    pub(super) fn span(&self) -> Option<(NaiveDate, NaiveDate)> {
        let date = |days: i32| NaiveDate::from_num_days_from_ce_opt(days + EPOCH_DAYS_FROM_CE);
        let first = self.times.iter().min()?;
        Some((date(*first)?, date(self.last_known()?)?))
    }
}

/// There is no origin to forecast from.
pub(super) fn nothing_known() -> TaskError {
    TaskError::permanent(ErrorClass::Validation, "no period of the panel has known demand; look at its contract")
}

/// 1970-01-01 counted in days from 0001-01-01.
pub(super) const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// A covariate being read: codes in order of appearance until all text is known.
struct CovariateReader {
    name: String,
    role: Role,
    codes: BTreeMap<String, u32>,
    is_text: bool,
    values: Vec<f32>,
}

struct PanelReader {
    step: i32,
    covariates: Vec<CovariateReader>,
    panel: Panel,
}

impl PanelReader {
    fn new(schema: &PanelSchema) -> Self {
        let covariates = schema
            .columns
            .iter()
            .filter(|column| matches!(column.role, Role::Static | Role::PastOnly | Role::KnownFuture))
            .filter(|column| column.name != CLOSED)
            .map(|column| CovariateReader {
                name: column.name.clone(),
                role: column.role,
                codes: BTreeMap::new(),
                is_text: false,
                values: Vec::new(),
            })
            .collect();
        let panel = Panel {
            frequency: schema.frequency,
            series: Vec::new(),
            offsets: Vec::new(),
            times: Vec::new(),
            demand: Vec::new(),
            closed: Vec::new(),
            covariates: Vec::new(),
        };
        Self { step: schema.frequency.step_days(), covariates, panel }
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<(), TaskError> {
        let series = typed(batch, "series", &DataType::Utf8)?;
        let times = typed(batch, "time", &DataType::Date32)?;
        let demand = typed(batch, "demand", &DataType::Float64)?;
        let closed = batch.column_by_name(CLOSED).map(|_| typed(batch, CLOSED, &DataType::Boolean)).transpose()?;
        let (series, times) = (series.as_string::<i32>(), times.as_primitive::<Date32Type>());
        let sources = self.grid_rows(series, times.values())?;
        let demand = demand.as_primitive::<Float64Type>();
        self.panel.demand.extend(sources.iter().map(|row| match row {
            Some(row) if demand.is_valid(*row) => demand.value(*row),
            _ => f64::NAN,
        }));
        let is_closed = |row: usize| closed.as_ref().is_some_and(|c| c.is_valid(row) && c.as_boolean().value(row));
        self.panel.closed.extend(sources.iter().map(|row| row.is_some_and(is_closed)));
        for covariate in &mut self.covariates {
            covariate.append(batch, &sources)?;
        }
        Ok(())
    }

    /// Extends the grid by the batch's rows; `None` stands for a period that the panel lacks.
    fn grid_rows(
        &mut self,
        series: &arrow::array::StringArray,
        times: &[i32],
    ) -> Result<Vec<Option<usize>>, TaskError> {
        let mut sources = Vec::with_capacity(times.len());
        for (row, time) in times.iter().enumerate() {
            let name = series.value(row);
            match self.panel.series.last().map(|last| name.cmp(last)) {
                Some(std::cmp::Ordering::Equal) => {
                    let mut next = self.panel.times.last().map_or(*time, |last| last + self.step);
                    if next > *time || (time - next) % self.step != 0 {
                        return Err(off_grid(name, *time));
                    }
                    while next < *time {
                        self.panel.times.push(next);
                        sources.push(None);
                        next += self.step;
                    }
                }
                Some(std::cmp::Ordering::Less) => return Err(off_grid(name, *time)),
                _ => {
                    self.panel.series.push(name.to_owned());
                    self.panel.offsets.push(self.panel.times.len());
                }
            }
            self.panel.times.push(*time);
            sources.push(Some(row));
        }
        Ok(sources)
    }

    fn finish(mut self) -> Result<Panel, TaskError> {
        if self.panel.times.is_empty() {
            return Err(TaskError::permanent(
                ErrorClass::Validation,
                "panel.parquet has no rows, so there is nothing to make features of; look at what the contract and the validation left out",
            ));
        }
        self.panel.offsets.push(self.panel.times.len());
        self.panel.covariates = self.covariates.into_iter().map(CovariateReader::finish).collect();
        let Panel { offsets, covariates, .. } = &mut self.panel;
        covariates.iter_mut().filter(|c| c.role == Role::Static).for_each(|c| fill_static(c, offsets));
        Ok(self.panel)
    }
}

impl CovariateReader {
    fn append(&mut self, batch: &RecordBatch, sources: &[Option<usize>]) -> Result<(), TaskError> {
        let array = batch.column_by_name(&self.name).ok_or_else(|| lacks(&self.name))?;
        if !matches!(
            array.data_type(),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..)
        ) {
            let numbers = typed(batch, &self.name, &DataType::Float64)?;
            let numbers = numbers.as_primitive::<Float64Type>();
            self.values.extend(sources.iter().map(|row| match row {
                Some(row) if numbers.is_valid(*row) => numbers.value(*row) as f32,
                _ => f32::NAN,
            }));
            return Ok(());
        }
        self.is_text = true;
        let texts = typed(batch, &self.name, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        for row in sources {
            let text = row.filter(|row| texts.is_valid(*row)).map(|row| texts.value(row));
            let code = text.map(|text| self.code(text));
            self.values.push(code.map_or(f32::NAN, |code| code as f32));
        }
        Ok(())
    }

    fn code(&mut self, text: &str) -> u32 {
        if let Some(code) = self.codes.get(text) {
            return *code;
        }
        let code = u32::try_from(self.codes.len()).unwrap_or(u32::MAX);
        self.codes.insert(text.to_owned(), code);
        code
    }

    /// Replaces codes by the ranks of their text, which do not hang on the order of rows.
    fn finish(mut self) -> Covariate {
        let mut ranks = vec![0.0_f32; self.codes.len()];
        for (rank, code) in self.codes.values().enumerate() {
            ranks[*code as usize] = rank as f32;
        }
        if self.is_text {
            self.values.iter_mut().filter(|value| !value.is_nan()).for_each(|value| *value = ranks[*value as usize]);
        }
        let usual = if self.is_text { most_frequent(&self.values, self.codes.len()) } else { 0.0 };
        let categories = self.is_text.then(|| self.codes.into_keys().collect());
        Covariate { name: self.name, role: self.role, categories, values: self.values, usual }
    }
}

/// The code that occurs most; the smallest of several.
fn most_frequent(codes: &[f32], count: usize) -> f32 {
    let mut counts = vec![0_u64; count];
    codes.iter().filter(|code| !code.is_nan()).for_each(|code| counts[*code as usize] += 1);
    let most = counts.iter().max().copied().unwrap_or(0);
    counts.iter().position(|count| *count == most).unwrap_or(0) as f32
}

/// A static value holds for every period of its series, also for those that the panel lacks.
fn fill_static(covariate: &mut Covariate, offsets: &[usize]) {
    for rows in offsets.windows(2) {
        let values = &mut covariate.values[rows[0]..rows[1]];
        let known = values.iter().copied().rfind(|value| !value.is_nan()).unwrap_or(f32::NAN);
        values.fill(known);
    }
}

/// The batch's column `name`, cast to what this module reads.
fn typed(batch: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef, TaskError> {
    let array = batch.column_by_name(name).ok_or_else(|| lacks(name))?;
    cast(array, to).map_err(|source| {
        TaskError::permanent_from(
            ErrorClass::System,
            format!("column {name} of panel.parquet can not be read as {to}"),
            source,
        )
    })
}

fn lacks(column: &str) -> TaskError {
    TaskError::permanent(
        ErrorClass::System,
        format!("panel.parquet has no column {column}, which canonical_schema_snapshot.json names; ingest it again"),
    )
}

fn off_grid(series: &str, time: i32) -> TaskError {
    TaskError::permanent(
        ErrorClass::Validation,
        format!(
            "panel.parquet is not one row per period, sorted by series and time: look at series {series:?}, {time} days after 1970-01-01"
        ),
    )
}

#[cfg(test)]
mod tests {
    use arrow::compute::{concat_batches, take_record_batch};

    use super::*;
    use crate::features::fixture::{FIRST_DAY, panel_batch, schema_json};

    fn read(batch: RecordBatch) -> Result<Panel, TaskError> {
        Panel::read(&serde_json::from_value(schema_json()).expect("a schema"), [Ok(batch)])
    }

    fn rows(batch: &RecordBatch, rows: impl IntoIterator<Item = u64>) -> RecordBatch {
        let rows: arrow::array::UInt64Array = rows.into_iter().map(Some).collect();
        take_record_batch(batch, &rows).expect("rows that exist")
    }

    #[test]
    fn rows_that_validation_took_out_come_back_unknown() {
        let whole = panel_batch(2, 60);
        let panel = read(rows(&whole, (0..120).filter(|row| !(10..13).contains(row)))).expect("a panel");
        assert_eq!(panel.rows_of(0).len(), 60);
        assert_eq!(panel.times[11], FIRST_DAY + 11);
        assert!(panel.demand[10..13].iter().all(|value| value.is_nan()));
        assert!(panel.covariates[0].values[10..13].iter().all(|value| value.is_nan()), "a promotion is not guessed");
        let kind = &panel.covariates[4];
        assert_eq!(kind.categories.as_deref(), Some(&["city".to_owned(), "corner".to_owned()][..]));
        assert!(kind.values[..60].iter().all(|value| *value == 1.0), "a static value holds everywhere");
    }

    #[test]
    fn the_order_of_batches_changes_nothing_but_must_be_the_panels() {
        let whole = panel_batch(2, 60);
        let schema = serde_json::from_value(schema_json()).expect("a schema");
        let parts = [whole.slice(0, 37), whole.slice(37, 83)].map(Ok);
        let split = Panel::read(&schema, parts).expect("a panel");
        assert_eq!(format!("{split:?}"), format!("{:?}", read(whole.clone()).expect("a panel")));
        let swapped = concat_batches(&whole.schema(), [&whole.slice(60, 60), &whole.slice(0, 60)]).expect("rows");
        let error = read(swapped).expect_err("series out of order");
        assert!(error.to_string().contains("\"s000\""), "{error}");
        let twice = rows(&whole, [0, 1, 1, 2]);
        assert!(read(twice).is_err(), "a period twice");
    }

    #[test]
    fn flags_are_numbers_of_which_both_values_occur() {
        let panel = read(panel_batch(2, 60)).expect("a panel");
        let flags: Vec<bool> = panel.covariates.iter().map(Covariate::is_flag).collect();
        assert_eq!(flags, [true, false, false, false, false]);
        assert_eq!(panel.covariates[1].usual, 1.0, "easter = 0, none = 1");
    }

    #[test]
    fn an_empty_panel_is_refused() {
        assert!(read(panel_batch(1, 0)).is_err());
    }
}
