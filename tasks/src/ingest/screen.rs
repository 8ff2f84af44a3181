//! The first look at each source row: does it count, which series is it, which period, which side rows.
//!
//! `intake` calls it for each batch, before anything is joined, so that every row left out is counted under the
//! filter that it failed and every row without a key is named.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, StringBuilder};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Date32Type, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use indexmap::IndexMap;

use crate::contract::Contract;
use crate::source::{Problems, ROW, RowId};

/// The series that a row belongs to.
pub(super) const SERIES: &str = "__series";
/// The period that a row belongs to.
pub(super) const TIME: &str = "__time";

/// The column that holds a side table's key, computed from the source row.
pub(super) fn key_column(side: &str, position: usize) -> String {
    format!("__key_{side}_{position}")
}

/// A compiled contract, as far as it looks at source rows alone.
pub(super) struct Screen {
    filters: Vec<(String, Arc<dyn PhysicalExpr>)>,
    grain: Vec<(String, Arc<dyn PhysicalExpr>)>,
    time: Arc<dyn PhysicalExpr>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

impl Screen {
    /// Compiles the filters, the grain, the time and the side keys over `source`, a table's schema.
    ///
    /// # Errors
    /// Every expression that does not fit, with its place in the contract.
    pub(super) fn new(session: &SessionContext, contract: &Contract, source: &SchemaRef) -> Result<Self, Vec<String>> {
        let mut compiler = Compiler { session, source, problems: Vec::new() };
        let named = |compiler: &mut Compiler<'_>, at: &str, items: &IndexMap<String, String>| -> Vec<_> {
            let compiled = items
                .iter()
                .filter_map(|(name, sql)| Some((name.clone(), compiler.compile(&format!("{at}.{name}"), sql)?)));
            compiled.collect()
        };
        let filters: Vec<(String, Arc<dyn PhysicalExpr>)> = named(&mut compiler, "filter", &contract.filter);
        for (name, filter) in &filters {
            if filter.data_type(source).is_ok_and(|kind| kind != DataType::Boolean) {
                compiler.problems.push(format!("filter.{name}: is not a condition; it must be true or false"));
            }
        }
        let grain = named(&mut compiler, "grain", &contract.grain);
        let time = contract.columns["time"].sql.as_deref().and_then(|sql| compiler.compile("columns.time.sql", sql));
        let mut fields: Vec<Arc<Field>> = source.fields().iter().cloned().collect();
        let mut keys = Vec::new();
        for (side, table) in &contract.side {
            for (position, (column, sql)) in table.key.iter().enumerate() {
                let Some(key) = compiler.compile(&format!("side.{side}.key.{column}"), sql) else { continue };
                let kind = key.data_type(source).unwrap_or(DataType::Utf8);
                fields.push(Arc::new(Field::new(key_column(side, position), kind, true)));
                keys.push(key);
            }
        }
        fields.push(Arc::new(Field::new(SERIES, DataType::Utf8, false)));
        fields.push(Arc::new(Field::new(TIME, DataType::Date32, false)));
        match (time, compiler.problems.is_empty()) {
            (Some(time), true) => Ok(Self { filters, grain, time, keys, schema: Arc::new(Schema::new(fields)) }),
            _ => Err(compiler.problems),
        }
    }

