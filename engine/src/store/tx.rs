//! One way to write: a transaction with an operation id, retried where that is safe.
//!
//! Every mutating call of the store is a [`Write`]. The wrapper begins (IMMEDIATE on SQLite), applies
//! and commits; errors of serialization, deadlock and lock time-outs run the whole transaction again,
//! with jitter, a bounded number of times. So does a write that has task instances locked and finds a run's row
//! held: all wait for runs first and for task instances then, and the next try has that row before it begins.
//!
//! An error *during* COMMIT is an unknown outcome. Each write that changes what others read leaves
//! its operation id in the transaction (with [`Tx::all_of`]), the same id in every try. After a lost
//! answer the id is looked up; if it is not there, the write is applied again, and should the lost
//! COMMIT still arrive meanwhile, the id collides: the database itself decides which of the two it was.
//! Writes without an id (heartbeats, sessions) may be applied twice. An answer that does not come in time
//! (`pool.rs`) is a lost one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, QueryResult, RuntimeErr,
    SqliteTransactionMode, Statement, TransactionOptions, Value,
};
use uuid::Uuid;

use super::advance::{RunKey, lock_runs};
use super::dialect::Dialect;
use super::rows::Rows;
use super::{Store, StoreError};
use crate::id::OpId;
use crate::plan::Micros;

/// Tries of one transaction; after eight conflicts in a row the caller has to know.
const MAX_TRIES: u32 = 8;

/// Commits of a process after which tables that nobody has analyzed yet are: a new database would keep the
/// plans for empty tables until autovacuum comes by.
const FRESH: u64 = 64;

/// SQLSTATEs that say "again": serialization failure, deadlock, lock not available.
const RETRYABLE: [&str; 3] = ["40001", "40P01", "55P03"];

/// A change to the store, applied in one transaction; must be safe to apply again after a rollback.
#[async_trait]
pub(super) trait Write: Sync {
    /// What it returns.
    type Output: Send;
    /// Verb and object, for errors.
    const WHAT: &'static str;
    /// Does it.
    async fn apply(&self, tx: &Tx) -> Result<Self::Output, StoreError>;
}

/// An open transaction.
pub(super) struct Tx {
    inner: DatabaseTransaction,
    backend: DbBackend,
    /// How this database spells things.
    pub(super) dialect: Dialect,
    /// This write's id, the same in each of its tries.
    pub(super) op_id: OpId,
    /// The database's clock when the transaction began, as far as this process knows it. Leases are
    /// not judged by it but by [`Dialect::now`].
    pub(super) now: Micros,
    /// The runs that were locked before anything else, because others held them in the try before.
    pub(super) locked_first: BTreeSet<RunKey>,
    /// Whether `op_id` was left already.
    has_left_id: AtomicBool,
}

/// A statement for [`Tx::all_of`].
pub(super) struct Part {
    what: &'static str,
    sql: String,
    rows: Rows,
    values: Vec<Value>,
}

impl Part {
    /// Verb and object for errors, and SQL with its own parameters from `$1`.
    pub(super) fn new(what: &'static str, sql: String, values: Vec<Value>) -> Self {
        Self::of_rows(what, sql, Rows::default(), values)
    }

    /// As [`new`](Self::new), of SQL that reads `rows` as a table beside its parameters.
    pub(super) fn of_rows(what: &'static str, sql: String, rows: Rows, values: Vec<Value>) -> Self {
        Self { what, sql, rows, values }
    }
}

/// How an attempt at a write ended, if not well.
enum Failed<T> {
    /// Rolled back.
    Error(StoreError),
    /// The answer to COMMIT was lost.
    Unknown(T, StoreError),
}

impl Tx {
    /// The connection, for SeaORM's own queries.
    pub(super) fn inner(&self) -> &DatabaseTransaction {
        &self.inner
    }

    /// Runs a statement that returns rows.
    pub(super) async fn all(
        &self,
        what: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<QueryResult>, StoreError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        self.inner.query_all_raw(statement).await.map_err(StoreError::query(what))
    }

    /// Runs a statement; returns how many rows it touched.
    pub(super) async fn execute(&self, what: &'static str, sql: &str, values: Vec<Value>) -> Result<u64, StoreError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        let result = self.inner.execute_raw(statement).await.map_err(StoreError::query(what))?;
        Ok(result.rows_affected())
    }

    /// Runs a part by itself; returns how many rows it touched.
    pub(super) async fn run(&self, part: Part) -> Result<u64, StoreError> {
        let what = part.what;
        let (sql, values) = joined(self.dialect, vec![part]);
        self.execute(what, &sql.concat(), values).await
    }
}

