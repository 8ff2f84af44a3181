//! Completes each series to a row per period and applies the policies: the last stage before the panel is written.
//!
//! Rows come sorted by series and time, so one series at a time is enough, whatever the size of the panel.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray, UInt32Array,
};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{DataType, Date32Type, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use indexmap::IndexMap;

use super::policy::{self, Decisions, Nulls, Origin};
use super::query::{CLOSED, COPIES, FIRST_ROW, LAST_ROW, ROWS, UNMATCHED, unmatched_is_fatal};
use super::{IngestError, screen};
use crate::contract::{
    Contract, Duplicates, ExactDuplicates, Missing, Negative, OutlierAction, PanelType, Policies, Role,
};
use crate::source::{Problems, RowId};

/// Series named in the report among those left out.
const MAX_NAMED: usize = 20;

/// What the grid decided, for the report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// Policies on demand.
    pub(crate) decisions: Decisions,
    /// Nulls of each covariate.
    pub(crate) nulls: IndexMap<String, Nulls>,
    /// Static columns with more than one value within a series; the first counts.
    pub(crate) static_conflicts: IndexMap<String, u64>,
    /// Source rows that a side table does not know.
    pub(crate) unmatched: IndexMap<String, u64>,
    /// Source rows behind the panel.
    pub(crate) rows_kept: u64,
    /// Series in the panel.
    pub(crate) series: u64,
    /// Series left out by the contract's rule, and the first of their names.
    pub(crate) series_excluded: u64,
    /// ... by name, the first [`MAX_NAMED`].
    pub(crate) excluded: Vec<String>,
    /// Rows of the panel.
    pub(crate) panel_rows: u64,
    /// First and last period of the panel, in days since 1970-01-01.
    pub(crate) range: Option<(i32, i32)>,
    /// Rows that broke a policy that says `fail`, and examples of duplicates and negatives.
    pub(crate) problems: Problems,
}

/// How a panel column is filled.
struct PanelColumn {
    name: String,
    role: Role,
    missing: Missing,
    kind: PanelType,
    grid: Option<Arc<dyn PhysicalExpr>>,
}

/// The grid under way.
pub(crate) struct Grid {
    policies: Policies,
    min_periods: usize,
    min_demand_periods: u64,
    columns: Vec<PanelColumn>,
    closed: Option<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    pending: Option<RecordBatch>,
    /// What was decided so far.
    pub(crate) account: Account,
}

/// One series' place in a chunk of rows, and on the grid.
struct Span {
    /// First row in the chunk.
    start: usize,
    /// Length on the grid.
    periods: usize,
}

/// The rows of whole series laid out on the grid.
#[derive(Default)]
struct Layout {
    spans: Vec<Span>,
    /// For each grid row the row in the chunk that it comes from.
    rows: Vec<Option<u32>>,
    /// For each grid row its series' first row in the chunk.
    series: Vec<u32>,
    times: Vec<i32>,
    origins: Vec<Origin>,
}

