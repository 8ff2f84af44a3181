//! Backfills: runs for past intervals, as one object that can be paused, resumed and canceled.
//!
//! The fires are fixed when the backfill is made; its runs are made queued, some hundreds per
//! transaction, so that a live run never waits behind ten thousand inserts, and a crash leaves a cursor
//! that the next round goes on from. `admit` starts them in a lane of their own.

use async_trait::async_trait;
use sea_orm::QueryResult;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::create::{enqueue, insert_version};
use super::dialect::{Dialect, Kind};
use super::events::run_event;
use super::rooms::Rooms;
use super::rows::{self, Rows, param};
use super::tx::{Part, Tx, Write};
use super::{NewRun, Store, StoreError, tx};
use crate::dag::Dag;
use crate::id::{BackfillId, DagId, Digest, RunId, TenantId};
use crate::plan::Micros;
use crate::run::{RunEvent, RunState, transition};

/// Fires of one [`BackfillChunk`].
const CHUNK: usize = 1_000;

/// Runs that one transaction makes, or cancels. A live run takes a few turns from its submission to its
/// first task; on SQLite, where there is one writer, each of them waits for one such transaction.
fn runs_at_once(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Sqlite => 20,
        Dialect::Postgres => 40,
    }
}

/// Which intervals first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackfillOrder {
    /// The oldest.
    Asc,
    /// The newest.
    Desc,
}

/// Which intervals that have a run already are run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reprocess {
    /// None.
    None,
    /// Those of which no run succeeded or is under way.
    Failed,
    /// All.
    All,
}

/// Where a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackfillState {
    /// Its runs are made and started.
    Running,
    /// Nothing of it starts.
    Paused,
    /// All of its runs have ended.
    Completed,
    /// A person ended it.
    Canceled,
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),* }) => {
        impl $name {
            /// The word in the database and in JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The value of a word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(BackfillOrder { Asc = "asc", Desc = "desc" });
words!(Reprocess { None = "none", Failed = "failed", All = "all" });
words!(BackfillState { Running = "running", Paused = "paused", Completed = "completed", Canceled = "canceled" });

/// A fire of the past: the moment it is about, and its data interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastFire(pub Micros, pub Micros, pub Micros);

/// A backfill to be made.
#[derive(Debug, Clone)]
pub struct NewBackfill<'a> {
    /// Its id.
    pub id: BackfillId,
    /// Whose.
    pub tenant: &'a TenantId,
    /// Of which DAG, in which version.
    pub dag: &'a std::sync::Arc<Dag>,
    /// The range that was asked for, half-open.
    pub range: (Micros, Micros),
    /// Which first.
    pub order: BackfillOrder,
    /// What of the past is run again.
    pub reprocess: Reprocess,
    /// Parameters over the tenant's.
    pub params: &'a Map<String, Value>,
    /// Active runs at once.
    pub max_active: u32,
    /// In the order in which they run.
    pub fires: &'a [PastFire],
    /// Who asks.
    pub actor: &'a str,
}

/// A backfill as people read it.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillView {
    /// Which.
    pub id: BackfillId,
    /// Whose.
    pub tenant: TenantId,
    /// Of which DAG.
    pub dag: DagId,
    /// Where it stands.
    pub state: BackfillState,
    /// The range that was asked for, half-open.
    pub range: (Micros, Micros),
    /// Which first.
    pub order: BackfillOrder,
    /// What of the past is run again.
    pub reprocess: Reprocess,
    /// Fires that were looked at.
    pub made: u64,
    /// Fires in all.
    pub total: u64,
    /// Its runs, by state.
    pub runs: Vec<(RunState, u64)>,
    /// Active runs at once.
    pub max_active: u32,
    /// Who asked.
    pub actor: String,
    /// When.
    pub created_at: Micros,
    /// When its last run ended.
    pub finished_at: Option<Micros>,
}

