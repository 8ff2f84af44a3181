//! Connections to the database, and the one place that lets no call wait for ever.
//!
//! Used by everything in `store` that speaks to the database. On Postgres every call ends within the
//! limit of the configuration: a line that carries nothing and is never closed (a partition, a machine
//! that lost its power) looks like a slow answer until somebody stops waiting. A call that was given up
//! leaves its connection in the middle of a conversation, and the pool would wait for the rest of it,
//! so all connections are left behind together and new ones are opened. The server, in turn, ends a
//! transaction whose client says nothing for as long: its locks are others' to take. A call may also be given up
//! from outside (a heartbeat that takes too long, a task that is aborted); of those only a BEGIN needs care.
//!
//! SQLite is a file: its busy time-out (`open.rs`) ends every wait. Migrations take as long as they take. All
//! that writes there has one connection, which knows the pages that it wrote and the statements that it read;
//! any other one forgets both with each commit that is not its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement, TransactionOptions, TransactionTrait,
};
use tokio::runtime::Handle;

/// How long a call may take, unless the configuration says otherwise: a third of a lease.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Pool {
    current: RwLock<Generation>,
    backend: DbBackend,
    /// `None`: calls end by themselves.
    limit: Option<Duration>,
    options: Connecting,
}

/// How to connect.
#[derive(Clone)]
pub(super) struct Connecting {
    pub(super) all: ConnectOptions,
    /// For transactions that write, where they have a connection of their own.
    pub(super) writer: Option<ConnectOptions>,
}

impl Connecting {
    /// The connection of what writes: one of its own, or `db`.
    async fn writer_beside(&self, db: &DatabaseConnection) -> Result<DatabaseConnection, DbErr> {
        match &self.writer {
            Some(options) => lazily(options).await,
            None => Ok(db.clone()),
        }
    }
}

/// Connections that were opened since the last call that was given up.
#[derive(Clone)]
struct Generation {
    number: u64,
    db: DatabaseConnection,
    writer: DatabaseConnection,
}

impl Pool {
    /// A pool that begins with `db`, which was opened with `options.all`.
    pub(super) async fn new(db: DatabaseConnection, options: Connecting, limit: Duration) -> Result<Self, DbErr> {
        let backend = db.get_database_backend();
        let limit = (backend == DbBackend::Postgres).then_some(limit);
        let writer = options.writer_beside(&db).await?;
        Ok(Self { current: RwLock::new(Generation { number: 0, db, writer }), backend, limit, options })
    }

    /// The connections of the moment; calls on them have no limit but the caller's.
    pub(super) fn handle(&self) -> DatabaseConnection {
        self.generation().db
    }

    /// The connection of what writes.
    pub(super) fn writer(&self) -> DatabaseConnection {
        self.generation().writer
    }

    /// Which database it is.
    pub(super) fn backend(&self) -> DbBackend {
        self.backend
    }

    fn generation(&self) -> Generation {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin(&self, options: TransactionOptions) -> Result<DatabaseTransaction, DbErr> {
        let db = self.writer();
        let beginning = Box::pin(async move { db.begin_with_options(options).await });
        self.within(Beginning { going: Some(beginning), limit: self.limit }).await?
    }

    /// Waits for an answer, but not longer than the limit. What was given up may have happened.
    pub(super) async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, DbErr> {
        let Some(limit) = self.limit else { return Ok(call.await) };
        let number = self.generation().number;
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.leave(number).await;
                let message = format!("no answer came within {} s", limit.as_secs_f64());
                Err(DbErr::Conn(RuntimeErr::Internal(message)))
            }
        }
    }

    /// Leaves all connections behind after SQLite failed to end a transaction: it may have rolled back by
    /// itself (a full disk, an I/O error), and the connection then believes that it is in a transaction still.
    /// What it begins next would be a part of one that nobody ever commits.
    pub(super) async fn distrust(&self) {
        if self.backend == DbBackend::Sqlite {
            self.leave(self.generation().number).await;
        }
    }

    /// Leaves the connections of a generation behind, unless somebody else did.
    async fn leave(&self, number: u64) {
        let connecting = async {
            let db = lazily(&self.options.all).await?;
            let writer = self.options.writer_beside(&db).await?;
            Ok::<_, DbErr>((db, writer))
        };
        let (db, writer) = match connecting.await {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, "can not make new connections; going on with the old ones");
                return;
            }
        };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.number == number {
            tracing::warn!("the connections to the database are left behind, and new ones opened");
            *current = Generation { number: number + 1, db, writer };
        }
    }
}

type Begun = Result<DatabaseTransaction, DbErr>;

/// A BEGIN that is seen through when its caller goes away. The driver counts a transaction once the answer is
/// there: of one that was dropped before, it would give the connection back to the pool, with the transaction
/// open and nobody who knows of it.
struct Beginning {
    going: Option<Pin<Box<dyn Future<Output = Begun> + Send>>>,
    /// As of the pool.
    limit: Option<Duration>,
}

impl Future for Beginning {
    type Output = Begun;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Begun> {
        let Some(going) = self.going.as_mut() else { return Poll::Pending };
        let begun = std::task::ready!(going.as_mut().poll(context));
        self.going = None;
        Poll::Ready(begun)
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        // SQLite's driver rolls back what nobody waits for; a transaction that is dropped is rolled back, too.
        if let (Some(going), Some(limit), Ok(runtime)) = (self.going.take(), self.limit, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(limit, going));
        }
    }
}

/// Connections that are opened when they are needed.
async fn lazily(options: &ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    let mut options = options.clone();
    options.connect_lazy(true);
    Database::connect(options).await
}

#[async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.backend
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let db = self.handle();
        self.within(db.execute_raw(statement)).await?
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let db = self.handle();
        self.within(db.execute_unprepared(sql)).await?
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let db = self.handle();
        self.within(db.query_one_raw(statement)).await?
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let db = self.handle();
        self.within(db.query_all_raw(statement)).await?
    }
}
