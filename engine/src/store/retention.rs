//! What is kept no longer: runs with all that belongs to them, artifacts, events.
//!
//! Rows go first, some hundreds per transaction, then the objects that no row names any more; a crash in
//! between leaves orphans, which the same chore collects. A run whose model serves or may serve again is
//! kept whatever its age, and so is an object that a younger run links to.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::dialect::{Dialect, Kind};
use super::drill::no_drill;
use super::rows::{self, param};
use super::tx::{Tx, Write};
use super::{Store, StoreError, tx};
use crate::id::{RunId, TenantId};
use crate::plan::Micros;
use crate::tenant::Retention;

/// Runs, or runs' artifacts, that one transaction deletes.
const RUNS_AT_ONCE: u32 = 100;
/// Events that one transaction deletes.
const EVENTS_AT_ONCE: u32 = 10_000;

/// A run that may go: it has ended, and none of its models serves, or has served and is what a rollback may go back
/// to. What was never champion goes with its run.
const MAY_GO: &str = "u.tenant = $1 AND u.finished_at < $2 AND u.state IN ('succeeded', 'failed', 'canceled') \
     AND NOT EXISTS (SELECT 1 FROM model_version m WHERE m.tenant = u.tenant AND m.run = u.run \
     AND m.status IN ('champion', 'archived'))";

/// Tables whose rows belong to a run, by (tenant, run).
const OF_A_RUN: [&str; 8] =
    ["run_document", "task_instance", "attempt", "event", "artifact", "attempt_input", "trigger_use", "drill_fault"];

impl Store {
    /// Every tenant with what its file says about keeping.
    ///
    /// # Errors
    /// The database's.
    pub async fn retentions(&self) -> Result<Vec<(TenantId, Retention)>, StoreError> {
        let sql = "SELECT tenant, retention FROM tenant ORDER BY tenant";
        let found = tx::read(&self.db, "read what is kept", sql, vec![]).await?;
        let one = |row| {
            let retention = rows::parse(row, "retention", |text| serde_json::from_str::<Retention>(text))?;
            Ok((rows::parse(row, "tenant", TenantId::parse)?, retention))
        };
        found.iter().map(one).collect()
    }

    /// Drill tenants of which every run ended before `before`.
    ///
    /// # Errors
    /// The database's.
    pub async fn old_drill_tenants(&self, before: Micros) -> Result<Vec<TenantId>, StoreError> {
        let sql = format!(
            "SELECT tenant FROM run WHERE NOT ({}) GROUP BY tenant HAVING COUNT(*) = COUNT(CASE WHEN finished_at < $1 \
             AND state IN ('succeeded', 'failed', 'canceled') THEN 1 END) ORDER BY tenant",
            no_drill("tenant")
        );
        let found = tx::read(&self.db, "look for old drills", &sql, vec![before.into()]).await?;
        found.iter().map(|row| rows::parse(row, "tenant", TenantId::parse)).collect()
    }