    /// The schema of [`Self::apply`]'s batches: the source's columns, side keys, [`SERIES`] and [`TIME`].
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Leaves out what does not count, and adds the row's series and period.
    pub(super) fn apply(
        &self,
        mut batch: RecordBatch,
        filtered: &mut IndexMap<String, u64>,
        problems: &mut Problems,
    ) -> Result<RecordBatch> {
        for (name, filter) in &self.filters {
            let mask = evaluate(filter, &batch)?;
            let mask = mask.as_boolean();
            let out = batch.num_rows() - mask.true_count();
            *filtered.entry(name.clone()).or_default() += out as u64;
            if out > 0 {
                batch = filter_record_batch(&batch, mask)?;
            }
        }
        let (mut series, mut time) = (self.series(&batch)?, cast(&evaluate(&self.time, &batch)?, &DataType::Date32)?);
        if series.null_count() + time.null_count() > 0 {
            let mask = self.without_place(&batch, (&series, &time), problems);
            batch = filter_record_batch(&batch, &mask)?;
            (series, time) = (self.series(&batch)?, cast(&evaluate(&self.time, &batch)?, &DataType::Date32)?);
        }
        let mut columns = batch.columns().to_vec();
        for key in &self.keys {
            columns.push(evaluate(key, &batch)?);
        }
        columns.extend([Arc::new(series) as ArrayRef, time]);
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    /// The grain's values joined with `|`; null where one of them is null or holds a `|` itself.
    fn series(&self, batch: &RecordBatch) -> Result<StringArray> {
        let parts = self.grain.iter().map(|(_, part)| Ok(cast(&evaluate(part, batch)?, &DataType::Utf8)?));
        let parts = parts.collect::<Result<Vec<ArrayRef>>>()?;
        let parts: Vec<&StringArray> = parts.iter().map(|part| part.as_string::<i32>()).collect();
        let mut series = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 8);
        let mut name = String::new();
        for row in 0..batch.num_rows() {
            name.clear();
            let whole = parts.iter().enumerate().all(|(at, part)| {
                let value = if part.is_valid(row) { part.value(row) } else { "" };
                name.push_str(if at > 0 { "|" } else { "" });
                name.push_str(value);
                !value.is_empty() && !value.contains('|')
            });
            series.append_option(whole.then_some(&name));
        }
        Ok(series.finish())
    }

    fn without_place(
        &self,
        batch: &RecordBatch,
        (series, time): (&StringArray, &ArrayRef),
        problems: &mut Problems,
    ) -> BooleanArray {
        let rows = batch[ROW].as_primitive::<Int64Type>();
        let grain: Vec<&str> = self.grain.iter().map(|(name, _)| name.as_str()).collect();
        let flags = (0..batch.num_rows()).map(|row| {
            let id = RowId(rows.value(row));
            if series.is_null(row) {
                let message = "a grain value is missing, or holds the separator |";
                problems.row("grain", id, Some(&grain.join(", ")), None, message);
            } else if time.is_null(row) {
                problems.row("time", id, Some("time"), None, "the period is missing");
            }
            Some(series.is_valid(row) && time.is_valid(row))
        });
        flags.collect()
    }
}

/// First and last period of a screened batch.
pub(super) fn time_range(batch: &RecordBatch) -> Option<(i32, i32)> {
    let time = batch[TIME].as_primitive::<Date32Type>();
    Some((arrow::compute::min(time)?, arrow::compute::max(time)?))
}

fn evaluate(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(batch)?.into_array(batch.num_rows())
}

struct Compiler<'a> {
    session: &'a SessionContext,
    source: &'a SchemaRef,
    problems: Vec<String>,
}

impl Compiler<'_> {
    fn compile(&mut self, at: &str, sql: &str) -> Option<Arc<dyn PhysicalExpr>> {
        let compiled = physical(self.session, self.source, sql);
        compiled.map_err(|error| self.problems.push(format!("{at}: {}", first_line(&error)))).ok()
    }
}

/// An SQL expression over one row of `source`, ready to run.
pub(super) fn physical(session: &SessionContext, source: &SchemaRef, sql: &str) -> Result<Arc<dyn PhysicalExpr>> {
    let schema = DFSchema::try_from_qualified_schema("source", source)?;
    let logical = session.state().create_logical_expr(sql, &schema)?;
    session.create_physical_expr(logical, &schema)
}

/// An error's first line: DataFusion adds a backtrace or a list of all functions below it.
pub(super) fn first_line(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    text.lines().next().unwrap_or(&text).trim().to_owned()
}
