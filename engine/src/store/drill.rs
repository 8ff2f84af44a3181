//! Drills in the database: faults on record, the database's own fault, and what drills came to.
//!
//! Called by the executor before it injects a fault, and by `headworks drill`. Which attempts a fault strikes is
//! decided in `work`, which runs may have any in `create`.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use sea_orm::{QueryResult, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use serde_json::{Value, json};

use super::create::DRILL;
use super::dialect::Dialect;
use super::rows::{self, element};
use super::tx::{Tx, Write};
use super::{Store, StoreError, tx};
use crate::drill::FaultKind;
use crate::id::{DRILL_PREFIX, InstanceId, RunId, TenantId};
use crate::plan::Micros;
use crate::task::AttemptIdentity;

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq)]
pub struct Struck {
    /// Into an attempt of which task instance.
    pub instance: InstanceId,
    /// Which attempt.
    pub attempt: i64,
    /// When, by the database's clock.
    pub at: Micros,
    /// What.
    pub fault: FaultKind,
}

/// How the database is to be away.
#[derive(Debug, Clone)]
pub struct Outage {
    /// Postgres: whose connections are ended, by the name that they gave.
    pub application: String,
    /// For how long.
    pub lasts: Duration,
}

/// A drill that has ended, to be kept.
#[derive(Debug, Clone)]
pub struct NewDrill {
    /// The drill.
    pub drill: String,
    /// This time.
    pub id: String,
    /// `passed` or `failed`.
    pub verdict: String,
    /// When it began.
    pub started_at: Micros,
    /// When it ended.
    pub finished_at: Micros,
    /// The whole of it.
    pub evidence: Value,
}

/// A drill as people read it.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillView {
    /// The drill.
    pub drill: String,
    /// That time.
    pub id: String,
    /// `passed` or `failed`.
    pub verdict: String,
    /// When it began.
    pub started_at: Micros,
    /// When it ended.
    pub finished_at: Micros,
    /// The whole of it.
    pub evidence: Value,
}

/// That a column names no drill tenant, as SQL: who asks about everybody does not mean them.
pub(super) fn no_drill(column: &str) -> String {
    format!("{column} NOT LIKE '{DRILL_PREFIX}%'")
}

/// How often connections are ended while the database is away: a client that comes back at once is met again.
const AGAIN: Duration = Duration::from_millis(100);

impl Store {
    /// Puts a fault on record, before it is injected. The fault at `ordinal` of this attempt's, from 0; what is on
    /// record already stays.
    ///
    /// # Errors
    /// The database's.
    pub async fn record_fault(
        &self,
        identity: &AttemptIdentity,
        (ordinal, fault): (usize, &FaultKind),
    ) -> Result<(), StoreError> {
        self.write(&Record { identity, ordinal, fault }).await
    }

    /// The faults that were injected into a run's attempts, in order of time.
    ///
    /// # Errors
    /// The database's.
    pub async fn faults_of(&self, tenant: &TenantId, run: RunId) -> Result<Vec<Struck>, StoreError> {
        let sql = "SELECT task, element, attempt, at, fault FROM drill_fault WHERE tenant = $1 AND run = $2 \
                   ORDER BY at, task, element, attempt, ordinal";
        let found = tx::read(&self.db, "read the faults", sql, vec![tenant.to_string().into(), run.to_string().into()]);
        let one = |row: &QueryResult| {
            Ok(Struck {
                instance: rows::instance(row)?,
                attempt: rows::get(row, "attempt")?,
                at: rows::get(row, "at")?,
                fault: rows::parse(row, "fault", |text| serde_json::from_str(text))?,
            })
        };
        found.await?.iter().map(one).collect()
    }

    /// Artifacts of a run of which a generation of a task instance has more than one, though no attempt of theirs ended
    /// badly: what a failed attempt had published is on record, too, and nobody sees it.
    ///
    /// # Errors
    /// The database's.
    pub async fn doubled_artifacts(
        &self,
        tenant: &TenantId,
        run: RunId,
    ) -> Result<Vec<(InstanceId, String)>, StoreError> {
        let sql = "SELECT a.task, a.element, a.name FROM artifact a WHERE a.tenant = $1 AND a.run = $2 AND NOT EXISTS \
                   (SELECT 1 FROM attempt t WHERE t.tenant = a.tenant AND t.run = a.run AND t.task = a.task \
                   AND t.element = a.element AND t.generation = a.generation AND t.epoch = a.epoch \
                   AND t.state <> 'succeeded') \
                   GROUP BY a.task, a.element, a.generation, a.name HAVING COUNT(*) > 1 \
                   ORDER BY a.task, a.element, a.generation, a.name";
        let values = vec![tenant.to_string().into(), run.to_string().into()];
        let found = tx::read(&self.db, "look for doubled artifacts", sql, values).await?;
        found.iter().map(|row| Ok((rows::instance(row)?, rows::get(row, "name")?))).collect()
    }