impl Grid {
    /// Compiles what is evaluated on the grid.
    pub(super) fn new(session: &SessionContext, contract: &Contract) -> Result<Self, IngestError> {
        let keys: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("series", DataType::Utf8, false),
            Field::new("time", DataType::Date32, false),
        ]));
        let mut problems = Vec::new();
        let mut compile = |at: String, sql: &str| {
            let compiled = screen::physical(session, &keys, sql);
            compiled.map_err(|error| problems.push(format!("{at}: {}", screen::first_line(&error)))).ok()
        };
        let mut columns = Vec::new();
        for (name, column) in contract.covariates() {
            let grid = column.grid.as_deref().and_then(|sql| compile(format!("columns.{name}.grid"), sql));
            let (role, missing) = (column.role.unwrap_or(Role::PastOnly), contract.missing(column));
            columns.push(PanelColumn { name: name.clone(), role, missing, kind: column.kind, grid });
        }
        let closed = contract.policies.closed.as_ref().and_then(|closed| closed.grid.as_deref());
        let closed = closed.and_then(|sql| compile("policies.closed.grid".into(), sql));
        if !problems.is_empty() {
            return Err(IngestError::Contract(problems));
        }
        Ok(Self {
            schema: panel_schema(contract, &columns),
            policies: contract.policies.clone(),
            min_periods: contract.series.min_periods as usize,
            min_demand_periods: u64::from(contract.series.min_demand_periods),
            columns,
            closed,
            pending: None,
            account: Account::default(),
        })
    }

    /// The panel's schema.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Adds sorted rows; returns the panel rows of the series that are complete. `last` is the panel's last period.
    pub(super) fn push(&mut self, batch: &RecordBatch, last: Option<i32>) -> Result<Option<RecordBatch>, IngestError> {
        let whole = match self.pending.take() {
            Some(pending) => concat_batches(batch.schema_ref(), [&pending, batch]).map_err(plan_error)?,
            None => batch.clone(),
        };
        let series = whole["series"].as_string::<i32>();
        let rows = whole.num_rows();
        let Some(newest) = rows.checked_sub(1).map(|at| series.value(at)) else { return Ok(None) };
        let open = (0..rows).rev().find(|&row| series.value(row) != newest).map_or(0, |row| row + 1);
        self.pending = Some(whole.slice(open, rows - open));
        let complete = whole.slice(0, open);
        self.complete(&complete, last)
    }

    /// The panel rows of the last series.
    pub(super) fn finish(&mut self, last: Option<i32>) -> Result<Option<RecordBatch>, IngestError> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        self.complete(&pending, last)
    }

    fn complete(&mut self, rows: &RecordBatch, last: Option<i32>) -> Result<Option<RecordBatch>, IngestError> {
        let Some(last) = last.filter(|_| rows.num_rows() > 0) else { return Ok(None) };
        self.tally(rows);
        let layout = self.layout(rows, last);
        if layout.times.is_empty() {
            return Ok(None);
        }
        let panel = self.panel(rows, &layout).map_err(plan_error)?;
        self.account.series += layout.spans.len() as u64;
        self.account.panel_rows += panel.num_rows() as u64;
        let first = layout.times.iter().min().copied().unwrap_or(last);
        let (low, _) = self.account.range.unwrap_or((first, last));
        self.account.range = Some((low.min(first), last));
        Ok(Some(panel))
    }

    /// Counts what the rows carry beside their values.
    fn tally(&mut self, rows: &RecordBatch) {
        let sum = |name: &str| -> u64 { arrow::compute::sum(integers(rows, name)).unwrap_or(0).max(0) as u64 };
        self.account.rows_kept += sum(ROWS);
        self.account.decisions.exact_duplicates += sum(&format!("{COPIES}_out"));
        let several = integers(rows, ROWS).values().iter().filter(|count| **count > 1).count();
        self.account.decisions.aggregated += several as u64;
        for field in rows.schema_ref().fields() {
            if let Some(side) = field.name().strip_prefix(UNMATCHED) {
                *self.account.unmatched.entry(side.to_owned()).or_default() += sum(field.name());
            }
        }
        if self.policies.exact_duplicates == ExactDuplicates::Fail {
            let copies = integers(rows, &format!("{COPIES}_out"));
            for row in (0..rows.num_rows()).filter(|&row| copies.value(row) > 0) {
                self.note(
                    rows,
                    row,
                    "exact_duplicate",
                    "rows of this series and period equal each other in every column",
                );
            }
        }
    }

    fn note(&mut self, rows: &RecordBatch, row: usize, code: &'static str, what: &str) {
        let series = rows["series"].as_string::<i32>().value(row);
        let day = shown_day(rows["time"].as_primitive::<Date32Type>().value(row));
        let demand = rows["demand"].as_primitive::<Float64Type>();
        let value = demand.is_valid(row).then(|| demand.value(row).to_string());
        let id = RowId(integers(rows, LAST_ROW).value(row));
        self.account.problems.row(
            code,
            id,
            Some("demand"),
            value.as_deref(),
            &format!("series {series}, {day}: {what}"),
        );
    }

    /// Lays the series of `rows` out on the grid, up to `last`; leaves out those that the contract does not want.
    fn layout(&mut self, rows: &RecordBatch, last: i32) -> Layout {
        let series = rows["series"].as_string::<i32>();
        let time = rows["time"].as_primitive::<Date32Type>();
        let demand = rows["demand"].as_primitive::<Float64Type>();
        let mut layout = Layout::default();
        let mut start = 0;
        while start < rows.num_rows() {
            let name = series.value(start);
            let end = (start..rows.num_rows()).find(|&row| series.value(row) != name).unwrap_or(rows.num_rows());
            let periods = (last - time.value(start) + 1) as usize;
            let sold = (start..end).filter(|&row| demand.is_valid(row) && demand.value(row) > 0.0).count() as u64;
            if periods < self.min_periods || sold < self.min_demand_periods {
                self.account.series_excluded += 1;
                if self.account.excluded.len() < MAX_NAMED {
                    self.account.excluded.push(name.to_owned());
                }
            } else {
                self.lay(rows, (start, end), periods, &mut layout);
            }
            start = end;
        }
        layout
    }

    fn lay(&mut self, rows: &RecordBatch, (start, end): (usize, usize), periods: usize, layout: &mut Layout) {
        let time = rows["time"].as_primitive::<Date32Type>();
        let (first, last) = (time.value(start), time.value(end - 1));
        let mut row = start;
        for period in first..first + periods as i32 {
            let here = row < end && time.value(row) == period;
            layout.rows.push(here.then_some(row as u32));
            layout.series.push(start as u32);
            layout.times.push(period);
            layout.origins.push(match (here, period > last) {
                (true, _) => Origin::Rows,
                (false, true) => Origin::AfterLast,
                (false, false) => Origin::Gap,
            });
            row += usize::from(here);
            while row < end && time.value(row) == period {
                self.account.decisions.duplicates += 1;
                let first = RowId(integers(rows, FIRST_ROW).value(row - 1)).line();
                self.note(rows, row, "duplicate", &format!("stands there twice, first in row {first}"));
                row += 1;
            }
        }
        layout.spans.push(Span { start, periods });
    }

    fn panel(&mut self, rows: &RecordBatch, layout: &Layout) -> Result<RecordBatch, DataFusionError> {
        let from = UInt32Array::from(layout.rows.clone());
        let first = UInt32Array::from(layout.series.clone());
        let series = take(&rows["series"], &first, None)?;
        let time: ArrayRef = Arc::new(Date32Array::from(layout.times.clone()));
        let closed = self.closed_flags(rows, &from, (&series, &time))?;
        let demand = self.demand(rows, &from, layout, closed.as_ref())?;
        let mut arrays = vec![Arc::clone(&series), Arc::clone(&time), demand];
        arrays.extend(closed.map(|closed| Arc::new(closed) as ArrayRef));
        for at in 0..self.columns.len() {
            let array = self.covariate(at, rows, &from, (layout, &series, &time))?;
            arrays.push(array);
        }
        Ok(RecordBatch::try_new(self.schema(), arrays)?)
    }

    /// Whether each period is closed; null where no row says so.
    fn closed_flags(
        &self,
        rows: &RecordBatch,
        from: &UInt32Array,
        (series, time): (&ArrayRef, &ArrayRef),
    ) -> Result<Option<BooleanArray>, DataFusionError> {
        if let Some(expression) = &self.closed {
            return Ok(Some(cast(&on_grid(expression, series, time)?, &DataType::Boolean)?.as_boolean().clone()));
        }
        let Some(flags) = rows.column_by_name(CLOSED) else { return Ok(None) };
        Ok(Some(take(flags, from, None)?.as_boolean().clone()))
    }

    fn demand(
        &mut self,
        rows: &RecordBatch,
        from: &UInt32Array,
        layout: &Layout,
        closed: Option<&BooleanArray>,
    ) -> Result<ArrayRef, DataFusionError> {
        self.note_breaches(rows);
        let mut values: Vec<Option<f64>> =
            take(&rows["demand"], from, None)?.as_primitive::<Float64Type>().iter().collect();
        let closed: Vec<Option<bool>> = closed.map(|closed| closed.iter().collect()).unwrap_or_default();
        let mut at = 0;
        for span in &layout.spans {
            let range = at..at + span.periods;
            let flags = closed.get(range.clone()).unwrap_or_default();
            let context = (&layout.origins[range.clone()], flags);
            policy::demand(&self.policies, &mut values[range.clone()], context, &mut self.account.decisions);
            at = range.end;
        }
        Ok(Arc::new(Float64Array::from(values)))
    }

    /// Names the rows that a policy which says `fail` will refuse.
    fn note_breaches(&mut self, rows: &RecordBatch) {
        let demand = rows["demand"].as_primitive::<Float64Type>().clone();
        for row in 0..rows.num_rows() {
            if demand.is_null(row) {
                if self.policies.missing == Missing::Fail {
                    self.note(rows, row, "missing", "demand is missing");
                }
            } else if demand.value(row) < 0.0 && self.policies.negative == Negative::Fail {
                self.note(rows, row, "negative", "demand is negative");
            } else if let Some(outliers) = &self.policies.outliers
                && demand.value(row) > outliers.above
            {
                self.note(rows, row, "outlier", "demand is above the declared bound");
            }
        }
    }

    fn covariate(
        &mut self,
        at: usize,
        rows: &RecordBatch,
        from: &UInt32Array,
        (layout, series, time): (&Layout, &ArrayRef, &ArrayRef),
    ) -> Result<ArrayRef, DataFusionError> {
        let column = &self.columns[at];
        let nulls = self.account.nulls.entry(column.name.clone()).or_default();
        let array = match (&column.grid, column.role) {
            (Some(expression), _) => {
                let kind = if column.kind == PanelType::Utf8 { DataType::Utf8 } else { DataType::Float64 };
                cast(&on_grid(expression, series, time)?, &kind)?
            }
            (None, Role::Static) => {
                let (constants, conflicts) = constants(rows, &rows[column.name.as_str()], layout);
                *self.account.static_conflicts.entry(column.name.clone()).or_default() += conflicts;
                take(&rows[column.name.as_str()], &constants, None)?
            }
            (None, _) => take(&rows[column.name.as_str()], from, None)?,
        };
        if array.null_count() == 0 {
            return Ok(array);
        }
        Ok(match column.kind {
            PanelType::Float64 => {
                let mut values: Vec<Option<f64>> = array.as_primitive::<Float64Type>().iter().collect();
                fill(column.missing, &0.0, &mut values, layout, nulls);
                Arc::new(Float64Array::from(values))
            }
            PanelType::Utf8 => {
                let mut values: Vec<Option<&str>> = array.as_string::<i32>().iter().collect();
                fill(column.missing, &"0", &mut values, layout, nulls);
                Arc::new(StringArray::from(values))
            }
        })
    }

    /// Turns what was noted into a refusal, where the contract says `fail`. Copies the places into `into`.
    pub(super) fn verdict(&self, contract: &Contract, into: &mut Problems) -> Result<(), IngestError> {
        *into = self.account.problems.clone();
        let fatal = |code: &str| match code {
            "missing" => self.policies.missing == Missing::Fail,
            "negative" => self.policies.negative == Negative::Fail,
            "outlier" => self.policies.outliers.as_ref().is_some_and(|o| o.action == OutlierAction::Fail),
            "duplicate" => self.policies.duplicates == Duplicates::Fail,
            "exact_duplicate" => self.policies.exact_duplicates == ExactDuplicates::Fail,
            _ => false,
        };
        let mut broken = Vec::new();
        if self.account.problems.found().keys().any(|code| fatal(code)) {
            broken.push(self.account.problems.summary());
        }
        for (side, count) in
            self.account.unmatched.iter().filter(|(side, n)| **n > 0 && unmatched_is_fatal(contract, side))
        {
            broken.push(format!("{count} source rows have no match in side table {side}"));
        }
        for column in self.columns.iter().filter(|column| column.missing == Missing::Fail) {
            if let Some(nulls) = self.account.nulls.get(&column.name).filter(|nulls| nulls.in_rows > 0) {
                broken.push(format!("{} is missing in {} rows, and its policy is fail", column.name, nulls.in_rows));
            }
        }
        if self.account.series == 0 && broken.is_empty() {
            broken.push(format!(
                "no series is left: {} do not meet the contract's [series]",
                self.account.series_excluded
            ));
        }
        if broken.is_empty() { Ok(()) } else { Err(IngestError::Rows(broken.join("; "))) }
    }
}