/// The next runs that a backfill wants made.
#[derive(Debug, Clone)]
pub struct BackfillChunk {
    /// Of which.
    pub id: BackfillId,
    /// Whose.
    pub tenant: TenantId,
    /// The version to pin.
    pub dag: std::sync::Arc<Dag>,
    /// Parameters over the tenant's.
    pub params: Map<String, Value>,
    /// The tenant's parameters for this DAG.
    pub overlay: Map<String, Value>,
    /// How many fires were looked at before.
    pub made: u64,
    /// The next ones, some hundreds.
    pub fires: Vec<PastFire>,
}

/// What a backfill would do.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillForecast {
    /// Fires that would be run.
    pub fires: Vec<PastFire>,
    /// Fires that would be left out, for they have a run.
    pub left_out: u64,
    /// Median of the latest successful runs, in seconds; `None` = there is none yet.
    pub run_seconds: Option<f64>,
}

/// Runs that a median is taken over.
const HISTORY: usize = 20;

impl Store {
    /// What a backfill of `fires` would do.
    ///
    /// # Errors
    /// The database's.
    pub async fn backfill_forecast(
        &self,
        (tenant, dag): (&TenantId, &DagId),
        fires: &[PastFire],
        reprocess: Reprocess,
    ) -> Result<BackfillForecast, StoreError> {
        let sql = left_out_sql(self.dialect);
        let times = param(logical(fires.iter().map(|fire| fire.0)));
        let values = vec![times, tenant.to_string().into(), dag.to_string().into(), reprocess.as_str().into()];
        let found = tx::read(&self.db, "plan a backfill", &sql, values).await?;
        let out: std::collections::BTreeSet<i64> =
            found.iter().map(|row| rows::get(row, "logical_time")).collect::<Result<_, _>>()?;
        let sql = format!(
            "SELECT finished_at - started_at AS took FROM run WHERE tenant = $1 AND dag = $2 AND state = 'succeeded' \
             AND parent_run IS NULL \
             ORDER BY finished_at DESC LIMIT {HISTORY}"
        );
        let found =
            tx::read(&self.db, "read the history", &sql, vec![tenant.to_string().into(), dag.to_string().into()])
                .await?;
        let mut took: Vec<i64> = found.iter().map(|row| rows::get(row, "took")).collect::<Result<_, _>>()?;
        took.sort_unstable();
        let median = took.get(took.len() / 2).map(|micros| std::time::Duration::from_micros(micros.unsigned_abs()));
        Ok(BackfillForecast {
            fires: fires.iter().filter(|fire| !out.contains(&fire.0)).copied().collect(),
            left_out: out.len() as u64,
            run_seconds: median.map(|median| median.as_secs_f64()),
        })
    }

    /// Makes a backfill; its runs follow in [`Store::make_backfill_runs`].
    ///
    /// # Errors
    /// The database's.
    pub async fn create_backfill(&self, new: &NewBackfill<'_>) -> Result<(), StoreError> {
        self.cache_dag(std::sync::Arc::clone(new.dag));
        self.write(&Create(new)).await
    }

