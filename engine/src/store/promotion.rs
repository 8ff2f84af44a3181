//! Changes of the champion that a person asks for: a promotion past the gate's turn, and the way back.
//!
//! Called by `headworks models promote` and `rollback`. Each is one transaction: the champion is locked and compared
//! with what the person saw, the two versions change places, and a decision says who asked and why. Decisions are
//! only ever appended; the earlier champion is found by reading them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::registry::{self, Decision, append, champion_version, swap_champion};
use super::rows;
use super::tx::{Tx, Write};
use super::{Store, StoreError};
use crate::id::{ModelName, TenantId};
use crate::registry::ModelStatus;

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whose model.
    pub tenant: TenantId,
    /// The model.
    pub name: ModelName,
    /// The champion as the person saw it; `None` = there was none.
    pub expected: Option<u32>,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// How the champion changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Who it was.
    pub from: Option<u32>,
    /// Who it is.
    pub to: u32,
}

impl Store {
    /// Makes a version the champion. Without `force` only one for which the gate once said yes: a decision to
    /// promote it, by a task, is on record.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NotPromotable`], [`StoreError::ChampionMoved`]; nothing is changed then.
    pub async fn promote(&self, change: &Change, version: u32, force: bool) -> Result<Moved, StoreError> {
        self.write(&Promote { change, version, force }).await
    }

    /// Makes the champion before this one the champion again.
    ///
    /// # Errors
    /// [`StoreError::NoEarlierChampion`], [`StoreError::ChampionMoved`]; nothing is changed then.
    pub async fn roll_back(&self, change: &Change) -> Result<Moved, StoreError> {
        self.write(&RollBack { change }).await
    }
}

struct Promote<'a> {
    change: &'a Change,
    version: u32,
    force: bool,
}

#[async_trait]
impl Write for Promote<'_> {
    type Output = Moved;
    const WHAT: &'static str = "promote a model version";

    async fn apply(&self, tx: &Tx) -> Result<Moved, StoreError> {
        let (change, version) = (self.change, self.version);
        registry::lock(tx, &BTreeSet::from([(&change.tenant, &change.name)])).await?;
        let versions = lock_versions(tx, change).await?;
        let from = compare(tx, change).await?;
        let id = || format!("{} version {version}", change.name);
        let found = versions.iter().find(|it| it.version == version);
        let it = found.ok_or_else(|| missing("model version", id(), change))?;
        let refuse =
            |why: &str| Err(StoreError::NotPromotable { name: change.name.to_string(), version, why: why.to_owned() });
        if it.status == ModelStatus::Champion {
            return refuse("it is the champion already");
        }
        if !is_kept(tx, change, it).await? {
            return refuse("its model is kept no longer");
        }
        let approved = was_approved(tx, change, version).await?;
        if !approved && !self.force {
            return refuse("no gate has said yes to it (`headworks models show` tells what was decided)");
        }
        let decision = json!({ "by": "promote", "forced": !approved });
        swap_champion(tx, &change.tenant, &change.name, version).await?;
        record(tx, change, &it.run, (from, version), &decision).await?;
        Ok(Moved { from, to: version })
    }
}

struct RollBack<'a> {
    change: &'a Change,
}

#[async_trait]
impl Write for RollBack<'_> {
    type Output = Moved;
    const WHAT: &'static str = "roll back to the earlier champion";

    async fn apply(&self, tx: &Tx) -> Result<Moved, StoreError> {
        let change = self.change;
        registry::lock(tx, &BTreeSet::from([(&change.tenant, &change.name)])).await?;
        let versions = lock_versions(tx, change).await?;
        if versions.is_empty() {
            return Err(missing("model", change.name.to_string(), change));
        }
        let from = compare(tx, change).await?;
        let before = earlier(tx, change, from).await?;
        let target = before.and_then(|version| versions.iter().find(|it| it.version == version));
        let none = || StoreError::NoEarlierChampion { name: change.name.to_string() };
        let it = target.ok_or_else(none)?;
        swap_champion(tx, &change.tenant, &change.name, it.version).await?;
        record(tx, change, &it.run, (from, it.version), &json!({ "by": ROLLBACK })).await?;
        Ok(Moved { from, to: it.version })
    }
}