fn plan_error(error: impl Into<DataFusionError>) -> IngestError {
    IngestError::Plan(error.into())
}

fn integers<'a>(rows: &'a RecordBatch, name: &str) -> &'a Int64Array {
    rows[name].as_primitive::<Int64Type>()
}

/// An expression over (series, time), evaluated for each grid row.
fn on_grid(
    expression: &Arc<dyn PhysicalExpr>,
    series: &ArrayRef,
    time: &ArrayRef,
) -> Result<ArrayRef, DataFusionError> {
    let fields = vec![Field::new("series", DataType::Utf8, false), Field::new("time", DataType::Date32, false)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::clone(series), Arc::clone(time)])?;
    expression.evaluate(&batch)?.into_array(batch.num_rows())
}

/// For each grid row the row that holds its series' constant, and in how many series it is not constant.
fn constants(rows: &RecordBatch, array: &ArrayRef, layout: &Layout) -> (UInt32Array, u64) {
    let mut taken: Vec<Option<u32>> = Vec::with_capacity(layout.rows.len());
    let (mut conflicts, mut at) = (0, 0);
    for span in &layout.spans {
        let own = layout.rows[at..at + span.periods].iter().flatten().copied();
        let valid: Vec<u32> = own.filter(|&row| array.is_valid(row as usize)).collect();
        debug_assert!(span.start < rows.num_rows());
        let constant = valid.first().copied();
        conflicts += u64::from(constant.is_some_and(|first| valid.iter().any(|&row| differs(array, first, row))));
        taken.extend(std::iter::repeat_n(constant, span.periods));
        at += span.periods;
    }
    (UInt32Array::from(taken), conflicts)
}

