//! Task instances as stored rows, and the way back into domain types.
//!
//! Shared by the files of `store` that read or write task instances. A word that no state knows is
//! an error here, not a default.

use sea_orm::QueryResult;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::StoreError;
use super::dialect::{Column, Dialect, Kind};
use crate::dag::UpstreamCounts;
use crate::id::{Epoch, Generation, InstanceId, RunId, TaskId, TenantId};
use crate::run::{RunState, TaskState};

/// What the database writes for a task without elements.
const NO_ELEMENT: i64 = -1;

/// The key of a task instance's generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct InstanceKey {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
}

/// The key's columns, for [`Dialect::rows`](super::dialect::Dialect::rows).
pub(super) const KEY: [Column; 5] = [
    ("tenant", Kind::Text),
    ("run", Kind::Text),
    ("task", Kind::Text),
    ("element", Kind::Int),
    ("generation", Kind::Int),
];

impl InstanceKey {
    /// The key's columns as a JSON object, to be extended by what the statement needs.
    pub(super) fn json(&self) -> Value {
        json!(self.columns())
    }

    fn columns(&self) -> KeyColumns<'_> {
        KeyColumns {
            tenant: &self.tenant,
            run: self.run,
            task: &self.instance.task,
            element: element(self.instance.index),
            generation: self.generation,
        }
    }

    /// Joins `alias` to the rows of a [`Dialect::rows`](super::dialect::Dialect::rows) source.
    pub(super) fn join(alias: &str) -> String {
        let on: Vec<_> = KEY.iter().map(|(name, _)| format!("{alias}.{name} = r.{name}")).collect();
        on.join(" AND ")
    }
}

/// The columns of [`KEY`] and `more`.
pub(super) fn with_key(more: &[Column]) -> Vec<Column> {
    KEY.iter().chain(more).copied().collect()
}

/// A row source of the key and `more`, read from parameter `$n`.
pub(super) fn keyed_rows(dialect: Dialect, n: u8, more: &[Column]) -> String {
    dialect.rows(n, &with_key(more))
}

/// An element as stored.
pub(super) fn element(index: Option<u32>) -> i64 {
    index.map_or(NO_ELEMENT, i64::from)
}

/// Adds fields to a JSON object.
pub(super) fn extend(mut row: Value, more: Value) -> Value {
    if let (Value::Object(row), Value::Object(more)) = (&mut row, more) {
        row.extend(more);
    }
    row
}

/// Rows for [`Dialect::rows`](super::dialect::Dialect::rows), written as they come: what every move of a
/// task instance goes through makes no tree of values first.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// A JSON array without its end.
    text: Vec<u8>,
    len: usize,
}

impl Rows {
    /// Appends a row: a struct or map, by the names of its columns.
    pub(super) fn push(&mut self, row: &impl Serialize) {
        self.text.push(if self.len == 0 { b'[' } else { b',' });
        serde_json::to_writer(&mut self.text, row).expect("a row is names and plain values");
        self.len += 1;
    }

    /// Appends a row of a key's columns.
    pub(super) fn push_key(&mut self, key: &InstanceKey) {
        self.push(&key.columns());
    }

    /// Appends a row of a key's columns and of more; these are at least one.
    pub(super) fn push_keyed(&mut self, key: &InstanceKey, more: &impl Serialize) {
        self.push_key(key);
        // One object ends where the other begins: its brace becomes the comma between them.
        self.text.pop();
        let seam = self.text.len();
        serde_json::to_writer(&mut self.text, more).expect("a row is names and plain values");
        self.text[seam] = b',';
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A statement's parameter.
    pub(super) fn into_param(mut self) -> sea_orm::Value {
        if self.text.is_empty() {
            self.text.push(b'[');
        }
        self.text.push(b']');
        String::from_utf8(self.text).expect("JSON is text").into()
    }
}

/// The columns of [`KEY`], as they are written.
#[derive(Serialize)]
struct KeyColumns<'a> {
    tenant: &'a TenantId,
    run: RunId,
    task: &'a TaskId,
    element: i64,
    generation: Generation,
}

/// A JSON array as a statement's parameter.
pub(super) fn param(rows: Vec<Value>) -> sea_orm::Value {
    Value::Array(rows).to_string().into()
}

/// A column, with the query's name in the error.
pub(super) fn get<T: sea_orm::TryGetable>(row: &QueryResult, column: &str) -> Result<T, StoreError> {
    row.try_get("", column).map_err(StoreError::query("read a row"))
}

/// A text column through a parser.
pub(super) fn parse<T, E: std::fmt::Display>(
    row: &QueryResult,
    column: &str,
    parser: impl Fn(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    let text: String = get(row, column)?;
    parser(&text).map_err(|error| StoreError::Corrupt { what: "row", detail: format!("{column}: {error}") })
}

/// A text column of JSON.
pub(super) fn get_json(row: &QueryResult, column: &str) -> Result<Value, StoreError> {
    parse(row, column, |text| serde_json::from_str(text))
}

/// A text column of a JSON object; anything else is an empty one.
pub(super) fn get_object(row: &QueryResult, column: &str) -> Result<Map<String, Value>, StoreError> {
    Ok(if let Value::Object(map) = get_json(row, column)? { map } else { Map::new() })
}

/// The instance that a row is about.
pub(super) fn instance(row: &QueryResult) -> Result<InstanceId, StoreError> {
    let task = parse(row, "task", TaskId::parse)?;
    let element: i64 = get(row, "element")?;
    Ok(InstanceId::new(task, u32::try_from(element).ok()))
}

/// The whole key of a row.
pub(super) fn key(row: &QueryResult) -> Result<InstanceKey, StoreError> {
    Ok(InstanceKey {
        tenant: parse(row, "tenant", TenantId::parse)?,
        run: parse(row, "run", RunId::parse)?,
        instance: instance(row)?,
        generation: Generation(get(row, "generation")?),
    })
}

/// The state of a task instance's row.
pub(super) fn task_state(row: &QueryResult) -> Result<TaskState, StoreError> {
    parse(row, "state", |word| TaskState::parse(word).ok_or_else(|| format!("unknown state {word:?}")))
}

/// The state of a run's row.
pub(super) fn run_state(row: &QueryResult) -> Result<RunState, StoreError> {
    parse(row, "state", |word| RunState::parse(word).ok_or_else(|| format!("unknown state {word:?}")))
}

/// The epoch of a row.
pub(super) fn epoch(row: &QueryResult) -> Result<Epoch, StoreError> {
    Ok(Epoch(get(row, "epoch")?))
}

/// A count that the database keeps as BIGINT.
pub(super) fn count(row: &QueryResult, column: &str) -> Result<u32, StoreError> {
    let value: i64 = get(row, column)?;
    u32::try_from(value).map_err(|error| StoreError::Corrupt { what: "row", detail: format!("{column}: {error}") })
}

/// How the upstreams of a row ended.
pub(super) fn upstream(row: &QueryResult) -> Result<UpstreamCounts, StoreError> {
    Ok(UpstreamCounts {
        total: count(row, "up_total")?,
        succeeded: count(row, "up_succeeded")?,
        failed: count(row, "up_failed")?,
        upstream_failed: count(row, "up_upstream_failed")?,
        skipped: count(row, "up_skipped")?,
    })
}
