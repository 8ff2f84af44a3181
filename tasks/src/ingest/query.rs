//! From screened rows to one row per series and period, sorted: joins, aggregation and order, in DataFusion.
//!
//! Sums are exact whatever the order of the rows: floating-point numbers are summed as decimals with nine digits
//! after the point, and an SQL aggregate of the contract's own that sums floating-point numbers is refused. So the
//! panel's bytes do not depend on how many partitions a machine makes.

use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::MemTable;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::prelude::SessionContext;
use indexmap::IndexMap;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::intake::{Intake, IntakeStream};
use super::screen::{self, SERIES, Screen, TIME, key_column};
use super::{IngestError, Job};
use crate::contract::{Column, Contract, Duplicates, ExactDuplicates, PanelType, Table, Unmatched};
use crate::session::quoted;
use crate::source::{self, Problems, ROW, SourceFile, TableReader};

/// Source rows behind a panel row.
pub(super) const ROWS: &str = "__rows";
/// Exact duplicates left out behind a panel row.
pub(super) const COPIES: &str = "__copies";
/// The first source row behind a panel row.
pub(super) const FIRST_ROW: &str = "__first_row";
/// The last one.
pub(super) const LAST_ROW: &str = "__last_row";
/// Source rows that a side table does not know, behind a panel row.
pub(super) const UNMATCHED: &str = "__unmatched_";
/// Whether a period was closed.
pub(super) const CLOSED: &str = "closed";

/// Digits after the point in which floating-point numbers are summed.
const SUM_SCALE: u8 = 9;

/// Aggregates whose result hangs on the order in which floating-point numbers arrive.
const ORDER_SENSITIVE: [&str; 12] = [
    "sum",
    "avg",
    "mean",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var",
    "var_pop",
    "var_samp",
    "corr",
    "covar_pop",
    "covar_samp",
];

/// A planned ingest, not yet running.
pub(super) struct Query {
    sql: String,
    /// What the source's reader learns.
    pub(super) intake: Intake,
    /// The side tables' files.
    pub(super) side_files: Vec<SourceFile>,
    lineage: IndexMap<String, Vec<String>>,
}

/// Loads side tables, checks every expression against the source and plans.
pub(super) async fn open(session: &SessionContext, job: &Job, cancel: CancellationToken) -> Result<Query, IngestError> {
    let contract = &job.contract;
    let source = source::schema_of(&contract.source);
    let screen = Screen::new(session, contract, &source);
    let mut side_files = Vec::new();
    let mut joined = DFSchema::try_from_qualified_schema("source", &source)?;
    for (name, table) in &contract.side {
        let (files, loaded) = side(job, table)?;
        side_files.extend(files);
        joined = joined.join(&DFSchema::try_from_qualified_schema(name.as_str(), &loaded.schema)?)?;
        session.register_table(name.as_str(), Arc::new(loaded.table))?;
        unique_key(session, name, table).await?;
    }
    let mut checked = Checked { session, joined: &joined, problems: Vec::new(), lineage: IndexMap::new() };
    let sql = statement(contract, &mut checked);
    let Checked { mut problems, lineage, .. } = checked;
    let screen = screen.map_err(|mut earlier| {
        earlier.append(&mut problems);
        IngestError::Contract(earlier)
    })?;
    if !problems.is_empty() {
        return Err(IngestError::Contract(problems));
    }
    let intake = Intake::default();
    let reader = TableReader::new(Arc::new(contract.source.clone()), job.files.clone());
    let schema = screen.schema();
    let stream = IntakeStream::new(reader, screen, contract.source.bad_rows, (intake.clone(), cancel));
    session.register_table("source", Arc::new(StreamingTable::try_new(schema, vec![Arc::new(stream)])?))?;
    Ok(Query { sql, intake, side_files, lineage })
}

impl Query {
    /// Starts the plan. Rows come sorted by series and time.
    pub(super) async fn execute(&self, session: &SessionContext) -> Result<SendableRecordBatchStream, IngestError> {
        let planned = session.sql(&self.sql).await.map_err(|error| match error {
            DataFusionError::NotImplemented(reason) => IngestError::NeedsAdapter(reason),
            other => IngestError::Contract(vec![screen::first_line(&other)]),
        })?;
        Ok(planned.execute_stream().await?)
    }