    /// Backfills that want runs made, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn unfinished_backfills(&self) -> Result<Vec<(TenantId, BackfillId)>, StoreError> {
        let sql = "SELECT tenant, backfill FROM backfill WHERE state = 'running' AND made < total ORDER BY created_at";
        let found = tx::read(&self.db, "read the backfills", sql, vec![]).await?;
        let one =
            |row| Ok((rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "backfill", BackfillId::parse)?));
        found.iter().map(one).collect()
    }

    /// The next runs that a backfill wants made; `None` = it wants none now, or can not be read by this
    /// binary.
    ///
    /// # Errors
    /// The database's.
    pub async fn backfill_chunk(&self, tenant: &TenantId, id: BackfillId) -> Result<Option<BackfillChunk>, StoreError> {
        let sql = "SELECT b.dag_version, b.params, b.made, b.fires, COALESCE(s.overlay, '{}') AS overlay \
                   FROM backfill b LEFT JOIN schedule s ON s.tenant = b.tenant AND s.dag = b.dag \
                   WHERE b.tenant = $1 AND b.backfill = $2 AND b.state = 'running' AND b.made < b.total";
        let found =
            tx::read(&self.db, "read a backfill", sql, vec![tenant.to_string().into(), id.to_string().into()]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let dag = match self.dag_version(rows::parse(row, "dag_version", Digest::parse)?).await {
            Err(StoreError::Dag(_)) => return Ok(None),
            dag => dag?,
        };
        let made = rows::get::<i64>(row, "made")?.unsigned_abs();
        let fires = rows::parse(row, "fires", |text| serde_json::from_str::<Vec<PastFire>>(text))?;
        let from = usize::try_from(made).unwrap_or(usize::MAX);
        Ok(Some(BackfillChunk {
            id,
            tenant: tenant.clone(),
            dag,
            params: rows::get_object(row, "params")?,
            overlay: rows::get_object(row, "overlay")?,
            made,
            fires: fires.into_iter().skip(from).take(CHUNK).collect(),
        }))
    }

    /// Makes the runs of a chunk, some per transaction. Returns how many were made; `None` if another
    /// scheduler was faster, the backfill was paused, or the tenant has as many queued runs as it may.
    ///
    /// # Errors
    /// The database's.
    pub async fn make_backfill_runs(
        &self,
        chunk: &BackfillChunk,
        runs: &[NewRun],
    ) -> Result<Option<usize>, StoreError> {
        let at_once = runs_at_once(self.dialect);
        let mut made = 0;
        for (nth, runs) in runs.chunks(at_once).enumerate() {
            let from = chunk.made + (nth * at_once) as u64;
            match self.write(&Make { store: self, chunk, from, runs }).await? {
                Some(count) => made += count,
                None if nth == 0 => return Ok(None),
                None => break,
            }
        }
        Ok(Some(made))
    }

    /// Ends backfills whose runs have all ended. Returns how many.
    ///
    /// # Errors
    /// The database's.
    pub async fn complete_backfills(&self) -> Result<u64, StoreError> {
        // Whoever canceled one may have died before its queued runs were.
        let sql = "SELECT b.tenant, b.backfill FROM backfill b WHERE b.state = 'canceled' AND EXISTS (SELECT 1 FROM run u \
                   WHERE u.tenant = b.tenant AND u.backfill = b.backfill AND u.state = 'queued')";
        for row in &tx::read(&self.db, "look for canceled backfills", sql, vec![]).await? {
            let tenant = rows::parse(row, "tenant", TenantId::parse)?;
            let id = rows::parse(row, "backfill", BackfillId::parse)?;
            while self.write(&CancelQueued { tenant: &tenant, id }).await? > 0 {}
        }
        let sql = "SELECT 1 AS one FROM backfill b WHERE b.state = 'running' AND b.made = b.total AND NOT EXISTS \
                   (SELECT 1 FROM run u WHERE u.tenant = b.tenant AND u.backfill = b.backfill AND u.state = 'queued') \
                   LIMIT 1";
        if tx::read(&self.db, "look for backfills", sql, vec![]).await?.is_empty() {
            return Ok(0);
        }
        self.write(&Complete).await
    }

    /// Pauses, resumes or cancels a backfill. Returns the state before, or `None` if there is no such
    /// backfill of that tenant. One that is over stays as it is. The runs of a canceled one that run are
    /// the caller's to cancel.
    ///
    /// # Errors
    /// The database's.
    pub async fn control_backfill(
        &self,
        tenant: &TenantId,
        id: BackfillId,
        to: BackfillState,
    ) -> Result<Option<BackfillState>, StoreError> {
        let before = self.write(&Control { tenant, id, to }).await?;
        if to == BackfillState::Canceled {
            while self.write(&CancelQueued { tenant, id }).await? > 0 {}
        }
        Ok(before)
    }

    /// The runs of a backfill that are active.
    ///
    /// # Errors
    /// The database's.
    pub async fn backfill_active(&self, tenant: &TenantId, id: BackfillId) -> Result<Vec<RunId>, StoreError> {
        let sql = "SELECT run FROM run WHERE tenant = $1 AND backfill = $2 AND state = 'running'";
        let found =
            tx::read(&self.db, "read what is active", sql, vec![tenant.to_string().into(), id.to_string().into()])
                .await?;
        found.iter().map(|row| rows::parse(row, "run", RunId::parse)).collect()
    }

    /// Backfills, the newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn backfills(&self, tenant: Option<&TenantId>, limit: u64) -> Result<Vec<BackfillView>, StoreError> {
        let sql = "SELECT tenant, backfill, dag, state, range_start, range_end, direction, reprocess, made, total, \
                   max_active, actor, created_at, finished_at FROM backfill WHERE ($1 = '' OR tenant = $1) ORDER BY created_at DESC LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = vec![tenant.map(TenantId::to_string).unwrap_or_default().into(), limit.into()];
        let found = tx::read(&self.db, "list the backfills", sql, values).await?;
        let mut views = Vec::with_capacity(found.len());
        for row in &found {
            let mut view = read(row)?;
            let sql = "SELECT state, COUNT(*) AS n FROM run WHERE tenant = $1 AND backfill = $2 GROUP BY state ORDER BY state";
            let values = vec![view.tenant.to_string().into(), view.id.to_string().into()];
            for row in &tx::read(&self.db, "count a backfill's runs", sql, values).await? {
                view.runs.push((rows::run_state(row)?, rows::count(row, "n")?.into()));
            }
            views.push(view);
        }
        Ok(views)
    }
}

