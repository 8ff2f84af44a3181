//! Opening a database: connect, own (SQLite), check the versions, migrate.
//!
//! SQLite runs in WAL mode with `synchronous = FULL`, Postgres with `synchronous_commit = on`: what
//! was acknowledged is durable. One process owns an SQLite file, by a lock on a file beside it that
//! dies with the process: it alone opens sessions. Readers need no lock, nor does who only asks for
//! something in a transaction, which waits for its turn in SQLite's own queue of writers.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use migrations::{Migrator, MigratorTrait};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, Statement, TransactionTrait};

use super::dialect::Dialect;
use super::pool::{CALL_LIMIT, Connecting, Pool};
use super::time::DatabaseClock;
use super::{Catalog, Store, StoreError, tx};
use crate::id::Incarnation;
use crate::plan::Limits;

/// What the caller is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Execute runs: owns an SQLite file, migrates what is behind.
    Own,
    /// Look only.
    Read,
    /// Ask for something, such as a cancel, while another process may own an SQLite file: single
    /// transactions, and no session that could hold an attempt.
    Ask,
}

/// A migration and whether it was applied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Migration {
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

impl Store {
    /// Opens the database at `url` (`sqlite://PATH` or `postgres://...`).
    ///
    /// # Errors
    /// Unreachable, owned by another process, of a newer schema, or (reading) not migrated yet.
    pub async fn open(url: &str, mode: OpenMode, catalog: Catalog) -> Result<Self, StoreError> {
        Self::open_with(url, mode, catalog, CALL_LIMIT).await
    }

    /// As [`Store::open`]; a call that Postgres does not answer within `limit` has failed.
    ///
    /// # Errors
    /// As there.
    pub async fn open_with(url: &str, mode: OpenMode, catalog: Catalog, limit: Duration) -> Result<Self, StoreError> {
        let shown = without_password(url);
        let owner = match (sqlite_path(url), mode) {
            (Some(path), OpenMode::Own) => Some(own(&path)?),
            (Some(path), OpenMode::Read | OpenMode::Ask) if !path.exists() => {
                return Err(StoreError::SchemaOlder { pending: Migrator::migrations().len() });
            }
            _ => None,
        };
        let options = options(url, mode, limit)?;
        let db = connect(url, options.all.clone()).await?;
        let dialect = Dialect::of(db.get_database_backend());
        if dialect == Dialect::Sqlite {
            check_sqlite_version(&db).await?;
        }
        let pending = pending(&db).await?;
        match (mode, pending) {
            (_, 0) => {}
            (OpenMode::Own, _) => migrate(&db, dialect).await?,
            (OpenMode::Read | OpenMode::Ask, pending) => return Err(StoreError::SchemaOlder { pending }),
        }
        let incarnation = incarnation(&db).await?;
        let clock = DatabaseClock::of(&db, dialect).await?;
        let failed = |source: DbErr| StoreError::Open { url: shown.clone(), source };
        Ok(Self {
            db: Pool::new(db, options, limit).await.map_err(failed)?,
            dialect,
            url: shown,
            catalog,
            limits: Limits::default(),
            incarnation,
            writer: tokio::sync::Mutex::new(()),
            dags: Mutex::new(HashMap::new()),
            pins: Mutex::new(HashMap::new()),
            clock,
            commits: std::sync::atomic::AtomicU64::new(0),
            ready: tokio::sync::watch::Sender::new(()),
            outgoing: tokio::sync::Notify::new(),
            owner,
        })
    }

    /// Every migration and whether the database at `url` has it; makes nothing.
    ///
    /// # Errors
    /// The database can not be reached.
    pub async fn migrations(url: &str) -> Result<Vec<Migration>, StoreError> {
        let applied = match sqlite_path(url) {
            Some(path) if !path.exists() => BTreeSet::new(),
            _ => applied(&connect(url, options(url, OpenMode::Read, CALL_LIMIT)?.all).await?).await?,
        };
        let mut all: Vec<_> = Migrator::migrations()
            .iter()
            .map(|it| Migration { name: it.name().to_owned(), applied: applied.contains(it.name()) })
            .collect();
        let known: BTreeSet<_> = all.iter().map(|it| it.name.clone()).collect();
        all.extend(applied.difference(&known).map(|name| Migration { name: name.clone(), applied: true }));
        Ok(all)
    }
}

/// The path of an SQLite URL.
fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"))?;
    Some(PathBuf::from(path.split('?').next().unwrap_or(path)))
}