    /// Which raw columns make which canonical column, and how.
    pub(super) fn lineage(&self, contract: &Contract) -> Value {
        let columns = contract.columns.iter().map(|(name, column)| {
            let from = self.lineage.get(name).cloned().unwrap_or_default();
            let how = json!({"from": from, "sql": column.sql, "aggregate": column.aggregate, "grid": column.grid});
            (name.clone(), how)
        });
        json!({
            "format_version": 1,
            "series": contract.grain,
            "filter": contract.filter,
            "columns": columns.collect::<serde_json::Map<_, _>>(),
        })
    }
}

struct Loaded {
    schema: arrow::datatypes::SchemaRef,
    table: MemTable,
}

/// Reads a side table whole: they are small by nature (a row per store or item).
fn side(job: &Job, table: &Table) -> Result<(Vec<SourceFile>, Loaded), IngestError> {
    let path = Path::new(table.path.as_deref().unwrap_or_default());
    let shown = job.folder_shown.join(path).to_string_lossy().into_owned();
    let files = source::locate(table, &job.folder.join(path), &shown)?;
    let mut reader = TableReader::new(Arc::new(table.clone()), files.clone());
    let (mut problems, mut batches) = (Problems::default(), Vec::new());
    // Their row numbers would only be confused with the source's.
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    while let Some(batch) = reader.next(&mut problems)? {
        batches.push(batch.project(&columns).map_err(DataFusionError::from)?);
    }
    if problems.count() > 0 {
        return Err(IngestError::Rows(format!("side table {shown}: {}", problems.summary())));
    }
    let schema = Arc::new(source::schema_of(table).project(&columns).map_err(DataFusionError::from)?);
    Ok((files, Loaded { table: MemTable::try_new(Arc::clone(&schema), vec![batches])?, schema }))
}

/// A key that stands twice in a side table would double the source rows that it meets.
async fn unique_key(session: &SessionContext, name: &str, table: &Table) -> Result<(), IngestError> {
    let key: Vec<String> = table.key.keys().map(|column| quoted(column)).collect();
    let key = key.join(", ");
    let sql = format!("SELECT {key} FROM {} GROUP BY {key} HAVING count(*) > 1", quoted(name));
    let twice = session.sql(&sql).await?.count().await?;
    if twice > 0 {
        return Err(IngestError::Rows(format!("side table {name}: {twice} keys ({key}) stand there more than once")));
    }
    Ok(())
}

struct Checked<'a> {
    session: &'a SessionContext,
    joined: &'a DFSchema,
    problems: Vec<String>,
    lineage: IndexMap<String, Vec<String>>,
}