impl Tx {
    /// Runs changes that do not depend on one another, and leaves the operation's id beside them, in one
    /// round trip: on Postgres as parts of one statement, on SQLite as statements in one text.
    pub(super) async fn all_of(&self, mut parts: Vec<Part>) -> Result<(), StoreError> {
        if parts.is_empty() && self.has_left_id.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.has_left_id.swap(true, Ordering::Relaxed) {
            let values = vec![self.op_id.to_string().into(), self.now.into()];
            parts.push(Part::new(OPERATION, LEAVE_ID.to_owned(), values));
        }
        match self.dialect {
            Dialect::Sqlite => {
                // One text for each number of rows is kept prepared, and not one for each of their combinations.
                let (mut few, mut many): (Vec<_>, Vec<_>) =
                    parts.into_iter().partition(|part| part.rows.len() <= JOINED);
                // The last of many takes a lone one along.
                if few.len() == 1 {
                    few.splice(0..0, many.pop());
                }
                for part in many {
                    self.run(part).await?;
                }
                let what = few.first().map_or(OPERATION, |part| part.what);
                let (statements, values) = joined(self.dialect, few);
                if !statements.is_empty() {
                    self.execute(what, &statements.join("; "), values).await?;
                }
            }
            Dialect::Postgres => {
                let what = parts.first().map_or(OPERATION, |part| part.what);
                let (statements, values) = joined(self.dialect, parts);
                let named: Vec<_> =
                    statements.iter().enumerate().map(|(at, sql)| format!("p{at} AS ({sql})")).collect();
                // A data-modifying part runs whether or not anything reads it.
                self.all(what, &format!("WITH {} SELECT 1 AS done", named.join(", ")), values).await?;
            }
        }
        Ok(())
    }
}

/// Rows that a part has at the most to be joined with others into one text of SQLite.
const JOINED: usize = 8;

/// The texts of parts that run together, and the parameters of all. Those that are bound by where they stand
/// come first: the driver counts them through all statements, and the others by their numbers.
fn joined(dialect: Dialect, parts: Vec<Part>) -> (Vec<String>, Vec<Value>) {
    let (mut bound, mut numbered) = (Vec::new(), Vec::new());
    let mut texts = Vec::with_capacity(parts.len());
    for mut part in parts {
        let by = numbered.len();
        if part.rows.is_bound(dialect) {
            bound.extend(part.rows.into_params(dialect));
        } else {
            part.values.extend(part.rows.into_params(dialect));
        }
        numbered.append(&mut part.values);
        texts.push((part.sql, by));
    }
    let texts = texts.into_iter().map(|(sql, by)| renumber(&sql, by + bound.len())).collect();
    bound.append(&mut numbered);
    (texts, bound)
}

const OPERATION: &str = "leave the operation's id";
const LEAVE_ID: &str = "INSERT INTO operation (op_id, at) VALUES ($1, $2)";

/// Raises the numbers of a statement's parameters.
fn renumber(sql: &str, by: usize) -> String {
    if by == 0 {
        return sql.to_owned();
    }
    let mut pieces = sql.split('$');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        out.push('$');
        match piece[..digits].parse::<usize>() {
            Ok(number) => out.push_str(&(number + by).to_string()),
            // A path into JSON.
            Err(_) => out.push_str(&piece[..digits]),
        }
        out.push_str(&piece[digits..]);
    }
    out
}