/// The URL as people may see it: without the password, which stands before the host or in the query.
fn without_password(url: &str) -> String {
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let is_shown = |pair: &&str| !pair.split('=').next().unwrap_or_default().contains("password");
    let query = query.split('&').filter(is_shown).collect::<Vec<_>>().join("&");
    let url = if query.is_empty() { place.to_owned() } else { format!("{place}?{query}") };
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => {
            let user = url[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}{}", &url[..scheme + 3], &url[at..])
        }
        _ => url,
    }
}

/// Takes the lock that makes this process the owner of the file at `path`.
fn own(path: &Path) -> Result<File, StoreError> {
    let lock = PathBuf::from(format!("{}.lock", path.display()));
    let failed = |source| StoreError::File { path: lock.clone(), source };
    if let Some(folder) = lock.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Owned { path: lock }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn options(url: &str, mode: OpenMode, limit: Duration) -> Result<Connecting, StoreError> {
    if sqlite_path(url).is_none() && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(StoreError::Url { url: without_password(url) });
    }
    let mut all = ConnectOptions::new(url);
    all.sqlx_logging(false)
        // A server that was started anew is found out before a connection is used; a file is not.
        .test_before_acquire(sqlite_path(url).is_none())
        // Enough for every claimer, finisher and reader of one process; Postgres allows 100 in all.
        .max_connections(8)
        .connect_timeout(limit)
        .acquire_timeout(limit)
        .map_sqlx_postgres_opts(move |options| {
            // A transaction whose client is silent for so long is over, and its locks with it. The second
            // one is for a client that is gone and could not say so.
            let limit = limit.as_millis().to_string();
            // Every statement of ours has its index. A table that has grown since it was analyzed looks small,
            // and a plan that reads all of it is kept; and a plan of milliseconds is not worth compiling.
            let plans = ["enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"].map(|it| (it, "off"));
            options
                .options(plans)
                // What is looked up by its key is in memory, or was.
                .options([("random_page_cost", "0.01")])
                .options([("idle_in_transaction_session_timeout", &limit), ("tcp_user_timeout", &limit)])
        })
        .map_sqlx_sqlite_opts(move |options| sqlite(options, mode));
    let writer = sqlite_path(url).map(|_| {
        let mut writer = all.clone();
        writer.max_connections(1).map_sqlx_sqlite_opts(move |options| {
            sqlite(options, mode).pragma("cache_size", WRITER_CACHE).statement_cache_capacity(WRITER_STATEMENTS)
        });
        writer
    });
    Ok(Connecting { all, writer })
}

/// Statements that SQLite's writer keeps prepared: of each, one for every few numbers of rows.
const WRITER_STATEMENTS: usize = 512;

/// What SQLite's writer keeps of the file in memory at the most: 32 MiB, as `cache_size` counts.
const WRITER_CACHE: &str = "-32768";

fn sqlite(options: SqliteConnectOptions, mode: OpenMode) -> SqliteConnectOptions {
    options
        .create_if_missing(mode == OpenMode::Own)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Longer than any transaction of ours; an outsider that holds the file longer is an error.
        .busy_timeout(Duration::from_secs(30))
}

async fn connect(url: &str, options: ConnectOptions) -> Result<DatabaseConnection, StoreError> {
    let failed = |source: DbErr| StoreError::Open { url: without_password(url), source };
    Database::connect(options).await.map_err(failed)
}

async fn check_sqlite_version(db: &DatabaseConnection) -> Result<(), StoreError> {
    let rows = tx::read(db, "read SQLite's version", "SELECT sqlite_version() AS version", vec![]).await?;
    let version = rows.first().map(|row| row.try_get::<String>("", "version"));
    let found = version.transpose().map_err(StoreError::query("read SQLite's version"))?.unwrap_or_default();
    let parts: Vec<u32> = found.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    if parts.as_slice() < [3, 51, 3].as_slice() { Err(StoreError::SqliteTooOld { found }) } else { Ok(()) }
}

async fn applied(db: &DatabaseConnection) -> Result<BTreeSet<String>, StoreError> {
    let table = match Dialect::of(db.get_database_backend()) {
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE name = 'seaql_migrations'",
        Dialect::Postgres => {
            "SELECT table_name AS name FROM information_schema.tables \
             WHERE table_name = 'seaql_migrations' AND table_schema = current_schema()"
        }
    };
    if tx::read(db, "look for migrations", table, vec![]).await?.is_empty() {
        return Ok(BTreeSet::new());
    }
    let statement = Statement::from_string(db.get_database_backend(), "SELECT version FROM seaql_migrations");
    let rows = db.query_all_raw(statement).await.map_err(StoreError::query("read the migrations"))?;
    let names: Result<BTreeSet<String>, DbErr> = rows.iter().map(|row| row.try_get("", "version")).collect();
    names.map_err(StoreError::query("read the migrations"))
}

