//! Somebody else who holds an SQLite file's write lock.
//!
//! Used by chaos scenarios: the owner's lock file keeps other servers out, not a person with a shell.

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

/// The lock, held until it is released.
pub struct SqliteLock(DatabaseConnection);

impl SqliteLock {
    /// Takes the write lock of the database at `url`; waits for a writer that is there.
    ///
    /// # Panics
    /// It can not be had.
    pub async fn take(url: &str) -> Self {
        let mut options = sea_orm::ConnectOptions::new(url);
        options.max_connections(1).sqlx_logging(false);
        let db = Database::connect(options).await.expect("opens");
        for sql in ["PRAGMA busy_timeout = 10000", "BEGIN IMMEDIATE"] {
            db.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        Self(db)
    }

    /// Gives it back.
    ///
    /// # Panics
    /// The file is gone.
    pub async fn release(self) {
        self.0.execute_unprepared("ROLLBACK").await.expect("rolled back");
        self.0.close().await.expect("closed");
    }
}