fn read(row: &QueryResult) -> Result<BackfillView, StoreError> {
    fn word<T>(row: &QueryResult, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, StoreError> {
        rows::parse(row, column, |word| parse(word).ok_or_else(|| format!("unknown word {word:?}")))
    }
    Ok(BackfillView {
        id: rows::parse(row, "backfill", BackfillId::parse)?,
        tenant: rows::parse(row, "tenant", TenantId::parse)?,
        dag: rows::parse(row, "dag", DagId::parse)?,
        state: word(row, "state", BackfillState::parse)?,
        range: (rows::get(row, "range_start")?, rows::get(row, "range_end")?),
        order: word(row, "direction", BackfillOrder::parse)?,
        reprocess: word(row, "reprocess", Reprocess::parse)?,
        made: rows::get::<i64>(row, "made")?.unsigned_abs(),
        total: rows::get::<i64>(row, "total")?.unsigned_abs(),
        runs: Vec::new(),
        max_active: rows::count(row, "max_active")?,
        actor: rows::get(row, "actor")?,
        created_at: rows::get(row, "created_at")?,
        finished_at: rows::get(row, "finished_at")?,
    })
}

fn logical(times: impl Iterator<Item = Micros>) -> Vec<Value> {
    times.map(|at| json!({ "logical_time": at })).collect()
}

/// The logical times of `$1` that a policy (`$4`) leaves out for tenant `$2` and DAG `$3`: those with a run
/// for the same moment, and for `failed` only where one succeeded or is under way. A manual run is about
/// the moment it was asked for, and counts only if it named this interval.
fn left_out_sql(dialect: Dialect) -> String {
    format!(
        "SELECT DISTINCT u.logical_time FROM {} JOIN run u ON u.tenant = $2 AND u.dag = $3 \
         AND u.logical_time = r.logical_time WHERE u.kind NOT IN ('verify', 'drill') AND ($4 = 'none' OR ($4 = 'failed' \
         AND u.state IN ('queued', 'running', 'canceling', 'succeeded')))",
        dialect.rows(1, &[("logical_time", Kind::Int)])
    )
}

struct Create<'a>(&'a NewBackfill<'a>);

#[async_trait]
impl Write for Create<'_> {
    type Output = ();
    const WHAT: &'static str = "make a backfill";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let new = self.0;
        insert_version(tx, new.dag).await?;
        let (digest, dag) = (new.dag.version.to_string(), new.dag.id.to_string());
        // The lane needs its lock, also where no file lets the tenant take the DAG.
        let sql = "INSERT INTO schedule (tenant, dag, is_live, overlay, overlap, since, version, updated_at) \
                   VALUES ($1, $2, FALSE, '{}', 'queue', $3, 0, $3) ON CONFLICT (tenant, dag) DO NOTHING";
        tx.execute(Self::WHAT, sql, vec![new.tenant.to_string().into(), dag.clone().into(), tx.now.into()]).await?;
        let sql = "INSERT INTO backfill (tenant, backfill, dag, dag_version, state, range_start, range_end, direction, \
                   reprocess, params, max_active, fires, made, total, actor, created_at) \
                   VALUES ($1, $2, $3, $4, 'running', $5, $6, $7, $8, $9, $10, $11, 0, $12, $13, $14)";
        let values = vec![
            new.tenant.to_string().into(),
            new.id.to_string().into(),
            dag.into(),
            digest.into(),
            new.range.0.into(),
            new.range.1.into(),
            new.order.as_str().into(),
            new.reprocess.as_str().into(),
            Value::Object(new.params.clone()).to_string().into(),
            i64::from(new.max_active).into(),
            json!(new.fires).to_string().into(),
            i64::try_from(new.fires.len()).unwrap_or(i64::MAX).into(),
            new.actor.into(),
            tx.now.into(),
        ];
        tx.execute(Self::WHAT, sql, values).await?;
        tx.all_of(Vec::new()).await
    }
}

