//! Immutable, digest-checked outputs on an object store: a local folder, or S3 and what speaks it.
//!
//! Tasks write through [`crate::task::TaskContext`]; the executor commits what they wrote with the
//! finish of the attempt. Nothing here knows the database: an object that no row names is not
//! visible, and is collected as an orphan.

mod files;
mod parquet;

use serde::{Deserialize, Serialize};

pub use files::{ArtifactError, ArtifactStore, FileFacts, KeyPrefix};
pub use parquet::ParquetFileWriter;

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
