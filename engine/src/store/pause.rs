//! Pauses: nothing comes due and nothing queued starts, for a DAG, a tenant, or one DAG of one tenant.
//!
//! What runs goes on. After a resume the policy for catch-up says what becomes of the fires in between.

use async_trait::async_trait;

use super::rows;
use super::schedules::NOT_PAUSED;
use super::tx::{Tx, Write};
use super::{Store, StoreError, tx};
use crate::id::{DagId, TenantId};
use crate::plan::Micros;

/// What is paused: at least one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `None` = every DAG of the tenant.
    pub dag: Option<DagId>,
    /// `None` = for everybody.
    pub tenant: Option<TenantId>,
}

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Of what.
    pub scope: Scope,
    /// Since when.
    pub at: Micros,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
}

impl Store {
    /// Pauses. Returns whether it was not paused before.
    ///
    /// # Errors
    /// The database's.
    pub async fn pause(&self, scope: &Scope, actor: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        self.write(&Begin { scope, actor, reason }).await
    }

    /// Ends a pause; what waited is looked at at `now`, the scheduler's. Returns whether there was one.
    ///
    /// # Errors
    /// The database's.
    pub async fn resume(&self, scope: &Scope, now: Micros) -> Result<bool, StoreError> {
        self.write(&End(scope, now)).await
    }

    /// All pauses in force.
    ///
    /// # Errors
    /// The database's.
    pub async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let sql = "SELECT dag, tenant, at, actor, reason FROM pause ORDER BY dag, tenant";
        let found = tx::read(&self.db, "list the pauses", sql, vec![]).await?;
        let one = |row: &sea_orm::QueryResult| {
            let is_named = |column| Ok::<_, StoreError>(!rows::get::<String>(row, column)?.is_empty());
            let dag = is_named("dag")?.then(|| rows::parse(row, "dag", DagId::parse)).transpose()?;
            let tenant = is_named("tenant")?.then(|| rows::parse(row, "tenant", TenantId::parse)).transpose()?;
            Ok(Pause {
                scope: Scope { dag, tenant },
                at: rows::get(row, "at")?,
                actor: rows::get(row, "actor")?,
                reason: rows::get(row, "reason")?,
            })
        };
        found.iter().map(one).collect()
    }
}

impl Scope {
    fn values(&self) -> Vec<sea_orm::Value> {
        let dag = self.dag.as_ref().map(DagId::to_string).unwrap_or_default();
        let tenant = self.tenant.as_ref().map(TenantId::to_string).unwrap_or_default();
        vec![dag.into(), tenant.into()]
    }
}

struct Begin<'a> {
    scope: &'a Scope,
    actor: &'a str,
    reason: Option<&'a str>,
}

#[async_trait]
impl Write for Begin<'_> {
    type Output = bool;
    const WHAT: &'static str = "pause";

    async fn apply(&self, tx: &Tx) -> Result<bool, StoreError> {
        let sql = "INSERT INTO pause (dag, tenant, at, actor, reason) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (dag, tenant) DO NOTHING";
        let mut values = self.scope.values();
        values.extend([tx.now.into(), self.actor.into(), self.reason.map(str::to_owned).into()]);
        let is_new = tx.execute(Self::WHAT, sql, values).await? > 0;
        let sql = "UPDATE schedule SET next_at = NULL, version = version + 1 \
                   WHERE ($1 = '' OR dag = $1) AND ($2 = '' OR tenant = $2)";
        tx.execute(Self::WHAT, sql, self.scope.values()).await?;
        tx.all_of(Vec::new()).await?;
        Ok(is_new)
    }
}

struct End<'a>(&'a Scope, Micros);

#[async_trait]
impl Write for End<'_> {
    type Output = bool;
    const WHAT: &'static str = "resume";

    async fn apply(&self, tx: &Tx) -> Result<bool, StoreError> {
        let sql = "DELETE FROM pause WHERE dag = $1 AND tenant = $2";
        let was_there = tx.execute(Self::WHAT, sql, self.0.values()).await? > 0;
        let sql = format!(
            "UPDATE schedule AS s SET next_at = $3, version = s.version + 1 WHERE s.is_live AND s.rule IS NOT NULL \
             AND ($1 = '' OR s.dag = $1) AND ($2 = '' OR s.tenant = $2) AND {NOT_PAUSED}"
        );
        // The next tick looks.
        let mut values = self.0.values();
        values.push(self.1.into());
        tx.execute(Self::WHAT, &sql, values).await?;
        tx.all_of(Vec::new()).await?;
        Ok(was_there)
    }
}
