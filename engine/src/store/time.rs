//! The database's clock, as this process follows it.
//!
//! Timestamps of transactions come from here without a round trip: a reading of the database's clock
//! and the time that passed since, by a clock that never jumps. Read anew by [`Store::sync_clock`] at
//! the start and with each heartbeat. Whether a lease has ended is never judged by it: those
//! statements ask the database.

use std::sync::Mutex;
use std::time::Instant;

use sea_orm::ConnectionTrait;

use super::dialect::Dialect;
use super::{Store, StoreError, rows, tx};
use crate::clock::{Clock, SystemClock};
use crate::plan::Micros;

/// See the module.
pub(super) enum DatabaseClock {
    /// SQLite's clock is this machine's.
    Machine,
    /// The last reading, and when it was taken.
    Server(Mutex<(Micros, Instant)>),
}

impl DatabaseClock {
    /// Reads the clock of a connection.
    pub(super) async fn of(db: &impl ConnectionTrait, dialect: Dialect) -> Result<Self, StoreError> {
        match dialect {
            Dialect::Sqlite => Ok(Self::Machine),
            Dialect::Postgres => Ok(Self::Server(Mutex::new(read(db, dialect).await?))),
        }
    }

    pub(super) fn now(&self) -> Micros {
        match self {
            Self::Machine => SystemClock.now(),
            Self::Server(reading) => {
                let (at, taken) = *reading.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                at.saturating_add(i64::try_from(taken.elapsed().as_micros()).unwrap_or(i64::MAX))
            }
        }
    }
}

impl Store {
    /// Reads the database's clock again.
    ///
    /// # Errors
    /// The database's.
    pub async fn sync_clock(&self) -> Result<(), StoreError> {
        if let DatabaseClock::Server(reading) = &self.clock {
            let taken = read(&self.db, self.dialect).await?;
            *reading.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = taken;
        }
        Ok(())
    }
}

async fn read(db: &impl ConnectionTrait, dialect: Dialect) -> Result<(Micros, Instant), StoreError> {
    let asked = Instant::now();
    let found = tx::read(db, "read the database's clock", &format!("SELECT {} AS now", dialect.now()), vec![]).await?;
    let row = found.first().ok_or(StoreError::Corrupt { what: "clock", detail: "no time came back".into() })?;
    // The reading was made half-way through the round trip.
    let half = asked.elapsed() / 2;
    Ok((rows::get(row, "now")?, asked + half))
}
