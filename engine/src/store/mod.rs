//! The durable truth: runs, task instances, attempts, events, artifacts and models, on SeaORM.
//!
//! One implementation for SQLite and Postgres; `dialect` holds the few places where they differ, and
//! one conformance suite (`tests/it/store.rs`) runs on both. Snapshots go to `plan`, its actions are
//! applied in the transaction that recorded what happened. The executor and the CLI call the methods
//! of [`Store`]; tasks never see it.
//!
//! Fencing: a write for an attempt names its epoch and its session, and touches the row only while
//! the instance is running under both and the session is not revoked. Whoever was overtaken writes
//! nothing and is told so. Epochs only grow, so a zombie can never become right again.

mod admit;
mod advance;
mod alerts;
mod backfill;
mod catalog;
mod claim;
mod create;
mod deadlines;
mod dialect;
mod drill;
mod entity;
mod error;
mod events;
mod fan_out;
mod finish;
mod flush;
mod held;
mod limits;
mod lineage;
mod memo;
mod models;
mod open;
mod origin;
mod page;
mod pause;
mod pool;
mod promotion;
mod reclaim;
mod registry;
mod replay;
mod rerun;
mod retention;
mod rooms;
mod rows;
mod schedules;
mod session;
mod stand_in;
mod summary;
mod time;
mod timeline;
mod triggers;
mod tx;
mod unit;
mod view;
mod wake;
mod why;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub use admit::Admitted;
pub use alerts::{Alert, AlertKind, NewAlert};
pub use backfill::{
    BackfillChunk, BackfillForecast, BackfillOrder, BackfillState, BackfillView, NewBackfill, PastFire, Reprocess,
};
pub use catalog::{CatalogEntry, CatalogScope, Sighting};
pub use claim::{Claim, ClaimRequest, ClaimScope};
pub use create::{NewRun, PinnedDocument, RunKind};
pub use deadlines::Timed;
pub use drill::{DrillView, NewDrill, Outage, Struck};
pub use error::StoreError;
pub(crate) use error::chain;
pub use finish::{Finish, Finished, Next, Outcome, Receipt};
pub use limits::{Load, TenantView};
pub use lineage::{Lineage, LineageNode};
pub use memo::{Memo, MemoHit, memo_key};
pub use models::ModelRow;
pub use open::{Migration, OpenMode};
pub use origin::{Origin, OriginInstance};
pub use page::{TaskGroup, Window};
pub use pause::{Pause, Scope as PauseScope};
pub use promotion::{Change, Moved};
pub use reclaim::LostAttempt;
pub use registry::TenantRegistry;
pub use replay::{Kept, Reuse};
pub use rerun::{Rerun, RerunRequest};
pub use schedules::{Agenda, DueSchedule, FireOutcome, Fired, Retired, ScheduleView, Subscription};
pub use session::{HeldAttempt, NewSession};
pub use summary::{SummaryLine, SummaryReason};
pub use timeline::{EventFilter, EventPage, EventView};
pub use triggers::{Arrived, Source, Waiting};
pub use view::{ArtifactView, RunSummary, RunView, TaskView};
pub use wake::Pending;
pub use why::{RunningView, Why};
pub use work::Work;

use self::dialect::Dialect;
use self::pool::Pool;
use self::time::DatabaseClock;
use crate::dag::{Dag, KindCatalog, lower};
use crate::id::{Digest, Incarnation, RunId, TenantId};
use crate::plan::Limits;

/// The kinds that a pinned DAG version may name.
pub type Catalog = Arc<dyn KindCatalog + Send + Sync>;

/// A handle on the database; clones of the `Arc` around it share everything.
pub struct Store {
    db: Pool,
    dialect: Dialect,
    url: String,
    catalog: Catalog,
    limits: Limits,
    incarnation: Incarnation,
    /// One writer at a time on SQLite.
    writer: tokio::sync::Mutex<()>,
    /// DAG versions are immutable: each is lowered once per process.
    dags: Mutex<HashMap<Digest, Arc<Dag>>>,
    /// What runs are pinned to is immutable, too.
    pins: Mutex<HashMap<(TenantId, RunId), Arc<work::Pinned>>>,
    clock: DatabaseClock,
    commits: std::sync::atomic::AtomicU64,
    /// Something may be ready: wakes this process.
    ready: tokio::sync::watch::Sender<()>,
    /// Something may be ready: to be told to other processes.
    outgoing: tokio::sync::Notify,
    /// Held while this process owns an SQLite file.
    owner: Option<std::fs::File>,
}

impl Store {
    /// Where the store is, without its password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether transactions that write wait for one another, whatever they write.
    pub fn has_one_writer(&self) -> bool {
        self.dialect == Dialect::Sqlite
    }

    /// Whether this process owns the database: every other session of it is dead.
    pub fn is_owned(&self) -> bool {
        self.owner.is_some()
    }

    /// The DAG version of a row with `dag_version`, `dag` and `source`.
    ///
    /// # Errors
    /// [`StoreError::Dag`] if this binary's task kinds no longer fit it.
    fn dag_of(&self, row: &sea_orm::QueryResult) -> Result<Arc<Dag>, StoreError> {
        let version = rows::parse(row, "dag_version", Digest::parse)?;
        if let Some(dag) = self.cached_dag(version) {
            return Ok(dag);
        }
        let (id, source): (String, String) = (rows::get(row, "dag")?, rows::get(row, "source")?);
        let (dag, _) = lower(&format!("{id}.toml"), &source, self.catalog.as_ref())
            .map_err(|diagnostics| StoreError::Dag(Box::new(diagnostics)))?;
        let dag = Arc::new(dag);
        self.cache_dag(Arc::clone(&dag));
        Ok(dag)
    }

    fn cached_dag(&self, version: Digest) -> Option<Arc<Dag>> {
        self.dags.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&version).cloned()
    }

    fn cache_dag(&self, dag: Arc<Dag>) {
        self.dags.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(dag.version, dag);
    }
}
