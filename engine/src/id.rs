//! Newtypes for everything that names something; the only place where their rules stand.
//!
//! Called by every module. Parsing is the only way in, and nothing here derefs to `String`: a
//! `TaskId` can not be passed where a `TenantId` is meant, and an id that exists is a valid one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not the id it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct IdError {
    /// The term of the glossary: "DAG id", "task id" ...
    pub what: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

/// The rule for ids that people write: short, safe in a path, a URL, a shell and a metric label.
const SLUG_RULE: &str =
    "use [a-z0-9][a-z0-9_-]{0,63}: lower-case letters, digits, - and _, starting with a letter or digit, at most 64";

fn is_slug(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:expr, $valid:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses `text`, or says which rule it breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if $valid(text) { Ok(Self(text.to_owned())) } else { Err(IdError::new($what, text, $rule)) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id!(
    /// Names a DAG; equals the stem of its file.
    DagId, "DAG id", SLUG_RULE, is_slug
);
text_id!(
    /// Names a task within its DAG.
    TaskId, "task id", SLUG_RULE, is_slug
);
text_id!(
    /// Names a tenant: whose data, quota, schedule and model it is.
    TenantId, "tenant id", SLUG_RULE, is_slug
);
/// What the ids of drill tenants begin with, and no other's.
pub const DRILL_PREFIX: &str = "drill-";

impl TenantId {
    /// Whether it is the tenant of a drill: no schedule knows it, no worker claims its tasks unasked, and only its
    /// runs may have faults.
    pub fn is_drill(&self) -> bool {
        self.0.starts_with(DRILL_PREFIX)
    }
}

text_id!(
    /// Names a model in a tenant's registry.
    ModelName, "model name", SLUG_RULE, is_slug
);
text_id!(
    /// Names a secret of a tenant.
    SecretName, "secret name", SLUG_RULE, is_slug
);
text_id!(
    /// Names an output of a task, with its extension: `panel.parquet`.
    ArtifactName, "artifact name",
    "use [a-z0-9][a-z0-9_.-]{0,127} without two dots in a row", is_artifact_name
);

fn is_artifact_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
        && !text.contains("..")
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'))
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that the caller drew (this layer draws nothing).
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Parses the hyphenated form.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError::new($what, text, "use a UUID, as `headworks runs list` prints it"))
            }

            /// The UUID itself.
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.hyphenated().to_string())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    };
}

uuid_id!(
    /// Names a run (UUID version 7: sorts by creation).
    RunId, "run id"
);
uuid_id!(
    /// Names a backfill (UUID version 7: sorts by creation).
    BackfillId, "backfill id"
);
uuid_id!(
    /// Names a worker process's session; drawn at its start, never derived from a host.
    SessionId, "session id"
);
uuid_id!(
    /// Names one mutating transaction, so that an unknown COMMIT can be looked up.
    OpId, "operation id"
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// The next value.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Fences: grows with each claim of a task instance, from 1; 0 = never claimed.
    Epoch
);
counter!(
    /// Counts reruns of a task instance, from 1.
    Generation
);
counter!(
    /// Counts tries at a generation of a task instance, from 1.
    AttemptNumber
);
counter!(
    /// Grows with each restore or re-creation of the database's state, from 1; fences whole worlds.
    Incarnation
);

/// A task within a run: the task, and its element where the task fans out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    /// The task.
    pub task: TaskId,
    /// Element of the matrix, from 0; `None` for a task without one.
    pub index: Option<u32>,
}

impl InstanceId {
    /// A task without elements, or one element of it.
    pub fn new(task: TaskId, index: Option<u32>) -> Self {
        Self { task, index }
    }

    /// The segment of an artifact's key: `train` or `train.2`.
    pub fn path_segment(&self) -> String {
        match self.index {
            Some(index) => format!("{}.{index}", self.task),
            None => self.task.to_string(),
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => f.pad(&format!("{}[{index}]", self.task)),
            None => f.pad(self.task.as_str()),
        }
    }
}

/// A blake3 digest of bytes; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest that a running hash has reached.
    pub fn from_hash(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        blake3::Hash::from_hex(text)
            .map(Self::from_hash)
            .map_err(|_| IdError::new("digest", text, "use 64 hexadecimal digits"))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_keep_to_the_rule() {
        for good in ["a", "retail_demand", "0-9", &"x".repeat(64)] {
            assert_eq!(DagId::parse(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "../x", "a/b", "-rf", "a\0", "a\u{202e}b", "A", "ä", &"x".repeat(65), &"x".repeat(10_000)] {
            let error = DagId::parse(bad).expect_err(bad);
            assert!(error.text.chars().count() <= 80, "the message stays short");
        }
    }

    #[test]
    fn artifact_names_can_not_leave_their_folder() {
        assert!(ArtifactName::parse("panel.parquet").is_ok());
        for bad in ["..", ".hidden", "a/../b", "a..b", "a/b", "", "%2e%2e"] {
            assert!(ArtifactName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_round_trip_as_text() {
        let digest = Digest::of(b"headworks");
        assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        assert!(Digest::parse("abc").is_err());
    }

    #[test]
    fn instances_print_their_element() {
        let task = TaskId::parse("train").expect("a valid id");
        assert_eq!(InstanceId::new(task.clone(), Some(2)).to_string(), "train[2]");
        assert_eq!(InstanceId::new(task, None).path_segment(), "train");
    }
}
