//! Lineage: from an artifact up to all that it was made from, and down to all that was made from it.
//!
//! Called by `headworks artifacts lineage`. What an attempt read stands in `attempt_input`, what it wrote in
//! `artifact`; a step of the walk is one query for all artifacts of a level. It goes through runs: a result
//! that was taken over leads to the run that computed it.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::QueryResult;
use serde_json::json;

use super::dialect::Kind;
use super::rows::{element, get, param, parse};
use super::{Store, StoreError, rows, tx};
use crate::id::{ArtifactName, Digest, InstanceId, RunId, TenantId};

/// Artifacts that an answer names; a walk that meets more says so.
const NODES: usize = 10_000;

/// A published artifact and who computed it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineageNode {
    /// The object's key: what tells artifacts apart.
    pub key: String,
    /// Its name.
    pub name: ArtifactName,
    /// Its digest.
    pub digest: Digest,
    /// The run that computed it.
    pub run: RunId,
    /// The task instance that did.
    pub instance: InstanceId,
}

/// What lies above or below an artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineage {
    /// The artifact that was asked about.
    pub root: LineageNode,
    /// All artifacts on the way, the root too, by key.
    pub nodes: BTreeMap<String, LineageNode>,
    /// From what was read to what was made from it, by key.
    pub edges: BTreeSet<(String, String)>,
    /// Whether there is more than an answer names.
    pub is_cut: bool,
}

/// Which way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// The row `a` of whoever made an artifact: the one that links nothing.
const MAKER: &str = "a.tenant = r.tenant AND a.digest = r.digest AND a.key = r.key AND a.linked_from IS NULL";

/// The attempt `p` that made the artifact `a`, and what it read, `i`.
const READ: &str = "JOIN attempt p ON p.tenant = a.tenant AND p.run = a.run AND p.task = a.task \
     AND p.element = a.element AND p.generation = a.generation AND p.epoch = a.epoch \
     JOIN attempt_input i ON i.tenant = p.tenant AND i.run = p.run AND i.task = p.task AND i.element = p.element \
     AND i.generation = p.generation AND i.attempt = p.attempt";

impl Store {
    /// Walks from the artifact `name` of a run's task instance: up, down, or both.
    ///
    /// # Errors
    /// The run has no such artifact.
    pub async fn lineage(
        &self,
        (tenant, run): (&TenantId, RunId),
        instance: &InstanceId,
        name: &ArtifactName,
        (up, down): (bool, bool),
    ) -> Result<Lineage, StoreError> {
        let sql = "SELECT a.key, a.digest FROM artifact a JOIN task_instance t ON t.tenant = a.tenant AND t.run = a.run \
                   AND t.task = a.task AND t.element = a.element AND t.generation = a.generation AND t.epoch = a.epoch \
                   AND t.current WHERE a.tenant = $1 AND a.run = $2 AND a.task = $3 AND a.element = $4 AND a.name = $5";
        let values = vec![
            tenant.to_string().into(),
            run.to_string().into(),
            instance.task.to_string().into(),
            element(instance.index).into(),
            name.to_string().into(),
        ];
        let missing = || StoreError::NotFound {
            what: "artifact",
            id: format!("{name} of {instance} in run {run}"),
            tenant: tenant.to_string(),
        };
        let found = tx::read(&self.db, "look for an artifact", sql, values).await?;
        let row = found.first().ok_or_else(missing)?;
        let asked = (get::<String>(row, "key")?, parse(row, "digest", Digest::parse)?);
        let root = self.makers(tenant, &[asked]).await?.into_iter().next().ok_or_else(missing)?;
        let nodes = BTreeMap::from([(root.key.clone(), root.clone())]);
        let mut lineage = Lineage { root, nodes, edges: BTreeSet::new(), is_cut: false };
        for way in [(up, Way::Up), (down, Way::Down)].into_iter().filter_map(|(wanted, way)| wanted.then_some(way)) {
            self.walk(tenant, way, &mut lineage).await?;
        }
        Ok(lineage)
    }

