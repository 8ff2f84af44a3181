//! Immutable, digest-checked outputs on an object store: a local folder, or S3 and what speaks it.
//!
//! Tasks write through [`crate::task::TaskContext`]; the executor commits what they wrote with the
//! finish of the attempt. Nothing here knows the database: an object that no row names is not
//! visible, and is collected as an orphan.
//!
//! Read `store` first (publish, fetch, read), then the two places that it can stand on: `folder`
//! and `bucket`.

mod bucket;
mod diff;
mod error;
mod folder;
mod interference;
mod key;
mod log;
mod options;
mod parquet;
mod schema;
mod store;

use serde::{Deserialize, Serialize};

pub use diff::{Difference, Example, diff, diff_json};
pub use error::ArtifactError;
pub use interference::Interference;
pub use key::KeyPrefix;
pub use log::LogChunk;
pub use options::{S3Credentials, S3Options, StoreOptions};
pub use parquet::ParquetFileWriter;
pub use schema::schema_digest;
pub use store::ArtifactStore;

use crate::id::{ArtifactName, Digest};

/// A published object: where it is and what it must contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// The name the task gave it.
    pub name: ArtifactName,
    /// The object's key: `<tenant>/<dag>/<run>/<task>[.<index>]/<generation>.<epoch>/<name>`.
    pub key: String,
    /// blake3 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// Rows, for Parquet.
    pub rows: Option<u64>,
    /// Digest of the Arrow schema, for Parquet.
    pub schema_digest: Option<Digest>,
}

/// What became of a published object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// As it was published.
    Intact,
    /// Not there.
    Missing,
    /// Something else is under its key.
    Altered {
        /// The digest of what is there.
        digest: Digest,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// What a writer measured while it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// blake3 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows, for Parquet.
    pub rows: Option<u64>,
    /// Digest of the Arrow schema, for Parquet.
    pub schema_digest: Option<Digest>,
}

impl FileFacts {
    /// The facts of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), bytes: bytes.len() as u64, rows: None, schema_digest: None }
    }
}