struct Make<'a> {
    store: &'a Store,
    chunk: &'a BackfillChunk,
    /// Fires that were looked at before these.
    from: u64,
    runs: &'a [NewRun],
}

#[async_trait]
impl Write for Make<'_> {
    type Output = Option<usize>;
    const WHAT: &'static str = "make a backfill's runs";

    async fn apply(&self, tx: &Tx) -> Result<Option<usize>, StoreError> {
        let (tenant, chunk) = (&self.chunk.tenant, self.chunk);
        // The pair's lock first, as everywhere.
        let sql = format!(
            "SELECT s.tenant FROM schedule s JOIN backfill b ON b.tenant = s.tenant AND b.dag = s.dag \
             WHERE b.tenant = $1 AND b.backfill = $2{}",
            tx.dialect.lock("s")
        );
        tx.all(Self::WHAT, &sql, vec![tenant.to_string().into(), chunk.id.to_string().into()]).await?;
        let sql = format!(
            "SELECT b.dag, b.reprocess FROM backfill b WHERE b.tenant = $1 AND b.backfill = $2 \
             AND b.state = 'running' AND b.made = $3{}",
            tx.dialect.lock("b")
        );
        let made = i64::try_from(self.from).unwrap_or(i64::MAX);
        let values = vec![tenant.to_string().into(), chunk.id.to_string().into(), made.into()];
        let found = tx.all(Self::WHAT, &sql, values).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let (dag, reprocess): (String, String) = (rows::get(row, "dag")?, rows::get(row, "reprocess")?);
        let logical = logical(self.runs.iter().map(|run| run.logical_time));
        let values = vec![param(logical), tenant.to_string().into(), dag.into(), reprocess.into()];
        let found = tx.all(Self::WHAT, &left_out_sql(tx.dialect), values).await?;
        let out: std::collections::BTreeSet<i64> =
            found.iter().map(|row| rows::get(row, "logical_time")).collect::<Result<_, _>>()?;
        let wanted = self.runs.iter().filter(|run| !out.contains(&run.logical_time)).count();
        let room = Rooms::backfill(tx, tenant).await?.take(tx, tenant, wanted).await?;
        if room == 0 && wanted > 0 {
            return Ok(None);
        }
        let (mut runs, mut seen) = (Vec::new(), 0_i64);
        for run in self.runs {
            let is_out = out.contains(&run.logical_time);
            if !is_out && runs.len() == room {
                break;
            }
            seen += 1;
            runs.extend((!is_out).then(|| run.clone()));
        }
        let made = enqueue(tx, self.store, &runs).await?.len();
        let sql = "UPDATE backfill SET made = made + $3 WHERE tenant = $1 AND backfill = $2";
        let values = vec![tenant.to_string().into(), chunk.id.to_string().into(), seen.into()];
        tx.all_of(vec![Part::new(Self::WHAT, sql.to_owned(), values)]).await?;
        Ok(Some(made))
    }
}