    /// Deletes the models of a drill tenant, for which its runs would be kept, and its pauses.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_drill_models(&self, tenant: &TenantId) -> Result<(), StoreError> {
        if tenant.is_drill() { self.write(&DeleteModels(tenant)).await } else { Ok(()) }
    }

    /// Deletes some of a tenant's runs that ended before `before`. Returns how many, and the keys that no
    /// row names any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_runs(&self, tenant: &TenantId, before: Micros) -> Result<(usize, Vec<String>), StoreError> {
        self.write(&DeleteRuns { tenant, before, only_artifacts: false }).await
    }

    /// Deletes the artifacts of some of a tenant's runs that ended before `before`; the runs stay. Returns
    /// how many runs, and the keys that no row names any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_artifacts(
        &self,
        tenant: &TenantId,
        before: Micros,
    ) -> Result<(usize, Vec<String>), StoreError> {
        self.write(&DeleteRuns { tenant, before, only_artifacts: true }).await
    }

    /// Deletes some events of a tenant's runs that ended before `before`. Returns how many.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_events(&self, tenant: &TenantId, before: Micros) -> Result<u64, StoreError> {
        self.write(&DeleteEvents { tenant, before }).await
    }

    /// Of runs, those that are there, each with the moment of its end if it has ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn known_runs(
        &self,
        tenant: &TenantId,
        runs: &[RunId],
    ) -> Result<BTreeMap<RunId, Option<Micros>>, StoreError> {
        let named = runs.iter().map(|run| json!({ "run": run.to_string() })).collect();
        let sql = format!(
            "SELECT u.run, CASE WHEN u.state IN ('succeeded', 'failed', 'canceled') THEN u.finished_at END AS ended \
             FROM {} JOIN run u ON u.tenant = $2 AND u.run = r.run",
            self.dialect.rows(1, &[("run", Kind::Text)])
        );
        let values = vec![param(named), tenant.to_string().into()];
        let found = tx::read(&self.db, "look runs up", &sql, values).await?;
        found.iter().map(|row| Ok((rows::parse(row, "run", RunId::parse)?, rows::get(row, "ended")?))).collect()
    }

    /// Of keys, those that rows of any run name.
    ///
    /// # Errors
    /// The database's.
    pub async fn named_keys(&self, tenant: &TenantId, keys: &[String]) -> Result<BTreeSet<String>, StoreError> {
        let named = keys.iter().map(|key| json!({ "key": key })).collect();
        let values = vec![param(named), tenant.to_string().into()];
        let found = tx::read(&self.db, "look keys up", &named_sql(self.dialect), values).await?;
        found.iter().map(|row| rows::get(row, "key")).collect()
    }
}

/// The keys of `$1` that rows of tenant `$2` name.
fn named_sql(dialect: Dialect) -> String {
    format!(
        "SELECT DISTINCT a.key FROM {} JOIN artifact a ON a.tenant = $2 AND a.key = r.key",
        dialect.rows(1, &[("key", Kind::Text)])
    )
}

/// The runs that a select of `u.run` over [`MAY_GO`] finds, as rows of `run`.
async fn runs(tx: &Tx, sql: &str, tenant: &TenantId, before: Micros) -> Result<Vec<Value>, StoreError> {
    let found = tx.all("read what is kept no longer", sql, vec![tenant.to_string().into(), before.into()]).await?;
    found.iter().map(|row| Ok(json!({ "run": rows::get::<String>(row, "run")? }))).collect()
}

/// Deletes the artifact rows of runs, and the memo keys that led to them; returns the keys that no other row names.
async fn artifacts(tx: &Tx, tenant: &TenantId, ids: &sea_orm::Value) -> Result<Vec<String>, StoreError> {
    let source = tx.dialect.rows(1, &[("run", Kind::Text)]);
    let values = || vec![ids.clone(), tenant.to_string().into()];
    let sql = format!("DELETE FROM artifact WHERE tenant = $2 AND run IN (SELECT r.run FROM {source}) RETURNING key");
    let found = tx.all("delete artifacts", &sql, values()).await?;
    let keys: Vec<String> = found.iter().map(|row| rows::get(row, "key")).collect::<Result<_, _>>()?;
    let sql = format!("DELETE FROM memo WHERE tenant = $2 AND run IN (SELECT r.run FROM {source})");
    tx.execute("delete memo keys", &sql, values()).await?;
    let named = param(keys.iter().map(|key| json!({ "key": key })).collect());
    let found = tx.all("look keys up", &named_sql(tx.dialect), vec![named, tenant.to_string().into()]).await?;
    let linked: BTreeSet<String> = found.iter().map(|row| rows::get(row, "key")).collect::<Result<_, _>>()?;
    Ok(keys.into_iter().filter(|key| !linked.contains(key)).collect())
}

/// Deletes runs, or only what they made.
struct DeleteRuns<'a> {
    tenant: &'a TenantId,
    before: Micros,
    /// Whether the runs stay.
    only_artifacts: bool,
}

