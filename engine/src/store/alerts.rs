//! Alerts: what people have to know, one row per thing, raised once and resolved once.
//!
//! A raise of what is known already changes nothing; one that comes back after it was resolved is open
//! again. Written by the scheduler's chores within their own transactions.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::dialect::Kind;
use super::rows::{self, param};
use super::tx::{Part, Tx, Write};
use super::{Store, StoreError, tx};
use crate::id::{DagId, RunId, TenantId};
use crate::plan::Micros;

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertKind {
    /// By its history a run will end after its deadline.
    DeadlineAtRisk,
    /// A run has not ended by its deadline.
    DeadlineMissed,
    /// A run that came due could not be made: its parameters or documents are broken.
    LaunchFailed,
    /// A quota keeps a tenant's runs back.
    QuotaExceeded,
    /// A run that came due was skipped, or an older one canceled, by the policy for overlaps.
    Overlap,
    /// Fires that came due while nobody looked were left out, by the policy for catch-up.
    FiresDropped,
}

impl AlertKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DeadlineAtRisk,
        Self::DeadlineMissed,
        Self::LaunchFailed,
        Self::QuotaExceeded,
        Self::Overlap,
        Self::FiresDropped,
    ];

    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadlineAtRisk => "deadline_at_risk",
            Self::DeadlineMissed => "deadline_missed",
            Self::LaunchFailed => "launch_failed",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Overlap => "overlap",
            Self::FiresDropped => "fires_dropped",
        }
    }

    pub(super) fn parse(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|it| it.as_str() == word).ok_or_else(|| format!("unknown kind {word:?}"))
    }
}

/// An alert to be raised.
#[derive(Debug, Clone)]
pub struct NewAlert<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Of which DAG.
    pub dag: &'a DagId,
    /// What kind.
    pub kind: AlertKind,
    /// What it is about within the pair: a run, a logical time, a quota.
    pub subject: &'a str,
    /// The run, if it is about one.
    pub run: Option<RunId>,
    /// For people.
    pub message: String,
    /// For scripts.
    pub detail: Value,
}

/// An alert as people read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Whose.
    pub tenant: TenantId,
    /// Of which DAG.
    pub dag: DagId,
    /// What kind.
    pub kind: AlertKind,
    /// What it is about.
    pub subject: String,
    /// The run, if it is about one.
    pub run: Option<RunId>,
    /// For people.
    pub message: String,
    /// For scripts.
    pub detail: Value,
    /// Since when.
    pub raised_at: Micros,
    /// Until when.
    pub resolved_at: Option<Micros>,
}

/// A part that raises alerts.
pub(super) fn raise(tx: &Tx, alerts: &[NewAlert<'_>]) -> Part {
    let columns = [
        ("tenant", Kind::Text),
        ("dag", Kind::Text),
        ("kind", Kind::Text),
        ("subject", Kind::Text),
        ("run", Kind::Text),
        ("message", Kind::Text),
        ("detail", Kind::Text),
    ];
    let rows = alerts.iter().map(|it| {
        json!({
            "tenant": it.tenant, "dag": it.dag, "kind": it.kind.as_str(), "subject": it.subject,
            "run": it.run.map(|run| run.to_string()), "message": it.message, "detail": it.detail.to_string(),
        })
    });
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let sql = format!(
        "INSERT INTO alert ({}, raised_at) SELECT {}, $2 FROM {} WHERE TRUE \
         ON CONFLICT (tenant, dag, kind, subject) DO UPDATE SET message = excluded.message, detail = excluded.detail, \
         raised_at = CASE WHEN alert.resolved_at IS NULL THEN alert.raised_at ELSE excluded.raised_at END, \
         resolved_at = NULL WHERE alert.resolved_at IS NOT NULL OR alert.message <> excluded.message",
        names.join(", "),
        names.iter().map(|name| format!("r.{name}")).collect::<Vec<_>>().join(", "),
        tx.dialect.rows(1, &columns)
    );
    Part::new("raise alerts", sql, vec![param(rows.collect()), tx.now.into()])
}

impl Store {
    /// Raises alerts.
    ///
    /// # Errors
    /// The database's.
    pub async fn raise_alerts(&self, alerts: &[NewAlert<'_>]) -> Result<(), StoreError> {
        if alerts.is_empty() { Ok(()) } else { self.write(&Raise(alerts)).await }
    }

    /// Resolves an alert that is open. Returns whether there was one.
    ///
    /// # Errors
    /// The database's.
    pub async fn resolve_alert(
        &self,
        (tenant, dag): (&TenantId, &DagId),
        kind: AlertKind,
        subject: &str,
    ) -> Result<bool, StoreError> {
        self.write(&Resolve { tenant, dag, kind, subject }).await
    }

    /// Alerts, the newest first; open ones only unless `all`.
    ///
    /// # Errors
    /// The database's.
    pub async fn alerts(&self, tenant: Option<&TenantId>, all: bool, limit: u64) -> Result<Vec<Alert>, StoreError> {
        let sql = "SELECT * FROM alert WHERE ($1 = '' OR tenant = $1) AND ($2 = 1 OR resolved_at IS NULL) \
                   ORDER BY raised_at DESC, tenant, dag, kind, subject LIMIT $3";
        let values = vec![
            tenant.map(TenantId::to_string).unwrap_or_default().into(),
            i64::from(all).into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
        ];
        let found = tx::read(&self.db, "list the alerts", sql, values).await?;
        found.iter().map(read).collect()
    }
}

fn read(row: &sea_orm::QueryResult) -> Result<Alert, StoreError> {
    let run: Option<String> = rows::get(row, "run")?;
    Ok(Alert {
        tenant: rows::parse(row, "tenant", TenantId::parse)?,
        dag: rows::parse(row, "dag", DagId::parse)?,
        kind: rows::parse(row, "kind", AlertKind::parse)?,
        subject: rows::get(row, "subject")?,
        run: run.map(|_| rows::parse(row, "run", RunId::parse)).transpose()?,
        message: rows::get(row, "message")?,
        detail: rows::get_json(row, "detail")?,
        raised_at: rows::get(row, "raised_at")?,
        resolved_at: rows::get(row, "resolved_at")?,
    })
}

struct Raise<'a>(&'a [NewAlert<'a>]);

#[async_trait]
impl Write for Raise<'_> {
    type Output = ();
    const WHAT: &'static str = "raise alerts";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let part = raise(tx, self.0);
        // What is known already changes nothing.
        if tx.run(part).await? > 0 { tx.all_of(Vec::new()).await } else { Ok(()) }
    }
}

struct Resolve<'a> {
    tenant: &'a TenantId,
    dag: &'a DagId,
    kind: AlertKind,
    subject: &'a str,
}

#[async_trait]
impl Write for Resolve<'_> {
    type Output = bool;
    const WHAT: &'static str = "resolve an alert";

    async fn apply(&self, tx: &Tx) -> Result<bool, StoreError> {
        let sql = "UPDATE alert SET resolved_at = $1 WHERE tenant = $2 AND dag = $3 AND kind = $4 AND subject = $5 \
                   AND resolved_at IS NULL";
        let values = vec![
            tx.now.into(),
            self.tenant.to_string().into(),
            self.dag.to_string().into(),
            self.kind.as_str().into(),
            self.subject.into(),
        ];
        let resolved = tx.execute(Self::WHAT, sql, values).await? > 0;
        if resolved {
            tx.all_of(Vec::new()).await?;
        }
        Ok(resolved)
    }
}