/// What marks a decision as a way back.
const ROLLBACK: &str = "rollback";

fn missing(what: &'static str, id: String, change: &Change) -> StoreError {
    StoreError::NotFound { what, id, tenant: change.tenant.to_string() }
}

fn key(change: &Change) -> Vec<sea_orm::Value> {
    vec![change.tenant.to_string().into(), change.name.to_string().into()]
}

/// A version of the model, locked.
struct Version {
    version: u32,
    status: ModelStatus,
    run: String,
    /// The model's artifact, as JSON.
    artifact: Value,
}

/// Locks the model's versions, so that a promotion by a task waits, or this one does.
async fn lock_versions(tx: &Tx, change: &Change) -> Result<Vec<Version>, StoreError> {
    let sql = format!(
        "SELECT version, status, run, artifact FROM model_version WHERE tenant = $1 AND name = $2 ORDER BY version{}",
        tx.dialect.lock("model_version")
    );
    let found = tx.all("lock the model's versions", &sql, key(change)).await?;
    let status = |word: &str| ModelStatus::parse(word).ok_or("no such status");
    let one = |row| {
        Ok(Version {
            version: rows::count(row, "version")?,
            status: rows::parse(row, "status", status)?,
            run: rows::get(row, "run")?,
            artifact: rows::get_json(row, "artifact")?,
        })
    };
    found.iter().map(one).collect()
}

/// The champion, if it is the one that the person saw.
async fn compare(tx: &Tx, change: &Change) -> Result<Option<u32>, StoreError> {
    let is = champion_version(tx, &change.tenant, &change.name).await?;
    if is == change.expected {
        return Ok(is);
    }
    let shown =
        |version: Option<u32>| version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
    Err(StoreError::ChampionMoved { name: change.name.to_string(), was: shown(change.expected), is: shown(is) })
}

/// Whether a gate has said yes to the version: tasks decide, people only overrule.
async fn was_approved(tx: &Tx, change: &Change, version: u32) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS there FROM model_decision WHERE tenant = $1 AND name = $2 AND to_version = $3 AND promoted \
               AND actor LIKE 'task %' LIMIT 1";
    let mut values = key(change);
    values.push(i64::from(version).into());
    Ok(!tx.all("look for the gate's decision", sql, values).await?.is_empty())
}

/// Whether the version's model is on record still: what never served goes with its run.
async fn is_kept(tx: &Tx, change: &Change, it: &Version) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS there FROM artifact WHERE tenant = $1 AND run = $2 AND key = $3 LIMIT 1";
    let key = it.artifact["key"].as_str().unwrap_or_default().to_owned();
    let values = vec![change.tenant.to_string().into(), it.run.clone().into(), key.into()];
    Ok(!tx.all("look for the model", sql, values).await?.is_empty())
}

/// The champion before this one. A way back undoes the promotion that it goes back from, so that the next one leads
/// one further back, and not to the version that was left.
async fn earlier(tx: &Tx, change: &Change, champion: Option<u32>) -> Result<Option<u32>, StoreError> {
    let sql =
        "SELECT to_version, decision FROM model_decision WHERE tenant = $1 AND name = $2 AND promoted ORDER BY seq";
    let mut line: Vec<u32> = Vec::new();
    for row in tx.all("read the promotions", sql, key(change)).await? {
        let decision: Value = rows::get_json(&row, "decision")?;
        let to: Option<i64> = rows::get(&row, "to_version")?;
        let Some(to) = to.and_then(|to| u32::try_from(to).ok()) else { continue };
        if decision["by"] == ROLLBACK {
            line.pop();
        } else {
            line.push(to);
        }
    }
    if line.last().copied() != champion {
        return Ok(None);
    }
    line.pop();
    Ok(line.last().copied())
}

async fn record(
    tx: &Tx,
    change: &Change,
    run: &str,
    (from, to): (Option<u32>, u32),
    decision: &Value,
) -> Result<(), StoreError> {
    let it = Decision {
        run: run.to_owned(),
        promoted: true,
        from: from.map(i64::from),
        to: Some(to.into()),
        reason: &change.reason,
        decision,
        actor: change.actor.clone(),
    };
    append(tx, (&change.tenant, &change.name), it).await?;
    tx.all_of(Vec::new()).await
}
