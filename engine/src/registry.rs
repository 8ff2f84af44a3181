//! The model registry's vocabulary: versions, aliases and decisions, per tenant.
//!
//! Pure data and one port. A task reads the registry through [`ModelRegistry`] and asks for changes
//! by returning [`RegistryChange`]s; the store applies them in the transaction that finishes the
//! attempt, so a stale worker can promote nothing. What a model is, the engine does not know.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::ArtifactRef;
use crate::id::{ModelName, RunId};

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelStatus {
    /// Just trained.
    Candidate,
    /// In shadow.
    Challenger,
    /// Serves.
    Champion,
    /// Served once; never deleted.
    Archived,
}

impl ModelStatus {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Challenger => "challenger",
            Self::Champion => "champion",
            Self::Archived => "archived",
        }
    }

    /// The status of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Candidate, Self::Challenger, Self::Champion, Self::Archived].into_iter().find(|s| s.as_str() == text)
    }
}

/// One version of a model of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// The model's name; a tenant has at most one champion per name.
    pub name: ModelName,
    /// From 1.
    pub version: u32,
    /// Where it stands.
    pub status: ModelStatus,
    /// The run that made it.
    pub run_id: RunId,
    /// The model's bytes.
    pub artifact: ArtifactRef,
    /// Recipe, figures, windows: the task's to define.
    pub metadata: Value,
}

/// What a task wants changed; applied with its finish, all or nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum RegistryChange {
    /// Registers a candidate; the store numbers it (the name's highest version + 1).
    Register {
        /// The model's name.
        name: ModelName,
        /// Its bytes: an artifact of this run.
        artifact: ArtifactRef,
        /// Recipe, figures, windows.
        metadata: Value,
    },
    /// Makes the version that this finish registered the champion, if the champion is still `expected`.
    Promote {
        /// The model's name.
        name: ModelName,
        /// The champion's version as the task read it; `None` = there was none.
        expected: Option<u32>,
    },
    /// Records a decision, whichever way it went; append-only.
    Decide {
        /// The model's name.
        name: ModelName,
        /// Whether the candidate was promoted.
        promoted: bool,
        /// One sentence for people.
        reason: String,
        /// Figures, thresholds, verdicts.
        decision: Value,
    },
}

impl RegistryChange {
    /// The model that it is about.
    pub fn name(&self) -> &ModelName {
        match self {
            Self::Register { name, .. } | Self::Promote { name, .. } | Self::Decide { name, .. } => name,
        }
    }
}

/// Why the registry could not be read.
#[derive(Debug, thiserror::Error)]
#[error("can not read the model registry")]
pub struct RegistryError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// What a task may read of its own tenant's registry.
#[async_trait]
pub trait ModelRegistry: Send + Sync {
    /// The champion of `name`, if there is one.
    async fn champion(&self, name: &ModelName) -> Result<Option<ModelVersion>, RegistryError>;
}
