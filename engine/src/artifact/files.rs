//! The object store behind artifacts: create-only publish, verified read.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::artifact::ArtifactRef;
use crate::id::{ArtifactName, DagId, Digest, Epoch, Generation, InstanceId, RunId, TenantId};

/// Why an object could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The store did not answer as it should; worth another try.
    #[error("the artifact store failed at {key}")]
    Store {
        /// The object.
        key: String,
        /// What lay beneath.
        #[source]
        source: object_store::Error,
    },
    /// A local file could not be read or written.
    #[error("can not {action} {path}")]
    File {
        /// Verb.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not what was published: altered, truncated, swapped.
    #[error("{key} is not what was published: {detail}")]
    Integrity {
        /// The object.
        key: String,
        /// Expected and found.
        detail: String,
    },
    /// The object is not there.
    #[error("{key} is not in the artifact store")]
    Missing {
        /// The object.
        key: String,
    },
    /// The configured URL is no store.
    #[error("{url:?} is no artifact store: {detail}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Parquet or Arrow refused.
    #[error("{key} is not readable Parquet")]
    Parquet {
        /// The object.
        key: String,
        /// What lay beneath.
        #[source]
        source: parquet::errors::ParquetError,
    },
}

/// The object store that a configuration names.
pub struct ArtifactStore {}

impl ArtifactStore {
    /// Opens the store at `url`: a folder (created if missing), `file:///...` or `s3://bucket/prefix`.
    pub fn open(url: &str) -> Result<Self, ArtifactError> {
        let _ = url;
        unimplemented!()
    }

    /// Publishes a finished local file under `key`, create-only; `facts` as its writer measured them.
    /// An object that is already there with the same digest and size is success.
    pub async fn publish_file(
        &self,
        key: &str,
        name: ArtifactName,
        file: &Path,
        facts: FileFacts,
    ) -> Result<ArtifactRef, ArtifactError> {
        let _ = (key, name, file, facts);
        unimplemented!()
    }

    /// Publishes bytes under `key`, create-only.
    pub async fn publish_bytes(
        &self,
        key: &str,
        name: ArtifactName,
        bytes: Bytes,
    ) -> Result<ArtifactRef, ArtifactError> {
        let _ = (key, name, bytes);
        unimplemented!()
    }

    /// A local file with the object's verified bytes: the object itself on a local store, a copy in `scratch` elsewhere.
    pub async fn fetch(&self, artifact: &ArtifactRef, scratch: &Path) -> Result<PathBuf, ArtifactError> {
        let _ = (artifact, scratch);
        unimplemented!()
    }

    /// The object's verified bytes.
    pub async fn read(&self, artifact: &ArtifactRef) -> Result<Bytes, ArtifactError> {
        let _ = artifact;
        unimplemented!()
    }

    /// Where people find the object: an absolute path or a URL.
    pub fn location(&self, key: &str) -> String {
        let _ = key;
        unimplemented!()
    }
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

/// Who publishes: all that a key is made of but the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix {
    /// Whose artifact.
    pub tenant: TenantId,
    /// The DAG.
    pub dag: DagId,
    /// The run.
    pub run: RunId,
    /// The task instance.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The attempt's epoch.
    pub epoch: Epoch,
}

impl KeyPrefix {
    /// `<tenant>/<dag>/<run>/<task>[.<index>]/<generation>.<epoch>/<name>`
    pub fn key(&self, name: &ArtifactName) -> String {
        format!(
            "{}/{}/{}/{}/{}.{}/{name}",
            self.tenant,
            self.dag,
            self.run,
            self.instance.path_segment(),
            self.generation,
            self.epoch
        )
    }
}
