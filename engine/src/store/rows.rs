//! Task instances as stored rows, and the way back into domain types.
//!
//! Shared by the files of `store` that read or write task instances. A word that no state knows is
//! an error here, not a default.

use sea_orm::QueryResult;
use serde_json::{Map, Value, json};

use super::StoreError;
use super::dialect::{Column, Dialect, Kind};
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
        json!({
            "tenant": self.tenant, "run": self.run, "task": self.instance.task,
            "element": element(self.instance.index), "generation": self.generation,
        })
    }

    /// The columns of [`KEY`].
    pub(super) fn cells(&self) -> [Cell; 5] {
        [
            ("tenant", self.tenant.as_str().into()),
            ("run", self.run.to_string().into()),
            ("task", self.instance.task.as_str().into()),
            ("element", element(self.instance.index).into()),
            ("generation", self.generation.0.into()),
        ]
    }

    /// Joins `alias` to the rows of a [`Dialect::rows`](super::dialect::Dialect::rows) source.
    pub(super) fn join(alias: &str) -> String {
        let on: Vec<_> = KEY.iter().map(|(name, _)| format!("{alias}.{name} = r.{name}")).collect();
        on.join(" AND ")
    }
}

/// A row source of the key and `more`, read from parameter `$n`.
pub(super) fn keyed_rows(dialect: Dialect, n: u8, more: &[Column]) -> String {
    dialect.rows(n, &[&KEY[..], more].concat())
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

/// A column and what a row has in it.
pub(super) type Cell = (&'static str, Datum);

/// What a row has in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Datum {
    Text(Option<String>),
    Int(Option<i64>),
}

impl Datum {
    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Int(_) => Kind::Int,
        }
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<&str>> for Datum {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<Option<String>> for Datum {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Datum {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<u32> for Datum {
    fn from(number: u32) -> Self {
        Self::Int(Some(number.into()))
    }
}

impl From<Option<i64>> for Datum {
    fn from(number: Option<i64>) -> Self {
        Self::Int(number)
    }
}

impl From<Datum> for sea_orm::Value {
    fn from(datum: Datum) -> Self {
        match datum {
            Datum::Text(text) => text.into(),
            Datum::Int(number) => number.into(),
        }
    }
}

/// Rows that a statement reads as a table: what every move of a task instance goes through.
///
/// Postgres is given one JSON parameter. SQLite, whose functions for JSON take longer than all that it does
/// with the rows, is given each value as a parameter, as long as they are no more than [`BOUND`] rows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    columns: Vec<Column>,
    /// Row by row, in the order of `columns`.
    data: Vec<Datum>,
}

/// Rows that are bound value by value at the most: longer texts are not worth their preparation.
pub(super) const BOUND: usize = 256;

impl Rows {
    /// Appends a row; all have the same columns, and the first is never null.
    pub(super) fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let is_first = self.data.is_empty();
        for (name, datum) in row {
            if is_first {
                self.columns.push((name, datum.kind()));
            }
            debug_assert_eq!(self.columns[self.data.len() % self.columns.len()], (name, datum.kind()));
            self.data.push(datum);
        }
    }

    /// Appends a row of a key's columns.
    pub(super) fn push_key(&mut self, key: &InstanceKey) {
        self.push(key.cells());
    }

    /// Appends a row of a key's columns and of more.
    pub(super) fn push_keyed(&mut self, key: &InstanceKey, more: impl IntoIterator<Item = Cell>) {
        self.push(key.cells().into_iter().chain(more));
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        if self.columns.is_empty() { 0 } else { self.data.len() / self.columns.len() }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The columns' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|(name, _)| *name)
    }

    /// Whether each value is a parameter of its own, numbered by where it stands.
    pub(super) fn is_bound(&self, dialect: Dialect) -> bool {
        dialect == Dialect::Sqlite && self.len() <= BOUND
    }

    /// These rows as a table `r`, in a statement that has `others` parameters beside them, `$1` and on.
    pub(super) fn table(&self, dialect: Dialect, others: u8) -> String {
        if !self.is_bound(dialect) {
            return dialect.rows(others + 1, &self.columns);
        }
        let names: Vec<_> =
            self.columns.iter().zip(1..).map(|((name, _), at)| format!("column{at} AS {name}")).collect();
        let row = format!("({})", vec!["?"; self.columns.len()].join(","));
        // Few texts for all numbers of rows, so that they are prepared once; the rows in excess are null.
        let rows = vec![row.as_str(); padded(self.len())].join(",");
        format!("(SELECT {} FROM (VALUES {rows}) WHERE column1 IS NOT NULL) AS r", names.join(", "))
    }

    /// The parameters: one, or those of a [bound](Self::is_bound) table.
    pub(super) fn into_params(self, dialect: Dialect) -> Vec<sea_orm::Value> {
        if self.is_empty() {
            return Vec::new();
        }
        if !self.is_bound(dialect) {
            return vec![self.into_json().into()];
        }
        let all = padded(self.len()) * self.columns.len();
        let mut values: Vec<sea_orm::Value> = Vec::with_capacity(all);
        values.extend(self.data.into_iter().map(sea_orm::Value::from));
        values.resize(all, Datum::Int(None).into());
        values
    }

    /// A JSON array of objects, written without a tree of values.
    fn into_json(self) -> String {
        let mut text = Vec::with_capacity(self.data.len() * 24);
        for row in self.data.chunks(self.columns.len().max(1)) {
            text.push(if text.is_empty() { b'[' } else { b',' });
            for (at, (datum, (name, _))) in row.iter().zip(&self.columns).enumerate() {
                text.push(if at == 0 { b'{' } else { b',' });
                text.push(b'"');
                text.extend(name.as_bytes());
                text.extend(b"\":");
                let written = match datum {
                    Datum::Text(text_of) => serde_json::to_writer(&mut text, text_of),
                    Datum::Int(number) => serde_json::to_writer(&mut text, number),
                };
                written.expect("text and numbers are JSON");
            }
            text.push(b'}');
        }
        text.push(b']');
        String::from_utf8(text).expect("JSON is text")
    }
}

/// How many rows a table of `rows` is written with: a quarter more at the most.
fn padded(rows: usize) -> usize {
    rows.next_multiple_of((rows.next_power_of_two() / 8).max(1))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rows(count: i64) -> Rows {
        let mut rows = Rows::default();
        for at in 0..count {
            rows.push([("name", format!("\"{at}\"").into()), ("size", Datum::Int((at > 0).then_some(at)))]);
        }
        rows
    }

    #[test]
    fn postgres_is_given_one_text() {
        assert_eq!(
            rows(2).table(Dialect::Postgres, 3),
            "json_to_recordset(CAST($4 AS json)) AS r(name text, size bigint)"
        );
        let text = r#"[{"name":"\"0\"","size":null},{"name":"\"1\"","size":1}]"#;
        assert_eq!(rows(2).into_params(Dialect::Postgres), [text.into()]);
    }

    #[test]
    fn sqlite_is_given_each_value_and_few_texts() {
        let sql = rows(2).table(Dialect::Sqlite, 3);
        assert_eq!(
            sql,
            "(SELECT column1 AS name, column2 AS size FROM (VALUES (?,?),(?,?)) WHERE column1 IS NOT NULL) AS r"
        );
        let values = rows(9).into_params(Dialect::Sqlite);
        assert_eq!(values.len(), 20, "ten rows, of which one is null");
        assert_eq!(values.len(), rows(9).table(Dialect::Sqlite, 0).matches('?').count());
        let texts: BTreeSet<_> = (1..=256).map(|count| rows(count).table(Dialect::Sqlite, 0)).collect();
        assert_eq!(texts.len(), 28, "for 256 numbers of rows");
        assert!(rows(257).table(Dialect::Sqlite, 3).contains("jsonb_each($4)"));
        assert_eq!(rows(257).into_params(Dialect::Sqlite).len(), 1);
    }
}
