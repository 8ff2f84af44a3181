//! Faults of attempts: which attempt of which task, and what happens to it.
//!
//! Pinned with a drill run as JSON, so that whichever process executes the attempt injects them. That only drill
//! runs of drill tenants have any is `store`'s to hold.

use serde::{Deserialize, Serialize};

use crate::id::{ArtifactName, AttemptNumber, Generation, InstanceId, TaskId};

/// A fault of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The task.
    pub task: TaskId,
    /// The element; `None` = each.
    pub index: Option<u32>,
    /// The first attempt that it strikes, from 1.
    pub attempt: i64,
    /// How many attempts in a row.
    pub times: i64,
    /// What happens.
    #[serde(flatten)]
    pub what: FaultKind,
}

/// What happens to an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// It fails without having begun.
    Fail {
        /// Its error.
        message: String,
        /// Whether another try may go better.
        transient: bool,
    },
    /// It does nothing, for ever, and does not listen to a cancel.
    Hang,
    /// Its process group gets SIGKILL.
    Kill {
        /// When.
        at: Moment,
    },
    /// The worker that executes it gets SIGKILL.
    LoseWorker {
        /// When.
        at: Moment,
    },
    /// The object store does not answer it well.
    ObjectStore {
        /// Which requests.
        operation: Operation,
        /// How many of them fail; `None` = all.
        failures: Option<u32>,
        /// How long each takes in addition, in milliseconds.
        latency_ms: u64,
    },
    /// The numbers of a column of an artifact that it makes are others.
    Skew {
        /// The Parquet artifact.
        artifact: ArtifactName,
        /// A column of 64-bit floats.
        column: String,
        /// What its numbers are multiplied by.
        factor: f64,
    },
}

/// When an attempt or its worker is killed. The attempt is held there until that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// It has been set up and is about to do its work.
    Begun,
    /// It has published its first artifact, of which nobody knows yet.
    Published,
}

/// Requests to an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Those that write.
    Put,
    /// Those that read.
    Get,
    /// Both.
    All,
}

impl Fault {
    /// Whether it strikes this attempt. What a person asked for again is struck no more: the fault is over by then.
    pub fn strikes(&self, instance: &InstanceId, generation: Generation, attempt: AttemptNumber) -> bool {
        self.task == instance.task
            && (self.index.is_none() || self.index == instance.index)
            && generation == Generation(1)
            && (self.attempt..self.attempt.saturating_add(self.times)).contains(&attempt.0)
    }

    /// Whether there is an attempt that both strike, neither of them by a skew, which goes along with any other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_skew = |it: &Self| matches!(it.what, FaultKind::Skew { .. });
        self.task == other.task
            && (self.index.is_none() || other.index.is_none() || self.index == other.index)
            && self.attempt < other.attempt.saturating_add(other.times)
            && other.attempt < self.attempt.saturating_add(self.times)
            && !is_skew(self)
            && !is_skew(other)
    }
}

impl FaultKind {
    /// For the record.
    pub fn words(&self) -> String {
        let when = |at: &Moment| match at {
            Moment::Begun => "once it had begun",
            Moment::Published => "after it had published an artifact",
        };
        match self {
            Self::Fail { message, .. } => format!("the attempt fails: {message}"),
            Self::Hang => "the attempt hangs".to_owned(),
            Self::Kill { at } => format!("SIGKILL to the attempt's process {}", when(at)),
            Self::LoseWorker { at } => format!("SIGKILL to the worker that executes the attempt {}", when(at)),
            Self::ObjectStore { operation, failures, latency_ms } => {
                let which = match operation {
                    Operation::Put => "writes to the object store",
                    Operation::Get => "reads from the object store",
                    Operation::All => "requests to the object store",
                };
                let late = if *latency_ms > 0 { format!(", {latency_ms} ms late") } else { String::new() };
                match failures {
                    None => format!("all {which} fail{late}"),
                    Some(0) => format!("all {which} are slow{late}"),
                    Some(count) => format!("the first {count} {which} fail{late}"),
                }
            }
            Self::Skew { artifact, column, factor } => format!("{column} of {artifact} is multiplied by {factor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault {
            task: TaskId::parse("train").expect("an id"),
            index: Some(2),
            attempt: 2,
            times: 2,
            what: FaultKind::Kill { at: Moment::Published },
        }
    }

    #[test]
    fn it_strikes_what_it_names_and_nothing_else() {
        let train = |index| InstanceId::new(TaskId::parse("train").expect("an id"), index);
        let strikes =
            |it: InstanceId, generation, attempt| fault().strikes(&it, Generation(generation), AttemptNumber(attempt));
        let struck: Vec<_> = (1..=5).filter(|attempt| strikes(train(Some(2)), 1, *attempt)).collect();
        assert_eq!(struck, [2, 3]);
        assert!(!strikes(train(Some(1)), 1, 2) && !strikes(train(None), 1, 2), "another element");
        assert!(!strikes(train(Some(2)), 2, 2), "a rerun");
        let other = InstanceId::new(TaskId::parse("evaluate").expect("an id"), Some(2));
        assert!(!strikes(other, 1, 2));
    }

    #[test]
    fn it_comes_back_from_json() {
        let text = serde_json::to_string(&fault()).expect("JSON");
        assert!(text.contains("\"kind\":\"kill\",\"at\":\"published\""), "{text}");
        assert_eq!(serde_json::from_str::<Fault>(&text).expect("a fault"), fault());
    }
}