impl Checked<'_> {
    /// Parses an expression over the joined row, notes what it reads, and returns it.
    fn expression(&mut self, at: &str, name: &str, sql: &str) -> Option<Expr> {
        let parsed = self.session.state().create_logical_expr(sql, self.joined);
        let expression =
            parsed.map_err(|error| self.problems.push(format!("{at}: {}", screen::first_line(&error)))).ok()?;
        let mut from: Vec<String> = expression.column_refs().iter().map(|column| column.flat_name()).collect();
        from.sort();
        self.lineage.insert(name.to_owned(), from);
        if self.sums_floats(&expression) {
            self.problems.push(format!(
                "{at}: sums floating-point numbers, whose total hangs on the order of the rows; cast them first, \
                 like sum(CAST(UnitPrice AS DECIMAL(18, 4)) * Quantity)"
            ));
        }
        Some(expression)
    }

    fn sums_floats(&self, expression: &Expr) -> bool {
        let mut found = false;
        let walked = expression.apply(|node| {
            if let Expr::AggregateFunction(function) = node
                && ORDER_SENSITIVE.contains(&function.func.name())
            {
                found |= function.params.args.iter().any(|arg| self.is_float(arg));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        walked.is_ok() && found
    }

    fn is_float(&self, expression: &Expr) -> bool {
        expression.get_type(self.joined).is_ok_and(|kind| kind.is_floating())
    }
}

fn statement(contract: &Contract, checked: &mut Checked<'_>) -> String {
    let grouped = contract.policies.duplicates != Duplicates::Fail;
    let mut items = vec![format!("{SERIES} AS series"), format!("{TIME} AS time")];
    for (name, column) in contract.columns.iter().filter(|(name, column)| *name != "time" && column.grid.is_none()) {
        let item = value(contract, (name, column), checked);
        items.push(format!("{} AS {}", item.unwrap_or_else(|| "NULL".into()), quoted(name)));
    }
    if let Some(sql) = contract.policies.closed.as_ref().and_then(|closed| closed.sql.as_deref()) {
        checked.expression("policies.closed.sql", CLOSED, sql);
        let item = if grouped { format!("bool_or({sql})") } else { format!("CAST(({sql}) AS BOOLEAN)") };
        items.push(format!("{item} AS {CLOSED}"));
    }
    let total = |sql: &str| if grouped { format!("sum({sql})") } else { sql.to_owned() };
    for (side, table) in &contract.side {
        let key = quoted(table.key.keys().next().expect("checked: a side table has a key"));
        let missing = total(&format!("CASE WHEN {}.{key} IS NULL THEN 1 ELSE 0 END", quoted(side)));
        items.push(format!("CAST({missing} AS BIGINT) AS {UNMATCHED}{side}"));
    }
    let copies = if contract.policies.exact_duplicates == ExactDuplicates::Keep { "0" } else { COPIES };
    items.push(format!("CAST({} AS BIGINT) AS {COPIES}_out", total(copies)));
    let (rows, first, last, end) = if grouped {
        (
            "count(*)".to_owned(),
            format!("min({ROW})"),
            format!("max({ROW})"),
            format!("GROUP BY {SERIES}, {TIME} ORDER BY series, time"),
        )
    } else {
        ("CAST(1 AS BIGINT)".to_owned(), ROW.to_owned(), ROW.to_owned(), format!("ORDER BY series, time, {FIRST_ROW}"))
    };
    items.push(format!("{rows} AS {ROWS}, {first} AS {FIRST_ROW}, {last} AS {LAST_ROW}"));
    format!("SELECT {} FROM {} {end}", items.join(",\n "), from(contract))
}

/// The SQL of one canonical column over the joined rows.
fn value(contract: &Contract, (name, column): (&String, &Column), checked: &mut Checked<'_>) -> Option<String> {
    let kind = match column.kind {
        PanelType::Float64 => "DOUBLE",
        PanelType::Utf8 => "VARCHAR",
    };
    let Some(sql) = column.sql.as_deref() else {
        let own = column.aggregate.as_deref()?;
        checked.expression(&format!("columns.{name}.aggregate"), name, own)?;
        return Some(format!("CAST(({own}) AS {kind})"));
    };
    let expression = checked.expression(&format!("columns.{name}.sql"), name, sql)?;
    let exact = if checked.is_float(&expression) {
        format!("CAST(({sql}) AS DECIMAL(38, {SUM_SCALE}))")
    } else {
        sql.to_owned()
    };
    let aggregate = match contract.policies.duplicates {
        Duplicates::Fail => return Some(format!("CAST(({sql}) AS {kind})")),
        Duplicates::Last => "last",
        Duplicates::Sum => column.aggregate.as_deref().unwrap_or("sum"),
    };
    Some(match aggregate {
        "sum" => format!("CAST(sum({exact}) AS {kind})"),
        "mean" => format!("CAST(sum({exact}) AS DOUBLE) / count({sql})"),
        "first" | "last" => format!("CAST({aggregate}_value(({sql}) ORDER BY {ROW}) AS {kind})"),
        other => format!("CAST({other}({sql}) AS {kind})"),
    })
}

/// The source with its side tables: these on the build side, so that the source streams past them.
fn from(contract: &Contract) -> String {
    let source = match contract.policies.exact_duplicates {
        ExactDuplicates::Keep => "source".to_owned(),
        ExactDuplicates::Drop | ExactDuplicates::Fail => {
            let mut keys: Vec<String> = contract.source.columns.keys().map(|name| quoted(name)).collect();
            for (side, table) in &contract.side {
                keys.extend((0..table.key.len()).map(|position| key_column(side, position)));
            }
            let keys = keys.join(", ");
            format!(
                "(SELECT {keys}, {SERIES}, {TIME}, min({ROW}) AS {ROW}, count(*) - 1 AS {COPIES} FROM source \
                 GROUP BY {keys}, {SERIES}, {TIME}) AS source"
            )
        }
    };
    contract.side.iter().enumerate().fold(source, |right, (joins, (side, table))| {
        let right = if joins == 0 { right } else { format!("({right})") };
        let on: Vec<String> = table
            .key
            .keys()
            .enumerate()
            .map(|(position, column)| {
                format!("{}.{} = source.{}", quoted(side), quoted(column), key_column(side, position))
            })
            .collect();
        format!("{} RIGHT JOIN {right} ON {}", quoted(side), on.join(" AND "))
    })
}

/// Whether source rows without a match in `side` are fatal.
pub(super) fn unmatched_is_fatal(contract: &Contract, side: &str) -> bool {
    contract.side.get(side).is_some_and(|table| table.unmatched == Unmatched::Fail)
}
