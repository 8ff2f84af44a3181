//! The tables as plain rows, on SQLite and Postgres.
//!
//! Used by the checker. Statements of its own: the store's readers are under test, too.

use std::collections::BTreeMap;

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, QueryResult, Statement, TryGetable,
};

use crate::Ledger;
use crate::ledger::Entry;

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) runs: Vec<Run>,
    pub(super) instances: Vec<Instance>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) events: Vec<Event>,
    pub(super) artifacts: Vec<Artifact>,
    pub(super) ledger: Vec<Entry>,
    /// Transactions of this database that Postgres ended because they waited for one another in a circle, as far
    /// as its connections have said so: each does a second later, or when it is closed.
    pub(super) deadlocks: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub(super) tenant: String,
    pub(super) run: String,
    pub(super) dag: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) version: i64,
    pub(super) logical_time: i64,
}

/// Run, task with element, generation: who something is about.
pub(super) type Key = (String, String, i64);

#[derive(Debug, Clone, Default)]
pub(super) struct Instance {
    pub(super) key: Key,
    pub(super) state: String,
    pub(super) version: i64,
    pub(super) epoch: i64,
    pub(super) attempts: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    pub(super) key: Key,
    pub(super) attempt: i64,
    pub(super) epoch: i64,
    pub(super) state: String,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Event {
    pub(super) key: Key,
    pub(super) seq: i64,
    pub(super) event: String,
    pub(super) attempt: Option<i64>,
    pub(super) epoch: Option<i64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Artifact {
    pub(super) key: Key,
    pub(super) epoch: i64,
    pub(super) object: String,
    pub(super) digest: String,
    pub(super) bytes: i64,
}

/// Every table of the schema.
pub const TABLES: [&str; 25] = [
    "dag",
    "schedule",
    "pause",
    "backfill",
    "trigger_use",
    "alert",
    "installation",
    "tenant",
    "pool",
    "dag_version",
    "document",
    "run",
    "run_document",
    "task_instance",
    "attempt",
    "event",
    "artifact",
    "attempt_input",
    "worker_session",
    "operation",
    "model_version",
    "model_decision",
    "memo",
    "drill",
    "drill_fault",
];

pub(super) async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).max_connections(1);
    Database::connect(options).await.unwrap_or_else(|error| panic!("the checker can not open the database: {error}"))
}

pub(super) async fn rows(db: &DatabaseConnection, sql: &str) -> Vec<QueryResult> {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    db.query_all_raw(statement).await.unwrap_or_else(|error| panic!("the checker can not read ({sql}): {error}"))
}

pub(super) fn get<T: TryGetable>(row: &QueryResult, column: &str) -> T {
    row.try_get("", column).unwrap_or_else(|error| panic!("column {column}: {error}"))
}

/// Reads all of it.
pub(super) async fn facts(url: &str, ledger: &Ledger) -> Facts {
    let db = connect(url).await;
    let runs = rows(&db, "SELECT tenant, run, dag, kind, state, version, logical_time FROM run").await;
    let instances =
        rows(&db, "SELECT run, task, element, generation, state, version, epoch, attempts FROM task_instance").await;
    let attempts = rows(&db, "SELECT run, task, element, generation, attempt, epoch, state FROM attempt").await;
    let events = "SELECT run, task, element, generation, seq, event, attempt, epoch FROM event ORDER BY seq";
    let events = rows(&db, events).await;
    let artifacts = rows(&db, "SELECT run, task, element, generation, epoch, key, digest, bytes FROM artifact").await;
    let deadlocks = match db.get_database_backend() {
        DbBackend::Postgres => {
            let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
            rows(&db, sql).await.first().map_or(0, |row| get(row, "deadlocks"))
        }
        _ => 0,
    };
    db.close().await.expect("closed");
    Facts {
        runs: runs.iter().map(run).collect(),
        instances: instances.iter().map(instance).collect(),
        attempts: attempts.iter().map(attempt).collect(),
        events: events.iter().map(event).collect(),
        artifacts: artifacts.iter().map(artifact).collect(),
        ledger: ledger.entries(),
        deadlocks,
    }
}

fn run(row: &QueryResult) -> Run {
    Run {
        tenant: get(row, "tenant"),
        run: get(row, "run"),
        dag: get(row, "dag"),
        kind: get(row, "kind"),
        state: get(row, "state"),
        version: get(row, "version"),
        logical_time: get(row, "logical_time"),
    }
}

fn instance(row: &QueryResult) -> Instance {
    Instance {
        key: key(row),
        state: get(row, "state"),
        version: get(row, "version"),
        epoch: get(row, "epoch"),
        attempts: get(row, "attempts"),
    }
}

fn attempt(row: &QueryResult) -> Attempt {
    Attempt { key: key(row), attempt: get(row, "attempt"), epoch: get(row, "epoch"), state: get(row, "state") }
}

fn event(row: &QueryResult) -> Event {
    Event {
        key: key(row),
        seq: get(row, "seq"),
        event: get(row, "event"),
        attempt: get(row, "attempt"),
        epoch: get(row, "epoch"),
    }
}

fn artifact(row: &QueryResult) -> Artifact {
    Artifact {
        key: key(row),
        epoch: get(row, "epoch"),
        object: get(row, "key"),
        digest: get(row, "digest"),
        bytes: get(row, "bytes"),
    }
}

fn key(row: &QueryResult) -> Key {
    let (task, element): (String, i64) = (get(row, "task"), get(row, "element"));
    let task = if element < 0 { task } else { format!("{task}[{element}]") };
    (get(row, "run"), task, get(row, "generation"))
}

/// Tables in which a row holds `text`.
pub(super) async fn tables_with(url: &str, text: &str) -> Vec<String> {
    let db = connect(url).await;
    let mut found = Vec::new();
    for table in TABLES {
        let sql = match db.get_database_backend() {
            DbBackend::Postgres => format!("SELECT COUNT(*) AS n FROM {table} t WHERE t::text LIKE '%{text}%'"),
            _ => sqlite_search(&db, table, text).await,
        };
        if rows(&db, &sql).await.iter().any(|row| get::<i64>(row, "n") > 0) {
            found.push(format!("table {table}"));
        }
    }
    db.close().await.expect("closed");
    found
}

async fn sqlite_search(db: &DatabaseConnection, table: &str, text: &str) -> String {
    let columns = rows(db, &format!("SELECT name FROM pragma_table_info('{table}')")).await;
    let tests: Vec<_> =
        columns.iter().map(|row| format!("CAST(\"{}\" AS TEXT) LIKE '%{text}%'", get::<String>(row, "name"))).collect();
    format!("SELECT COUNT(*) AS n FROM {table} WHERE {}", tests.join(" OR "))
}

/// Groups by key, in the order of the rows.
pub(super) fn by_key<'a, T>(rows: &'a [T], key: impl Fn(&'a T) -> &'a Key) -> BTreeMap<&'a Key, Vec<&'a T>> {
    let mut groups: BTreeMap<&Key, Vec<&T>> = BTreeMap::new();
    for row in rows {
        groups.entry(key(row)).or_default().push(row);
    }
    groups
}
