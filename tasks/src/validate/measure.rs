//! The first pass: counts and figures of all expectations in one scan of the panel.
//!
//! Called by `validate`. Uniqueness alone needs a scan of its own, over its key columns: a grouping, which can spill,
//! where a set of everything seen could not. One partition everywhere, because sums of floats hang on their order.

use std::collections::HashSet;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::lit;
use datafusion::prelude::Expr;
use futures::StreamExt;

use super::bind::{Test, count_where};

/// What became of a test in the first pass.
#[derive(Debug)]
pub(super) enum Measured {
    /// Nothing had to be measured.
    Nothing,
    /// Rows were counted.
    Rows(Counts),
    /// A figure was taken.
    Figure(ScalarValue),
}

/// Rows of a row-level expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// That it is about.
    pub(super) elements: u64,
    /// Of these, without a value to judge.
    pub(super) missing: u64,
    /// Of these, that break it.
    pub(super) unexpected: u64,
}

/// The number of rows, and what was measured for each test, in their order.
pub(super) async fn measure(panel: &DataFrame, tests: &[Option<&Test>]) -> Result<(u64, Vec<Measured>)> {
    let mut measures = vec![count(lit(1))];
    for test in tests.iter().flatten() {
        match test {
            Test::Known { .. } => {}
            Test::Rows(rows) => {
                measures.extend([&rows.applies, &rows.missing, &rows.unexpected].map(|of| count_where(of.clone())));
            }
            Test::Table { figure, .. } => measures.push(figure.clone()),
        }
    }
    let named = measures.into_iter().enumerate().map(|(at, measure)| measure.alias(format!("measure_{at}"))).collect();
    let batches = panel.clone().aggregate(Vec::new(), named)?.collect().await?;
    let row = batches.iter().find(|batch| batch.num_rows() == 1);
    let row = row.ok_or_else(|| DataFusionError::Internal("an aggregate without groups is one row".to_owned()))?;
    let mut values = row.columns().iter();
    let rows = next_count(&mut values)?;
    let mut measured = Vec::with_capacity(tests.len());
    for test in tests {
        measured.push(match test {
            None | Some(Test::Known { .. }) => Measured::Nothing,
            Some(Test::Rows(_)) => Measured::Rows(Counts {
                elements: next_count(&mut values)?,
                missing: next_count(&mut values)?,
                unexpected: next_count(&mut values)?,
            }),
            Some(Test::Table { .. }) => Measured::Figure(next(&mut values)?),
        });
    }
    Ok((rows, measured))
}

fn next<'a>(values: &mut impl Iterator<Item = &'a ArrayRef>) -> Result<ScalarValue> {
    let value = values.next().ok_or_else(|| DataFusionError::Internal("a column per measure".to_owned()))?;
    ScalarValue::try_from_array(value, 0)
}

fn next_count<'a>(values: &mut impl Iterator<Item = &'a ArrayRef>) -> Result<u64> {
    match next(values)? {
        ScalarValue::Int64(Some(count)) => Ok(count.unsigned_abs()),
        other => Err(DataFusionError::Internal(format!("a count is a number, not {other}"))),
    }
}

/// Keys that more than one row has.
pub(super) struct Duplicates {
    converter: RowConverter,
    keys: HashSet<Box<[u8]>>,
    /// Rows that have one of the keys.
    pub(super) rows: u64,
}

impl Duplicates {
    /// Finds them among the rows for which `applies` is true.
    pub(super) async fn find(panel: &DataFrame, columns: &[String], applies: &Expr) -> Result<Self> {
        let schema = panel.schema().as_arrow();
        let field = |name: &String| Ok(SortField::new(schema.field_with_name(name)?.data_type().clone()));
        let fields = columns.iter().map(field).collect::<std::result::Result<Vec<_>, ArrowError>>()?;
        let keys = columns.iter().map(|name| Expr::Column(Column::new_unqualified(name))).collect();
        let times = Expr::Column(Column::new_unqualified("times"));
        let mut groups = panel
            .clone()
            .filter(applies.clone())?
            .aggregate(keys, vec![count(lit(1)).alias("times")])?
            .filter(times.gt(lit(1)))?
            .execute_stream()
            .await?;
        let mut found = Self { converter: RowConverter::new(fields)?, keys: HashSet::new(), rows: 0 };
        while let Some(batch) = groups.next().await {
            let batch = batch?;
            let (times, keys) = batch.columns().split_last().expect("the count is the last column");
            found.rows +=
                times.as_primitive::<Int64Type>().values().iter().map(|times| times.unsigned_abs()).sum::<u64>();
            let rows = found.converter.convert_columns(keys)?;
            found.keys.extend(rows.iter().map(|row| Box::from(row.as_ref())));
        }
        Ok(found)
    }

    /// For each row of `batch`, whether it has one of the keys.
    pub(super) fn contain(
        &self,
        batch: &RecordBatch,
        columns: &[String],
    ) -> std::result::Result<Vec<bool>, ArrowError> {
        let found = columns.iter().map(|name| batch.column_by_name(name).cloned());
        let keys: Option<Vec<ArrayRef>> = found.collect();
        let keys = keys.ok_or_else(|| ArrowError::SchemaError("the batch lacks a key column".to_owned()))?;
        Ok(self.converter.convert_columns(&keys)?.iter().map(|row| self.keys.contains(row.as_ref())).collect())
    }
}
