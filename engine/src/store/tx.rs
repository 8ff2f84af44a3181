//! One way to write: a transaction with an operation id, retried where that is safe.
//!
//! Every mutating call of the store is a [`Write`]. The wrapper begins (IMMEDIATE on SQLite), leaves
//! the operation's id and reads the database's clock in one statement, applies, commits. Errors of
//! serialization, deadlock and lock time-outs run the whole transaction again, with jitter, a
//! bounded number of times. An error *during* COMMIT is an unknown outcome: the id is looked up, and
//! only if it is not there is the write applied again.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    QueryResult, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait, Value,
};
use uuid::Uuid;

use super::dialect::Dialect;
use super::{Store, StoreError};
use crate::id::OpId;
use crate::plan::Micros;

/// Tries of one transaction; after eight conflicts in a row the caller has to know.
const MAX_TRIES: u32 = 8;

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
    /// This transaction's id.
    pub(super) op_id: OpId,
    /// The database's clock when the transaction began.
    pub(super) now: Micros,
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
}

impl Store {
    /// Applies `change` in a transaction of its own.
    pub(super) async fn write<W: Write>(&self, change: &W) -> Result<W::Output, StoreError> {
        // SQLite has one writer: queueing here costs nothing, its busy handler sleeps.
        let _turn = match self.dialect {
            Dialect::Sqlite => Some(self.writer.lock().await),
            Dialect::Postgres => None,
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.attempt(change).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            if tries >= MAX_TRIES || !is_retryable(&error) {
                return Err(error);
            }
            // Colliders must not meet again: 1 to 2 times 5 ms, doubled each time.
            let jitter = u64::from(Uuid::new_v4().as_bytes()[0]);
            let base = 5u64 << (tries - 1);
            tokio::time::sleep(Duration::from_millis(base + base * jitter / 255)).await;
        }
    }

    async fn attempt<W: Write>(&self, change: &W) -> Result<W::Output, StoreError> {
        let tx = self.begin(W::WHAT).await?;
        let op_id = tx.op_id;
        let output = match change.apply(&tx).await {
            Ok(output) => output,
            Err(error) => {
                // A failed rollback ends with the connection; the first error is the one that matters.
                tx.inner.rollback().await.ok();
                return Err(error);
            }
        };
        match tx.inner.commit().await {
            Ok(()) => Ok(output),
            Err(source) if is_conflict(&source) => Err(StoreError::Query { what: W::WHAT, source }),
            Err(source) => match self.was_committed(op_id).await? {
                true => Ok(output),
                false => Err(StoreError::Query { what: W::WHAT, source }),
            },
        }
    }

    async fn begin(&self, what: &'static str) -> Result<Tx, StoreError> {
        let options = TransactionOptions {
            isolation_level: (self.dialect == Dialect::Postgres).then_some(IsolationLevel::ReadCommitted),
            access_mode: (self.dialect == Dialect::Postgres).then_some(AccessMode::ReadWrite),
            sqlite_transaction_mode: (self.dialect == Dialect::Sqlite).then_some(SqliteTransactionMode::Immediate),
        };
        let inner = self.db.begin_with_options(options).await.map_err(StoreError::query(what))?;
        let backend = self.db.get_database_backend();
        let op_id = OpId::from_uuid(Uuid::now_v7());
        let mut tx = Tx { inner, backend, dialect: self.dialect, op_id, now: 0 };
        let sql = format!("INSERT INTO operation (op_id, at) VALUES ($1, {}) RETURNING at", self.dialect.now());
        let rows = tx.all(what, &sql, vec![op_id.to_string().into()]).await?;
        let row = rows.first().ok_or(StoreError::Corrupt { what: "operation", detail: "no row came back".into() })?;
        tx.now = row.try_get("", "at").map_err(StoreError::query(what))?;
        Ok(tx)
    }

    async fn was_committed(&self, op_id: OpId) -> Result<bool, StoreError> {
        let statement = Statement::from_sql_and_values(
            self.db.get_database_backend(),
            "SELECT op_id FROM operation WHERE op_id = $1",
            [op_id.to_string().into()],
        );
        let row = self.db.query_one_raw(statement).await.map_err(StoreError::query("look up an operation"))?;
        Ok(row.is_some())
    }
}

/// Rows of a read outside of any transaction.
pub(super) async fn read(
    db: &DatabaseConnection,
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
    use sea_orm::RuntimeErr;
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|database| database.code());
    code.is_some_and(|code| RETRYABLE.contains(&code.as_ref()))
}