struct Complete;

#[async_trait]
impl Write for Complete {
    type Output = u64;
    const WHAT: &'static str = "complete backfills";

    async fn apply(&self, tx: &Tx) -> Result<u64, StoreError> {
        let sql = "UPDATE backfill SET state = 'completed', finished_at = $1 WHERE state = 'running' AND made = total \
                   AND NOT EXISTS (SELECT 1 FROM run u WHERE u.tenant = backfill.tenant AND u.backfill = backfill.backfill \
                   AND u.state IN ('queued', 'running', 'canceling'))";
        let ended = tx.execute(Self::WHAT, sql, vec![tx.now.into()]).await?;
        if ended > 0 {
            tx.all_of(Vec::new()).await?;
        }
        Ok(ended)
    }
}

struct Control<'a> {
    tenant: &'a TenantId,
    id: BackfillId,
    to: BackfillState,
}

#[async_trait]
impl Write for Control<'_> {
    type Output = Option<BackfillState>;
    const WHAT: &'static str = "control a backfill";

    async fn apply(&self, tx: &Tx) -> Result<Option<BackfillState>, StoreError> {
        let sql =
            format!("SELECT b.state FROM backfill b WHERE b.tenant = $1 AND b.backfill = $2{}", tx.dialect.lock("b"));
        let key: Vec<sea_orm::Value> = vec![self.tenant.to_string().into(), self.id.to_string().into()];
        let found = tx.all(Self::WHAT, &sql, key.clone()).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let before = rows::parse(row, "state", |word| BackfillState::parse(word).ok_or("unknown state"))?;
        if matches!(before, BackfillState::Running | BackfillState::Paused) {
            let sql = "UPDATE backfill SET state = $3, finished_at = CASE WHEN $3 = 'canceled' THEN $4 ELSE finished_at END \
                       WHERE tenant = $1 AND backfill = $2";
            let mut values = key;
            values.extend([self.to.as_str().into(), tx.now.into()]);
            tx.all_of(vec![Part::new(Self::WHAT, sql.to_owned(), values)]).await?;
        }
        Ok(Some(before))
    }
}

/// Ends queued runs of a canceled backfill, some at a time: none of them has a task instance yet.
struct CancelQueued<'a> {
    tenant: &'a TenantId,
    id: BackfillId,
}

#[async_trait]
impl Write for CancelQueued<'_> {
    type Output = usize;
    const WHAT: &'static str = "cancel a backfill's queued runs";

    async fn apply(&self, tx: &Tx) -> Result<usize, StoreError> {
        let asked = transition(RunState::Queued, RunEvent::CancelRequested)?;
        let ended = transition(asked.to(), RunEvent::Canceled)?;
        let sql = format!(
            "SELECT u.run FROM run u WHERE u.tenant = $1 AND u.backfill = $2 AND u.state = 'queued' \
             ORDER BY u.run LIMIT {}{}",
            runs_at_once(tx.dialect),
            tx.dialect.lock("u")
        );
        let values = vec![self.tenant.to_string().into(), self.id.to_string().into()];
        let found = tx.all(Self::WHAT, &sql, values).await?;
        if found.is_empty() {
            return Ok(0);
        }
        let (mut named, mut events) = (Vec::new(), Rows::default());
        for row in &found {
            let run = rows::parse(row, "run", RunId::parse)?;
            named.push(json!({ "run": run.to_string() }));
            events.push(run_event(self.tenant, run, 1, asked).cells());
            events.push(run_event(self.tenant, run, 2, ended).cells());
        }
        let sql = format!(
            "UPDATE run SET state = '{}', version = 2, finished_at = $3 FROM {} WHERE run.tenant = $2 AND run.run = r.run",
            ended.to().as_str(),
            tx.dialect.rows(1, &[("run", Kind::Text)])
        );
        let values = vec![param(named), self.tenant.to_string().into(), tx.now.into()];
        tx.all_of(vec![Part::new(Self::WHAT, sql, values), tx.events_part(events)]).await?;
        Ok(found.len())
    }
}
