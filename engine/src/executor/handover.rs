//! What a worker and an attempt's own process hand each other: one line in, one file out.
//!
//! Written and read by `child` (the worker's side) and `inside` (the other). Both are the same binary;
//! the version is there for the day when a binary is replaced under a running worker.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::{ArtifactRef, StoreOptions};
use crate::drill::FaultKind;
use crate::plan::{FailureKind, Micros};
use crate::registry::RegistryChange;
use crate::secret::SecretText;
use crate::store::Outcome;
use crate::task::{AttemptIdentity, ErrorClass, Input, RunFacts};

/// The version of both shapes.
pub(super) const VERSION: u32 = 1;

/// The most that is read of a hand-back: outputs are 1 MiB, and registry changes carry metadata.
const HAND_BACK_LIMIT: u64 = 64 << 20;

/// What a process may use; inherited by all that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Bytes of address space of one process; 0 = no limit.
    pub memory_bytes: u64,
    /// Open files of one process; 0 = no limit of ours.
    pub open_files: u64,
    /// How willingly the kernel kills it when memory is short, from 0 (as the worker) to 1000.
    pub oom_score_adj: u16,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        // An attempt is killed long before its worker, and so before other attempts.
        Self { memory_bytes: 0, open_files: 4096, oom_score_adj: 500 }
    }
}

/// All that an attempt needs in a process of its own: the line on its standard input.
#[derive(Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) version: u32,
    pub(super) identity: AttemptIdentity,
    pub(super) kind: String,
    /// Rendered, with the values of its secrets: they are on this pipe, and on no disk.
    pub(super) with: Value,
    /// Those values, which it is to say nowhere.
    #[serde(default)]
    pub(super) secrets: Vec<SecretText>,
    pub(super) facts: RunFacts,
    /// The model registry is read as it was then.
    pub(super) registry_at: Option<Micros>,
    pub(super) seed: u64,
    pub(super) inputs: Vec<Input>,
    pub(super) documents: IndexMap<String, String>,
    pub(super) project_root: PathBuf,
    /// The folder that the task sees.
    pub(super) scratch: PathBuf,
    /// Where the [`HandBack`] goes: outside that folder.
    pub(super) hand_back: PathBuf,
    pub(super) artifacts_url: String,
    /// With keys: they are on this pipe, not in the environment.
    pub(super) artifacts_options: StoreOptions,
    /// Opened to look only, and only if the task asks for a model.
    pub(super) store_url: String,
    pub(super) limits: ProcessLimits,
    /// What a drill does to it.
    #[serde(default)]
    pub(super) faults: Vec<FaultKind>,
    /// The value of [`crate::task::PROCESS_MARK`].
    pub(super) mark: String,
}

/// What the process leaves when its attempt has ended.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HandBack {
    pub(super) version: u32,
    pub(super) ending: Ending,
    /// Also of an attempt that failed: evidence.
    pub(super) published: Vec<ArtifactRef>,
}

/// How the attempt ended, by its own account.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub(super) enum Ending {
    Succeeded { outputs: Value, registry: Vec<RegistryChange> },
    Transient { class: ErrorClass, message: String },
    Permanent { class: ErrorClass, message: String },
    Crashed { message: String },
    Canceled { message: String },
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded { outputs, registry } => Self::Succeeded { outputs, registry },
            Outcome::Failed { kind: FailureKind::Transient, class, message } => Self::Transient { class, message },
            Outcome::Failed { kind: FailureKind::Canceled, message, .. } => Self::Canceled { message },
            Outcome::Failed { kind: FailureKind::Crashed, message, .. } => Self::Crashed { message },
            // Lost and late are for the worker to see.
            Outcome::Failed { class, message, .. } => Self::Permanent { class, message },
        }
    }
}

impl From<Ending> for Outcome {
    fn from(ending: Ending) -> Self {
        let failed = |kind, class, message| Self::Failed { kind, class, message };
        match ending {
            Ending::Succeeded { outputs, registry } => Self::Succeeded { outputs, registry },
            Ending::Transient { class, message } => failed(FailureKind::Transient, class, message),
            Ending::Permanent { class, message } => failed(FailureKind::Permanent, class, message),
            Ending::Crashed { message } => failed(FailureKind::Crashed, ErrorClass::System, message),
            Ending::Canceled { message } => failed(FailureKind::Canceled, ErrorClass::System, message),
        }
    }
}

impl HandBack {
    /// Puts it at `path`, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let partial = path.with_extension("part");
        std::fs::write(&partial, serde_json::to_vec(self)?)?;
        std::fs::rename(partial, path)
    }

    /// What lies at `path`; `None` if nothing does, or nothing of ours.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let facts = std::fs::symlink_metadata(path).ok()?;
        if !facts.is_file() || facts.len() > HAND_BACK_LIMIT {
            return None;
        }
        let found: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (found.version == VERSION).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hand_back_is_read_as_it_was_written_to_the_last_bit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hand-back.json");
        assert_eq!(HandBack::read(&path), None);
        // Numbers that a reader of decimals which rounds twice gets wrong.
        let outputs = json!({ "wape": 0.1 + 0.2, "tiny": 5e-324, "odd": 9.109_383_713_9e-31, "seed": u64::MAX });
        let ending = Ending::Succeeded { outputs, registry: Vec::new() };
        let written = HandBack { version: VERSION, ending, published: Vec::new() };
        written.write(&path).expect("written");
        assert_eq!(HandBack::read(&path), Some(written));
        std::fs::write(&path, "{\"version\":1").expect("written");
        assert_eq!(HandBack::read(&path), None, "cut short");
    }

    #[test]
    fn every_ending_of_a_task_comes_back_as_it_was() {
        for kind in [FailureKind::Transient, FailureKind::Permanent, FailureKind::Crashed, FailureKind::Canceled] {
            let outcome = Outcome::Failed { kind: kind.clone(), class: ErrorClass::System, message: "why".into() };
            let back = Outcome::from(Ending::from(outcome));
            assert!(matches!(back, Outcome::Failed { kind: found, .. } if found == kind), "{kind:?}");
        }
    }
}