fn differs(array: &ArrayRef, a: u32, b: u32) -> bool {
    let (a, b) = (a as usize, b as usize);
    match array.data_type() {
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            values.value(a).to_bits() != values.value(b).to_bits()
        }
        _ => {
            let values = array.as_string::<i32>();
            values.value(a) != values.value(b)
        }
    }
}

fn fill<T: Clone>(policy: Missing, zero: &T, values: &mut [Option<T>], layout: &Layout, nulls: &mut Nulls) {
    let mut at = 0;
    for span in &layout.spans {
        let range = at..at + span.periods;
        policy::covariate(policy, zero, &mut values[range.clone()], &layout.origins[range.clone()], nulls);
        at = range.end;
    }
}

fn panel_schema(contract: &Contract, columns: &[PanelColumn]) -> SchemaRef {
    let mut fields = vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("time", DataType::Date32, false),
        Field::new("demand", DataType::Float64, true),
    ];
    if contract.policies.closed.is_some() {
        fields.push(Field::new(CLOSED, DataType::Boolean, true));
    }
    for column in columns {
        let kind = if column.kind == PanelType::Utf8 { DataType::Utf8 } else { DataType::Float64 };
        fields.push(Field::new(&column.name, kind, true));
    }
    Arc::new(Schema::new(fields))
}

/// A day as people write it.
pub(super) fn shown_day(days: i32) -> String {
    let day = chrono::NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(i64::from(days)));
    day.map_or_else(|| format!("day {days}"), |day| day.to_string())
}