#[async_trait]
impl Write for DeleteRuns<'_> {
    type Output = (usize, Vec<String>);
    const WHAT: &'static str = "delete runs or their artifacts";

    async fn apply(&self, tx: &Tx) -> Result<Self::Output, StoreError> {
        let which = match self.only_artifacts {
            true => " AND EXISTS (SELECT 1 FROM artifact a WHERE a.tenant = u.tenant AND a.run = u.run)",
            false => "",
        };
        let sql = format!(
            "SELECT u.run FROM run u WHERE {MAY_GO}{which} ORDER BY u.finished_at LIMIT {RUNS_AT_ONCE}{}",
            tx.dialect.lock("u")
        );
        let found = runs(tx, &sql, self.tenant, self.before).await?;
        let deleted = found.len();
        if deleted == 0 {
            return Ok((0, Vec::new()));
        }
        let ids = param(found);
        let keys = artifacts(tx, self.tenant, &ids).await?;
        if !self.only_artifacts {
            self.rows(tx, ids).await?;
        }
        tx.all_of(Vec::new()).await?;
        Ok((deleted, keys))
    }
}

impl DeleteRuns<'_> {
    /// Deletes all other rows of runs, and theirs.
    async fn rows(&self, tx: &Tx, ids: sea_orm::Value) -> Result<(), StoreError> {
        let source = tx.dialect.rows(1, &[("run", Kind::Text)]);
        for table in OF_A_RUN {
            let column = if table == "trigger_use" { "source_run" } else { "run" };
            let sql = format!("DELETE FROM {table} WHERE tenant = $2 AND {column} IN (SELECT r.run FROM {source})");
            tx.execute(Self::WHAT, &sql, vec![ids.clone(), self.tenant.to_string().into()]).await?;
        }
        let sql = format!("DELETE FROM run WHERE tenant = $2 AND run IN (SELECT r.run FROM {source})");
        tx.execute(Self::WHAT, &sql, vec![ids, self.tenant.to_string().into()]).await?;
        Ok(())
    }
}

struct DeleteModels<'a>(&'a TenantId);

#[async_trait]
impl Write for DeleteModels<'_> {
    type Output = ();
    const WHAT: &'static str = "delete a drill tenant's models";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        for table in ["model_version", "model_decision", "pause"] {
            let sql = format!("DELETE FROM {table} WHERE tenant = $1");
            tx.execute(Self::WHAT, &sql, vec![self.0.to_string().into()]).await?;
        }
        tx.all_of(Vec::new()).await
    }
}

struct DeleteEvents<'a> {
    tenant: &'a TenantId,
    before: Micros,
}

#[async_trait]
impl Write for DeleteEvents<'_> {
    type Output = u64;
    const WHAT: &'static str = "delete events";

    async fn apply(&self, tx: &Tx) -> Result<u64, StoreError> {
        let sql = format!(
            "SELECT u.run FROM run u WHERE {MAY_GO} AND EXISTS (SELECT 1 FROM event e WHERE e.tenant = u.tenant \
             AND e.run = u.run) ORDER BY u.finished_at LIMIT {RUNS_AT_ONCE}"
        );
        let ids = param(runs(tx, &sql, self.tenant, self.before).await?);
        let source = tx.dialect.rows(1, &[("run", Kind::Text)]);
        let key = "tenant, run, task, element, generation, seq";
        let sql = format!(
            "DELETE FROM event WHERE ({key}) IN (SELECT {key} FROM event WHERE tenant = $2 \
             AND run IN (SELECT r.run FROM {source}) LIMIT {EVENTS_AT_ONCE})"
        );
        let deleted = tx.execute(Self::WHAT, &sql, vec![ids, self.tenant.to_string().into()]).await?;
        if deleted > 0 {
            tx.all_of(Vec::new()).await?;
        }
        Ok(deleted)
    }
}