    async fn walk(&self, tenant: &TenantId, way: Way, lineage: &mut Lineage) -> Result<(), StoreError> {
        let mut met = BTreeSet::from([lineage.root.key.clone()]);
        let mut level = vec![(lineage.root.key.clone(), lineage.root.digest)];
        while !level.is_empty() {
            let found = self.neighbors(tenant, way, &level).await?;
            level = Vec::new();
            for (from, to, next) in found {
                lineage.edges.insert((from, to));
                if met.len() >= NODES {
                    lineage.is_cut = true;
                } else if met.insert(next.0.clone()) {
                    level.push(next);
                }
            }
            for node in self.makers(tenant, &level).await? {
                lineage.nodes.insert(node.key.clone(), node);
            }
        }
        let nodes = &lineage.nodes;
        lineage.edges.retain(|(from, to)| nodes.contains_key(from) && nodes.contains_key(to));
        Ok(())
    }

    /// Edges of artifacts, from what was read to what was made, each with its far end.
    async fn neighbors(
        &self,
        tenant: &TenantId,
        way: Way,
        level: &[(String, Digest)],
    ) -> Result<Vec<(String, String, (String, Digest))>, StoreError> {
        let source = self.dialect.rows(1, &COLUMNS);
        let sql = match way {
            Way::Up => format!(
                "SELECT DISTINCT i.key AS read_key, a.key AS made_key, i.key AS next_key, i.digest AS next_digest \
                 FROM {source} JOIN artifact a ON {MAKER} {READ}"
            ),
            Way::Down => format!(
                "SELECT DISTINCT i.key AS read_key, a.key AS made_key, a.key AS next_key, a.digest AS next_digest \
                 FROM {source} JOIN attempt_input i ON i.tenant = r.tenant AND i.digest = r.digest AND i.key = r.key \
                 JOIN attempt p ON p.tenant = i.tenant AND p.run = i.run AND p.task = i.task AND p.element = i.element \
                 AND p.generation = i.generation AND p.attempt = i.attempt \
                 JOIN artifact a ON a.tenant = p.tenant AND a.run = p.run AND a.task = p.task AND a.element = p.element \
                 AND a.generation = p.generation AND a.epoch = p.epoch AND a.linked_from IS NULL"
            ),
        };
        let found = tx::read(&self.db, "walk the lineage", &sql, vec![of(tenant, level)]).await?;
        let read = |row: &QueryResult| {
            let next = (get(row, "next_key")?, parse(row, "next_digest", Digest::parse)?);
            Ok((get(row, "read_key")?, get(row, "made_key")?, next))
        };
        found.iter().map(read).collect()
    }

    /// Who computed each of these.
    async fn makers(&self, tenant: &TenantId, keys: &[(String, Digest)]) -> Result<Vec<LineageNode>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // A row that links names the maker, too, whose own row may be kept no longer.
        let sql = format!(
            "SELECT a.key, a.name, a.digest, COALESCE(a.linked_from, a.run) AS run, a.task, a.element FROM {} \
             JOIN artifact a ON a.tenant = r.tenant AND a.digest = r.digest AND a.key = r.key",
            self.dialect.rows(1, &COLUMNS)
        );
        let found = tx::read(&self.db, "read who made artifacts", &sql, vec![of(tenant, keys)]).await?;
        let mut makers = BTreeMap::new();
        for row in &found {
            let node = LineageNode {
                key: get(row, "key")?,
                name: parse(row, "name", ArtifactName::parse)?,
                digest: parse(row, "digest", Digest::parse)?,
                run: parse(row, "run", RunId::parse)?,
                instance: rows::instance(row)?,
            };
            makers.insert(node.key.clone(), node);
        }
        Ok(makers.into_values().collect())
    }
}

const COLUMNS: [(&str, Kind); 3] = [("tenant", Kind::Text), ("key", Kind::Text), ("digest", Kind::Text)];

fn of(tenant: &TenantId, keys: &[(String, Digest)]) -> sea_orm::Value {
    param(keys.iter().map(|(key, digest)| json!({ "tenant": tenant, "key": key, "digest": digest })).collect())
}
