//! What can go wrong between the engine and its database.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sea_orm::DbErr;

use super::tx;
use crate::dag::Diagnostics;
use crate::id::{InstanceId, RunId, TenantId};
use crate::run::{IllegalTransition, RunState};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can not be reached or opened.
    #[error("can not open the store at {url}")]
    Open {
        /// As configured, without its password.
        url: String,
        /// What lay beneath.
        #[source]
        source: DbErr,
    },
    /// The URL names no store that this binary knows.
    #[error("{url:?} is no store: use sqlite://PATH or postgres://USER@HOST/DATABASE")]
    Url {
        /// As configured, without its password.
        url: String,
    },
    /// Another process owns the SQLite file.
    #[error("another headworks process owns {}; an SQLite store has one owner at a time: wait for it, or use Postgres", path.display())]
    Owned {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file or its folder can not be made.
    #[error("can not prepare {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
    /// The SQLite library is older than the fix for the corruption of a reset WAL.
    #[error("SQLite {found} can corrupt a reset WAL; 3.51.3 or newer is needed")]
    SqliteTooOld {
        /// Its version.
        found: String,
    },
    /// A newer binary has migrated this database.
    #[error("this database has the migration {migration}, which this binary does not know; run a newer headworks")]
    SchemaNewer {
        /// The first unknown one.
        migration: String,
    },
    /// The database has yet to be migrated.
    #[error("this database lacks {pending} migration(s); run `headworks db migrate`")]
    SchemaOlder {
        /// How many.
        pending: usize,
    },
    /// A statement failed.
    #[error("the store failed to {what}")]
    Query {
        /// Verb and object.
        what: &'static str,
        /// What lay beneath.
        #[source]
        source: DbErr,
    },
    /// Others were changing these runs each time that a write wanted to.
    #[error("others are changing {}", named(runs))]
    RunsHeld {
        /// Which.
        runs: BTreeSet<(TenantId, RunId)>,
    },
    /// There is no such thing, or it is another tenant's: the two look the same.
    #[error("there is no {what} {id} of tenant {tenant}")]
    NotFound {
        /// "run", "model" ...
        what: &'static str,
        /// As asked.
        id: String,
        /// Whose.
        tenant: String,
    },
    /// A run has no such task, or the task has no such element.
    #[error("run {run} has no task instance {instance}")]
    NoInstance {
        /// The run.
        run: RunId,
        /// As asked.
        instance: InstanceId,
    },
    /// Only a run that has ended can be run again.
    #[error("run {run} is {state}; only a run that has ended can be retried or replayed")]
    RunOpen {
        /// The run.
        run: RunId,
        /// Where it stands.
        state: RunState,
    },
    /// A rerun of what failed, where nothing did.
    #[error("nothing of run {run} failed or was canceled")]
    NothingToRerun {
        /// The run.
        run: RunId,
    },
    /// Faults are for drill runs of drill tenants.
    #[error(
        "run {run} of tenant {tenant} is of kind {kind}: only a run of kind drill, of a drill tenant, may have faults, and no other tenant has such runs"
    )]
    NoDrill {
        /// The run.
        run: RunId,
        /// Its kind.
        kind: &'static str,
        /// Whose.
        tenant: String,
    },
    /// Somebody else moved the champion meanwhile.
    #[error("the champion of {name} is {is}, not {was} any more: nothing was changed")]
    ChampionMoved {
        /// The model.
        name: String,
        /// As it was when the change was asked for.
        was: String,
        /// As it is.
        is: String,
    },
    /// A version can not become champion as asked.
    #[error("{name} version {version} can not become the champion: {why}")]
    NotPromotable {
        /// The model.
        name: String,
        /// The version.
        version: u32,
        /// What speaks against it.
        why: String,
    },
    /// There is no champion to go back to.
    #[error("{name} has no earlier champion to go back to")]
    NoEarlierChampion {
        /// The model.
        name: String,
    },
    /// The database holds something that this code never writes.
    #[error("the store holds a {what} that can not be read: {detail}")]
    Corrupt {
        /// "run", "task instance" ...
        what: &'static str,
        /// Which, and what is odd about it.
        detail: String,
    },
    /// A pinned DAG version no longer lowers with this binary's task kinds.
    #[error("the pinned DAG version of this run is not readable by this binary: {}", first(.0))]
    Dag(Box<Diagnostics>),
    /// The state has no such move.
    #[error(transparent)]
    Transition(#[from] IllegalTransition),
}

fn named(runs: &BTreeSet<(TenantId, RunId)>) -> String {
    let runs: Vec<_> = runs.iter().map(|(tenant, run)| format!("run {run} of tenant {tenant}")).collect();
    runs.join(", ")
}

fn first(diagnostics: &Diagnostics) -> String {
    diagnostics.items.first().map(|it| it.message.clone()).unwrap_or_default()
}

impl StoreError {
    /// Wraps a database error with what was being done.
    pub(super) fn query(what: &'static str) -> impl FnOnce(DbErr) -> Self {
        move |source| Self::Query { what, source }
    }

    /// An error that a failpoint asked for: a lost connection.
    pub(super) fn injected(error: std::io::Error) -> Self {
        let source = DbErr::Conn(sea_orm::RuntimeErr::Internal(error.to_string()));
        Self::Query { what: "pass a failpoint", source }
    }

    /// Whether the same may go well in a moment: the store is away, or others were in the way for too long.
    pub fn is_passing(&self) -> bool {
        self.is_unavailable() || matches!(self, Self::Query { .. } | Self::RunsHeld { .. })
    }

    /// Whether the store can not be reached, as opposed to refusing something (exit code 5).
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Open { .. } | Self::Owned { .. } | Self::SqliteTooOld { .. } | Self::File { .. } => true,
            Self::SchemaNewer { .. } | Self::SchemaOlder { .. } => true,
            Self::Query { source, .. } => {
                matches!(source, DbErr::Conn(_) | DbErr::ConnectionAcquire(_)) || tx::is_unwell(source)
            }
            _ => false,
        }
    }
}

/// An error and what lay beneath, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
