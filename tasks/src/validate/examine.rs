//! The second pass, only over a panel with findings: examples of what broke the expectations, the rows to
//! quarantine, and the panel without them.
//!
//! Called by `validate` with the row-level expectations that the first pass found broken. Rows come in the panel's
//! order from one partition, so that their numbers are those of the panel and all files are reproducible.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::Column;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::Expr;
use engine::task::{ParquetSink, TaskContext, TaskError};
use futures::StreamExt;
use serde_json::{Map, Value};

use super::measure::Duplicates;
use super::suite::{Expectation, Severity};
use super::{PANEL, QUARANTINE, plan_error};

/// How many examples a result shows: enough to see a pattern, as many as Great Expectations shows.
const EXAMPLES: usize = 20;

/// A row-level expectation that some rows break.
pub(super) struct Suspect<'a> {
    /// The expectation.
    pub(super) expectation: &'a Expectation,
    /// Whether a row breaks it, or may, if `duplicates` decide.
    pub(super) unexpected: Expr,
    /// For uniqueness: the keys that are there more than once.
    pub(super) duplicates: Option<Duplicates>,
}

impl Suspect<'_> {
    fn hits(&self, flags: &ArrayRef, batch: &RecordBatch) -> Result<BooleanBuffer, TaskError> {
        let flags = flags.as_boolean().values().clone();
        let Some(duplicates) = &self.duplicates else {
            return Ok(flags);
        };
        let repeated =
            duplicates.contain(batch, &self.expectation.columns).map_err(|error| plan_error(error.into()))?;
        Ok(&flags & &BooleanBuffer::from(repeated))
    }

    fn quarantines(&self) -> bool {
        self.expectation.severity == Severity::Error
    }
}

/// The first rows that broke an expectation.
#[derive(Debug, Default, Clone)]
pub(super) struct Examples {
    /// Their values: of the column, or an object of all columns.
    pub(super) values: Vec<Value>,
    /// Their numbers, from 0.
    pub(super) rows: Vec<u64>,
}

/// What the second pass made: two files to publish or not.
pub(super) struct Examined {
    /// One per suspect.
    pub(super) examples: Vec<Examples>,
    /// Rows in quarantine.
    pub(super) quarantined: u64,
    /// `quarantine.parquet`
    pub(super) quarantine: ParquetSink,
    /// `panel.parquet` without them; nothing if no row is quarantined, and the panel stays as it is.
    pub(super) clean: Option<ParquetSink>,
}

