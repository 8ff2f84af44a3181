//! Keys of objects: made by the engine only, and checked again wherever one comes back.
//!
//! Called by the executor (to make keys) and by the store of this module (to refuse what the engine
//! never makes). A key comes back from database rows, command lines and URLs, so it is not trusted.

use object_store::path::Path;

use crate::artifact::ArtifactError;
use crate::id::{ArtifactName, DagId, Epoch, Generation, InstanceId, RunId, TenantId};

/// S3's limit for a key in bytes; engine-made keys stay far below.
const MAX_KEY_BYTES: usize = 1024;

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

/// The path of a key, or [`ArtifactError::Missing`] for one that the engine can not have made:
/// absolute, with `..`, hidden, percent-encoded, or with any byte beyond `[A-Za-z0-9_.-]`.
pub(super) fn parse_key(key: &str) -> Result<Path, ArtifactError> {
    let missing = || ArtifactError::Missing { key: key.to_owned() };
    if key.len() > MAX_KEY_BYTES || !key.split('/').all(is_segment) {
        return Err(missing());
    }
    Path::parse(key).map_err(|_| missing())
}

fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && !segment.contains("..")
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_the_store_are_not_found() {
        let long = "a/".repeat(600);
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../../etc/passwd",
            "a/../b",
            "a//b",
            "a/",
            "a/.hidden",
            "..",
            "a/%2e%2e/b",
            "a\\..\\b",
            "a/b\0",
            "a/\u{202e}b",
            "C:/x",
            &long,
        ] {
            assert!(matches!(parse_key(bad), Err(ArtifactError::Missing { .. })), "{bad:?}");
        }
        assert!(parse_key("acme/retail/0190-ab/train.2/1.3/model.bin").is_ok());
    }
}