impl Store {
    /// Applies `change` in a transaction of its own.
    pub(super) async fn write<W: Write>(&self, change: &W) -> Result<W::Output, StoreError> {
        // SQLite has one writer: queueing here costs nothing, its busy handler sleeps.
        let _turn = match self.dialect {
            Dialect::Sqlite => Some(self.writer.lock().await),
            Dialect::Postgres => None,
        };
        let op_id = OpId::from_uuid(Uuid::now_v7());
        let mut lost: Option<W::Output> = None;
        let mut held = BTreeSet::new();
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.attempt(change, op_id, lost.is_some(), &held).await {
                Ok(output) => return Ok(output),
                Err(Failed::Unknown(output, error)) => {
                    tracing::warn!(%error, %op_id, "the answer to a COMMIT was lost; looking it up");
                    if self.was_committed(op_id).await? {
                        return Ok(output);
                    }
                    lost = Some(output);
                    error
                }
                // The lost COMMIT may have arrived after all: this try met its own id, or rows of its own.
                Err(Failed::Error(error)) => match lost.take() {
                    Some(output) if is_own_id(&error) || self.was_committed(op_id).await? => return Ok(output),
                    output => {
                        lost = output;
                        error
                    }
                },
            };
            if let StoreError::RunsHeld { runs } = &error
                && tries < MAX_TRIES
            {
                // It waits at their rows.
                held.extend(runs.iter().cloned());
                continue;
            }
            if tries >= MAX_TRIES || !(lost.is_some() || is_retryable(&error)) {
                return Err(error);
            }
            // Colliders must not meet again: 1 to 2 times 5 ms, doubled each time.
            let jitter = u64::from(Uuid::new_v4().as_bytes()[0]);
            let base = 5u64 << (tries - 1);
            tokio::time::sleep(Duration::from_millis(base + base * jitter / 255)).await;
        }
    }

    /// One try. After a lost COMMIT it leaves the id whatever it changes: so it waits for a COMMIT that is
    /// still on its way, and meets it.
    async fn attempt<W: Write>(
        &self,
        change: &W,
        op_id: OpId,
        leaves_id: bool,
        held: &BTreeSet<RunKey>,
    ) -> Result<W::Output, Failed<W::Output>> {
        let mut tx = self.begin(W::WHAT, op_id).await.map_err(Failed::Error)?;
        tx.locked_first.clone_from(held);
        let applying = async {
            lock_runs(&tx, held, &tx.dialect.lock("u")).await?;
            let output = change.apply(&tx).await?;
            if leaves_id {
                tx.all_of(Vec::new()).await?;
            }
            Ok(output)
        };
        let applied = self.db.within(applying).await;
        let output = match applied.map_err(StoreError::query(W::WHAT)).flatten() {
            Ok(output) => output,
            Err(error) => {
                // A failed rollback ends with the connection; the first error is the one that matters.
                if self.db.within(tx.inner.rollback()).await.flatten().is_err() {
                    self.db.distrust().await;
                }
                return Err(Failed::Error(error));
            }
        };
        match self.db.within(tx.inner.commit()).await.flatten() {
            Ok(()) => {
                if self.commits.fetch_add(1, Ordering::Relaxed) == FRESH && self.dialect == Dialect::Postgres {
                    tokio::spawn(analyze(self.db.handle()));
                }
                Ok(output)
            }
            Err(source) if is_conflict(&source) => Err(Failed::Error(StoreError::Query { what: W::WHAT, source })),
            Err(source) => {
                self.db.distrust().await;
                Err(Failed::Unknown(output, StoreError::Query { what: W::WHAT, source }))
            }
        }
    }

    async fn begin(&self, what: &'static str, op_id: OpId) -> Result<Tx, StoreError> {
        // Postgres's default is READ COMMITTED; saying so again would cost a round trip.
        let options = TransactionOptions {
            isolation_level: None,
            access_mode: None,
            sqlite_transaction_mode: (self.dialect == Dialect::Sqlite).then_some(SqliteTransactionMode::Immediate),
        };
        let inner = self.db.begin(options).await.map_err(StoreError::query(what))?;
        let backend = self.db.get_database_backend();
        Ok(Tx {
            inner,
            backend,
            dialect: self.dialect,
            op_id,
            now: self.clock.now(),
            locked_first: BTreeSet::new(),
            has_left_id: AtomicBool::new(false),
        })
    }

    /// Transactions that this process has committed since it opened the store.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// How long `count` single-row durable commits take, one after the other: what the database can do.
    ///
    /// # Errors
    /// The database's.
    pub async fn measure_commits(&self, count: u32) -> Result<Duration, StoreError> {
        let (writer, backend) = (self.db.writer(), self.db.get_database_backend());
        let started = Instant::now();
        for _ in 0..count {
            let values: [Value; 2] = [Uuid::now_v7().to_string().into(), self.clock.now().into()];
            let statement = Statement::from_sql_and_values(backend, LEAVE_ID, values);
            writer.execute_raw(statement).await.map_err(StoreError::query("measure commits"))?;
        }
        Ok(started.elapsed())
    }

    async fn was_committed(&self, op_id: OpId) -> Result<bool, StoreError> {
        let statement = Statement::from_sql_and_values(
            self.db.get_database_backend(),
            "SELECT op_id FROM operation WHERE op_id = $1",
            [op_id.to_string().into()],
        );
        let mut tries = 0;
        loop {
            tries += 1;
            match self.db.query_one_raw(statement.clone()).await.map_err(StoreError::query("look up an operation")) {
                Ok(row) => return Ok(row.is_some()),
                Err(error) if tries < MAX_TRIES && error.is_unavailable() => {
                    tokio::time::sleep(Duration::from_millis(50 << tries)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Has Postgres look at how many rows its tables have, where it never did.
async fn analyze(db: DatabaseConnection) {
    let sql = "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples < 0 AND relnamespace = \
               (SELECT oid FROM pg_namespace WHERE nspname = current_schema())";
    let analyzed = async {
        for row in read(&db, "look for tables that were never analyzed", sql, vec![]).await? {
            let table: String = super::rows::get(&row, "relname")?;
            db.execute_unprepared(&format!("ANALYZE \"{table}\""))
                .await
                .map_err(StoreError::query("analyze a table"))?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = analyzed.await {
        tracing::debug!(%error, "can not analyze the tables of a new database; autovacuum will");
    }
}

/// Rows of a read outside of any transaction.
pub(super) async fn read(
    db: &impl ConnectionTrait,
    what: &'static str,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<QueryResult>, StoreError> {
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    db.query_all_raw(statement).await.map_err(StoreError::query(what))
}

fn is_retryable(error: &StoreError) -> bool {
    matches!(error, StoreError::Query { source, .. } if is_conflict(source))
}

fn is_conflict(error: &DbErr) -> bool {
    database_error(error).and_then(|error| error.code()).is_some_and(|code| RETRYABLE.contains(&code.as_ref()))
}

/// Whether an operation's id was there already: nothing else ever inserts it.
fn is_own_id(error: &StoreError) -> bool {
    let StoreError::Query { source, .. } = error else { return false };
    database_error(source).is_some_and(|error| error.is_unique_violation() && error.message().contains("operation"))
}

/// Whether the database could not be heard, or refused because of how it is itself: full, out of memory or
/// connections, starting or going down, locked by others for too long. The same may go well later.
pub(super) fn is_unwell(error: &DbErr) -> bool {
    /// SQLITE_BUSY, _NOMEM, _IOERR, _FULL, _CANTOPEN.
    const SQLITE: [i32; 5] = [5, 7, 10, 13, 14];
    /// Connection exceptions, conflicts, insufficient resources, locks, operator intervention, system errors.
    const POSTGRES: [&str; 6] = ["08", "40", "53", "55", "57", "58"];
    let Some(error) = database_error(error) else { return is_line(error) };
    let code = error.code().unwrap_or_default();
    match error.try_downcast_ref::<SqliteError>() {
        // An extended code has the plain one in its low byte.
        Some(_) => code.parse::<i32>().is_ok_and(|code| SQLITE.contains(&(code & 0xff))),
        None => POSTGRES.iter().any(|class| code.starts_with(class)),
    }
}

/// Whether the line to the database broke, in the middle of a statement or before it.
fn is_line(error: &DbErr) -> bool {
    use sea_orm::sqlx::Error;
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => matches!(
            **error,
            Error::Io(_)
                | Error::Tls(_)
                | Error::Protocol(_)
                | Error::PoolTimedOut
                | Error::PoolClosed
                | Error::WorkerCrashed
        ),
        _ => false,
    }
}

fn database_error(error: &DbErr) -> Option<&dyn sea_orm::sqlx::error::DatabaseError> {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return None;
    };
    error.as_database_error()
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Part, Rows, joined, renumber};

    #[test]
    fn what_is_bound_by_its_place_comes_before_what_is_bound_by_its_number() {
        let part = |at: i64| {
            let mut rows = Rows::default();
            rows.push([("n", at.into())]);
            let sql = format!("INSERT INTO t SELECT r.n, $1 FROM {}", rows.table(Dialect::Sqlite, 1));
            Part::of_rows("insert", sql, rows, vec![(at * 10).into()])
        };
        let (texts, values) = joined(Dialect::Sqlite, vec![part(1), part(2)]);
        assert_eq!(values, [1_i64, 2, 10, 20].map(sea_orm::Value::from));
        assert!(texts[0].starts_with("INSERT INTO t SELECT r.n, $3 FROM"), "{}", texts[0]);
        assert!(texts[1].starts_with("INSERT INTO t SELECT r.n, $4 FROM"), "{}", texts[1]);
    }

    #[test]
    fn parameters_are_numbered_on() {
        assert_eq!(renumber("SELECT $1, $12 WHERE a = $2", 3), "SELECT $4, $15 WHERE a = $5");
        assert_eq!(renumber("SELECT $1", 0), "SELECT $1");
        assert_eq!(renumber("SELECT 1", 7), "SELECT 1");
        assert_eq!(
            renumber("SELECT value ->> '$.a' FROM json_each($1)", 2),
            "SELECT value ->> '$.a' FROM json_each($3)"
        );
    }
}
