//! Why an object could not be published or read.
//!
//! Returned by everything in this module; [`crate::task`] turns it into a task's error. It decides
//! nothing: which failures are worth another try is [`ArtifactError::is_transient`].

use std::path::PathBuf;

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

impl ArtifactError {
    /// Whether the same call may go better in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => !matches!(
                source,
                object_store::Error::NotFound { .. }
                    | object_store::Error::InvalidPath { .. }
                    | object_store::Error::NotSupported { .. }
                    | object_store::Error::NotImplemented { .. }
                    | object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
                    | object_store::Error::UnknownConfigurationKey { .. }
            ),
            Self::File { .. } => true,
            Self::Integrity { .. } | Self::Missing { .. } | Self::Url { .. } | Self::Parquet { .. } => false,
        }
    }

    /// Wraps an I/O error of a local file.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// Wraps the object store's own error.
    pub(crate) fn store(key: &str) -> impl FnOnce(object_store::Error) -> Self {
        let key = key.to_owned();
        move |source| match source {
            object_store::Error::NotFound { .. } => Self::Missing { key },
            source => Self::Store { key, source },
        }
    }
}