/// Reads the panel once more, if there are suspects.
///
/// # Errors
/// The plan failed, the scratch is full, or the attempt was canceled.
pub(super) async fn examine(
    context: &TaskContext,
    panel: &DataFrame,
    suspects: &[Suspect<'_>],
) -> Result<Examined, TaskError> {
    let schema = Arc::clone(panel.schema().inner());
    let quarantines = suspects.iter().any(Suspect::quarantines);
    let mut examined = Examined {
        examples: vec![Examples::default(); suspects.len()],
        quarantined: 0,
        quarantine: context.parquet(QUARANTINE, quarantine_schema(&schema))?,
        clean: if quarantines { Some(context.parquet(PANEL, Arc::clone(&schema))?) } else { None },
    };
    if suspects.is_empty() {
        return Ok(examined);
    }
    let columns = schema.fields().iter().map(|field| Expr::Column(Column::new_unqualified(field.name())));
    let flag = |(at, suspect): (usize, &Suspect<'_>)| suspect.unexpected.clone().alias(format!("unexpected {at}"));
    let with_flags: Vec<Expr> = columns.chain(suspects.iter().enumerate().map(flag)).collect();
    let selected = panel.clone().select(with_flags).map_err(plan_error)?;
    let mut batches = selected.execute_stream().await.map_err(plan_error)?;
    let mut first_row = 0;
    while let Some(batch) = batches.next().await {
        context.check_canceled()?;
        let batch = batch.map_err(plan_error)?;
        let (values, flags) = batch.columns().split_at(schema.fields().len());
        let rows =
            RecordBatch::try_new(Arc::clone(&schema), values.to_vec()).map_err(|error| plan_error(error.into()))?;
        examined.take(&rows, flags, suspects, first_row)?;
        first_row += rows.num_rows();
    }
    Ok(examined)
}

impl Examined {
    fn take(
        &mut self,
        rows: &RecordBatch,
        flags: &[ArrayRef],
        suspects: &[Suspect<'_>],
        first_row: usize,
    ) -> Result<(), TaskError> {
        let mut reasons = vec![String::new(); rows.num_rows()];
        for ((suspect, flags), examples) in suspects.iter().zip(flags).zip(&mut self.examples) {
            let hits = suspect.hits(flags, rows)?;
            for row in hits.set_indices() {
                if examples.rows.len() < EXAMPLES {
                    examples.rows.push((first_row + row) as u64);
                    examples.values.push(example(rows, &suspect.expectation.columns, row));
                }
                if suspect.quarantines() {
                    let reason = &mut reasons[row];
                    reason.push_str(if reason.is_empty() { "" } else { "; " });
                    reason.push_str(&suspect.expectation.label());
                }
            }
        }
        let bad: BooleanArray = reasons.iter().map(|reason| Some(!reason.is_empty())).collect();
        self.quarantined += bad.true_count() as u64;
        if bad.true_count() > 0 {
            self.quarantine.write(&quarantined(rows, &bad, reasons, first_row)?)?;
        }
        if let Some(clean) = &mut self.clean {
            clean.write(&filter(rows, &BooleanArray::new(!bad.values(), None))?)?;
        }
        Ok(())
    }
}

/// The panel's columns, then `row` and `reason`; a panel with columns of these names gets `row_` and `reason_`.
fn quarantine_schema(panel: &Schema) -> SchemaRef {
    let free = |name: &str| {
        let mut name = name.to_owned();
        while panel.field_with_name(&name).is_ok() {
            name.push('_');
        }
        name
    };
    let mut fields: Vec<Arc<Field>> = panel.fields().iter().map(Arc::clone).collect();
    fields.push(Arc::new(Field::new(free("row"), DataType::Int64, false)));
    fields.push(Arc::new(Field::new(free("reason"), DataType::Utf8, false)));
    Arc::new(Schema::new(fields))
}

fn quarantined(
    rows: &RecordBatch,
    bad: &BooleanArray,
    reasons: Vec<String>,
    first_row: usize,
) -> Result<RecordBatch, TaskError> {
    let numbers: Int64Array = (first_row as i64..).take(rows.num_rows()).collect::<Vec<_>>().into();
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(numbers));
    columns.push(Arc::new(StringArray::from(reasons)));
    let all = RecordBatch::try_new(quarantine_schema(&rows.schema()), columns);
    filter(&all.map_err(|error| plan_error(error.into()))?, bad)
}

fn filter(rows: &RecordBatch, keep: &BooleanArray) -> Result<RecordBatch, TaskError> {
    filter_record_batch(rows, keep).map_err(|error| plan_error(error.into()))
}

fn example(rows: &RecordBatch, columns: &[String], row: usize) -> Value {
    let value = |name: &String| rows.column_by_name(name).map_or(Value::Null, |column| json(column, row));
    match columns {
        [name] => value(name),
        names => Value::Object(names.iter().map(|name| (name.clone(), value(name))).collect::<Map<_, _>>()),
    }
}

/// One cell as JSON: numbers and flags as such (NaN as null), everything else as text.
pub(super) fn json(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let text = array_value_to_string(column, row).unwrap_or_default();
    match column.data_type() {
        DataType::Boolean => Value::from(text == "true"),
        number if number.is_integer() => text.parse::<i64>().map_or(Value::Null, Value::from),
        number if number.is_floating() => text.parse::<f64>().map_or(Value::Null, Value::from),
        _ => Value::from(text),
    }
}