    /// Makes the database be away for the process that executes a drill run: on Postgres the server ends the
    /// connections of that name, again and again, and how many it ended is returned; on SQLite the file's write lock
    /// is held, and there is nothing to count.
    ///
    /// # Errors
    /// [`StoreError::NoDrill`] for any other run; the database's.
    pub async fn disturb(&self, tenant: &TenantId, run: RunId, outage: &Outage) -> Result<Option<u64>, StoreError> {
        let kind = self.run_summary(tenant, run).await?.kind;
        if kind != DRILL || !tenant.is_drill() {
            return Err(StoreError::NoDrill { run, kind: "not drill", tenant: tenant.to_string() });
        }
        match self.dialect {
            Dialect::Postgres => self.end_connections(outage).await.map(Some),
            Dialect::Sqlite => self.hold_the_lock(outage.lasts).await.map(|()| None),
        }
    }

    async fn end_connections(&self, outage: &Outage) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(*) FILTER (WHERE pg_terminate_backend(pid)) AS n FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()";
        let (until, mut ended) = (Instant::now() + outage.lasts, 0);
        loop {
            let found = tx::read(&self.db, "end connections", sql, vec![outage.application.clone().into()]).await?;
            let count: i64 = found.first().map_or(Ok(0), |row| rows::get(row, "n"))?;
            ended += count.unsigned_abs();
            if Instant::now() >= until {
                return Ok(ended);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn hold_the_lock(&self, lasts: Duration) -> Result<(), StoreError> {
        const WHAT: &str = "hold the write lock";
        let options = TransactionOptions {
            isolation_level: None,
            access_mode: None,
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        };
        // On a connection of its own: what writes has to meet a lock, not a queue.
        let held = self.db.handle().begin_with_options(options).await.map_err(StoreError::query(WHAT))?;
        tokio::time::sleep(lasts).await;
        held.rollback().await.map_err(StoreError::query(WHAT))
    }

    /// Keeps what a drill came to.
    ///
    /// # Errors
    /// The database's.
    pub async fn keep_drill(&self, new: &NewDrill) -> Result<(), StoreError> {
        self.write(&Keep(new)).await
    }

    /// The latest drills, newest first; of one, or that of an id or of its beginning.
    ///
    /// # Errors
    /// The database's.
    pub async fn drills(&self, named: Option<&str>, limit: u64) -> Result<Vec<DrillView>, StoreError> {
        let sql = "SELECT drill, id, verdict, started_at, finished_at, evidence FROM drill \
                   WHERE $1 = '' OR drill = $1 OR id LIKE $2 ORDER BY started_at DESC, id DESC LIMIT $3";
        let name = named.unwrap_or_default();
        let is_id = name.len() >= 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let like = if is_id { format!("{name}%") } else { name.to_owned() };
        let values = vec![name.into(), like.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        let found = tx::read(&self.db, "read the drills", sql, values).await?;
        let one = |row: &QueryResult| {
            Ok(DrillView {
                drill: rows::get(row, "drill")?,
                id: rows::get(row, "id")?,
                verdict: rows::get(row, "verdict")?,
                started_at: rows::get(row, "started_at")?,
                finished_at: rows::get(row, "finished_at")?,
                evidence: rows::get_json(row, "evidence")?,
            })
        };
        found.iter().map(one).collect()
    }
}

struct Record<'a> {
    identity: &'a AttemptIdentity,
    ordinal: usize,
    fault: &'a FaultKind,
}

#[async_trait]
impl Write for Record<'_> {
    type Output = ();
    const WHAT: &'static str = "record a fault";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let it = self.identity;
        // The clock that events are written by, so that the two can be put in order.
        let sql = "INSERT INTO drill_fault (tenant, run, task, element, attempt, epoch, ordinal, at, fault) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                   ON CONFLICT (tenant, run, task, element, attempt, epoch, ordinal) DO NOTHING";
        let values = vec![
            it.tenant.to_string().into(),
            it.run.to_string().into(),
            it.instance.task.to_string().into(),
            element(it.instance.index).into(),
            it.attempt.0.into(),
            it.epoch.0.into(),
            i64::try_from(self.ordinal).unwrap_or(i64::MAX).into(),
            tx.now.into(),
            json!(self.fault).to_string().into(),
        ];
        tx.execute(Self::WHAT, sql, values).await?;
        tx.all_of(Vec::new()).await
    }
}

struct Keep<'a>(&'a NewDrill);

#[async_trait]
impl Write for Keep<'_> {
    type Output = ();
    const WHAT: &'static str = "keep a drill";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let it = self.0;
        let sql = "INSERT INTO drill (drill, id, verdict, started_at, finished_at, evidence) \
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";
        let values = vec![
            it.drill.clone().into(),
            it.id.clone().into(),
            it.verdict.clone().into(),
            it.started_at.into(),
            it.finished_at.into(),
            it.evidence.to_string().into(),
        ];
        tx.execute(Self::WHAT, sql, values).await?;
        tx.all_of(Vec::new()).await
    }
}