/// How many migrations the database lacks; refuses one that has more than this binary knows.
async fn pending(db: &DatabaseConnection) -> Result<usize, StoreError> {
    let applied = applied(db).await?;
    let known: BTreeSet<String> = Migrator::migrations().iter().map(|it| it.name().to_owned()).collect();
    if let Some(migration) = applied.difference(&known).next() {
        return Err(StoreError::SchemaNewer { migration: migration.clone() });
    }
    Ok(known.len() - applied.len())
}

/// Migrates what is behind; one process at a time, the others wait and find it done. On SQLite the owner is
/// alone.
async fn migrate(db: &DatabaseConnection, dialect: Dialect) -> Result<(), StoreError> {
    let failed = || StoreError::query("migrate");
    if dialect == Dialect::Sqlite {
        return Migrator::up(db, None).await.map_err(failed());
    }
    // Held by a transaction, so that it ends with this process, however that ends.
    let turn = db.begin().await.map_err(failed())?;
    // Nothing but silence is to be heard from it until the migrations are through.
    turn.execute_unprepared("SET LOCAL idle_in_transaction_session_timeout = 0").await.map_err(failed())?;
    turn.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATING})")).await.map_err(failed())?;
    // Whoever waited asks again what is left: `up` does.
    let done = Migrator::up(db, None).await.map_err(failed());
    turn.commit().await.map_err(failed())?;
    done
}

/// The advisory lock of the process that migrates: "headwork" in ASCII.
const MIGRATING: i64 = 0x6865_6164_776f_726b;

async fn incarnation(db: &DatabaseConnection) -> Result<Incarnation, StoreError> {
    let sql = "SELECT value FROM installation WHERE name = 'incarnation'";
    let rows = tx::read(db, "read the incarnation", sql, vec![]).await?;
    let value: Option<String> = rows.first().and_then(|row| row.try_get("", "value").ok());
    let parsed = value.and_then(|text| text.parse().ok());
    parsed.map(Incarnation).ok_or_else(|| StoreError::Corrupt { what: "installation", detail: "no incarnation".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("postgres://ops:p@ss@db/hw"), "postgres://ops@db/hw");
        assert_eq!(without_password("postgres://ops@db/hw"), "postgres://ops@db/hw");
        assert_eq!(without_password("sqlite://a/b.db"), "sqlite://a/b.db");
        assert_eq!(without_password("sqlite://a/b.db?mode=rwc"), "sqlite://a/b.db?mode=rwc");
        let shown = without_password("postgres://ops@db/hw?user=x&password=p@ss&sslmode=require");
        assert_eq!(shown, "postgres://ops@db/hw?user=x&sslmode=require");
        assert_eq!(without_password("postgres://db/hw?password=p@ss"), "postgres://db/hw");
    }

    #[test]
    fn the_path_of_an_sqlite_url() {
        assert_eq!(sqlite_path("sqlite://artifacts/headworks.db?mode=rwc"), Some("artifacts/headworks.db".into()));
        assert_eq!(sqlite_path("sqlite:///var/hw.db"), Some("/var/hw.db".into()));
        assert_eq!(sqlite_path("postgres://db/hw"), None);
    }

    #[tokio::test]
    async fn tables_that_are_made_anew_keep_their_rows() {
        let mut options = ConnectOptions::new("sqlite::memory:");
        options.max_connections(1).sqlx_logging(false);
        let db = Database::connect(options).await.expect("opened");
        Migrator::up(&db, Some(5)).await.expect("as it was");
        let rows = "INSERT INTO attempt VALUES ('a', 'r', 't', -1, 1, 1, 1, 's', 'failed', 5, 6, 'user', 'no'); \
                    INSERT INTO event VALUES ('a', 'r', 't', -1, 1, 1, 5, 'claimed', 'running', 1, 1, 's', 'o', '{}')";
        db.execute_unprepared(rows).await.expect("inserted");
        let kept = "SELECT 1 AS kept FROM attempt a JOIN event e ON e.run = a.run WHERE a.message = 'no' \
                    AND a.finished_at = 6 AND e.at = 5 AND e.detail = '{}' AND e.op_id = 'o'";
        for step in ["up", "down", "up"] {
            let done = if step == "up" { Migrator::up(&db, None).await } else { Migrator::down(&db, Some(1)).await };
            done.expect(step);
            assert_eq!(tx::read(&db, "look", kept, vec![]).await.expect("read").len(), 1, "after {step}");
        }
    }
}
