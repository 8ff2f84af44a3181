//! Attempts' logs in the object store: chunks of lines, put while the attempt runs.
//!
//! The executor puts chunks; `runs logs` lists and reads them, also while more are coming. A chunk
//! lies beside the attempt's artifacts, at `<attempt>/log/<number>.jsonl`, and is no artifact: no
//! row names it, and the epoch in its key is all its fence. What a line is, `task` says.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::key::KeyPrefix;
use crate::artifact::{ArtifactError, ArtifactStore};
use crate::id::{ArtifactName, DagId, Epoch, Generation, InstanceId, RunId, TaskId, TenantId};

/// The segment between an attempt and its chunks; no artifact's name holds a slash.
const FOLDER: &str = "log";

/// The most that a reader takes for a chunk: many times what the executor puts into one.
const MAX_CHUNK_BYTES: u64 = 4 << 20;

/// A piece of an attempt's log. Ordered as it is read: by task, element, generation, epoch, number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogChunk {
    /// Whose output.
    pub instance: InstanceId,
    /// Of which generation.
    pub generation: Generation,
    /// Of which attempt.
    pub epoch: Epoch,
    /// From 1; a number is missing where a chunk could not be put.
    pub number: u32,
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
}

impl KeyPrefix {
    /// The key of a chunk of this attempt's log.
    fn log_key(&self, number: u32) -> (ArtifactName, String) {
        let name = ArtifactName::parse(&format!("{number:06}.jsonl")).expect("digits and a suffix follow the rule");
        let folder = ArtifactName::parse(FOLDER).expect("a literal that follows the rule");
        let key = format!("{}/{name}", self.key(&folder));
        (name, key)
    }
}

impl ArtifactStore {
    /// Puts a chunk of an attempt's log, create-only as everything here.
    ///
    /// # Errors
    /// As [`ArtifactStore::publish_bytes`].
    pub async fn put_log(&self, attempt: &KeyPrefix, number: u32, lines: Bytes) -> Result<(), ArtifactError> {
        let (name, key) = attempt.log_key(number);
        self.publish_bytes(&key, name, lines).await.map(|_| ())
    }

    /// The chunks that a run's attempts have put so far (those of one task instance, if one is
    /// named), in order.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn logs(
        &self,
        tenant: &TenantId,
        dag: &DagId,
        run: RunId,
        instance: Option<&InstanceId>,
    ) -> Result<Vec<LogChunk>, ArtifactError> {
        let run = format!("{tenant}/{dag}/{run}");
        let prefix = match instance {
            Some(instance) => format!("{run}/{}", instance.path_segment()),
            None => run,
        };
        let found = self.list(&prefix).await?;
        let mut chunks: Vec<_> = found.into_iter().filter_map(|(key, bytes)| chunk(key, bytes)).collect();
        chunks.sort();
        Ok(chunks)
    }

    /// The lines of a chunk.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`]; [`ArtifactError::Integrity`] if it is larger than any chunk of ours.
    pub async fn read_log(&self, chunk: &LogChunk) -> Result<Bytes, ArtifactError> {
        let path = self.checked(&chunk.key)?;
        let mut stream = self.get(&chunk.key, &path).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.try_next().await.map_err(ArtifactError::store(&chunk.key))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > MAX_CHUNK_BYTES {
                let detail = format!("it is larger than {MAX_CHUNK_BYTES} bytes, which no chunk of a log is");
                return Err(ArtifactError::Integrity { key: chunk.key.clone(), detail });
            }
        }
        Ok(bytes.freeze())
    }
}

/// What a key says, if it is one of a chunk.
fn chunk(key: String, bytes: u64) -> Option<LogChunk> {
    let segments: Vec<_> = key.split('/').collect();
    let [_, _, _, instance, attempt, FOLDER, name] = segments.as_slice() else { return None };
    let (task, index) = match instance.split_once('.') {
        Some((task, index)) => (task, Some(index.parse().ok()?)),
        None => (*instance, None),
    };
    let (generation, epoch) = attempt.split_once('.')?;
    Some(LogChunk {
        instance: InstanceId::new(TaskId::parse(task).ok()?, index),
        generation: Generation(generation.parse().ok()?),
        epoch: Epoch(epoch.parse().ok()?),
        number: name.strip_suffix(".jsonl")?.parse().ok()?,
        bytes,
        key,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn prefix(task: &str, index: Option<u32>, epoch: i64) -> KeyPrefix {
        KeyPrefix {
            tenant: TenantId::parse("acme").expect("an id"),
            dag: DagId::parse("retail").expect("an id"),
            run: RunId::from_uuid(Uuid::nil()),
            instance: InstanceId::new(TaskId::parse(task).expect("an id"), index),
            generation: Generation(1),
            epoch: Epoch(epoch),
        }
    }

    #[tokio::test]
    async fn chunks_come_back_in_order_and_artifacts_are_none() {
        let home = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(&home.path().display().to_string()).expect("opens");
        let train = prefix("train", Some(2), 1);
        for (prefix, number) in [(&prefix("train", Some(2), 10), 1), (&train, 11), (&train, 2), (&train, 1)] {
            store.put_log(prefix, number, Bytes::from(format!("{number}\n"))).await.expect("put");
        }
        store.put_log(&prefix("report", None, 1), 1, Bytes::from("x\n")).await.expect("put");
        let name = ArtifactName::parse("log").expect("a name");
        let other = prefix("zeta", None, 1);
        store.publish_bytes(&other.key(&name), name, Bytes::from("an artifact called log")).await.expect("published");

        let (tenant, dag) = (&train.tenant, &train.dag);
        let all = store.logs(tenant, dag, train.run, None).await.expect("listed");
        let order: Vec<_> = all.iter().map(|it| (it.instance.to_string(), it.epoch.0, it.number)).collect();
        let expected =
            [("report", 1, 1), ("train[2]", 1, 1), ("train[2]", 1, 2), ("train[2]", 1, 11), ("train[2]", 10, 1)];
        assert_eq!(order, expected.map(|(task, epoch, number)| (task.to_owned(), epoch, number)));
        assert_eq!(store.read_log(&all[3]).await.expect("read"), "11\n");
        let one = store.logs(tenant, dag, train.run, Some(&train.instance)).await.expect("listed");
        assert_eq!(one, all[1..]);
        let none = store.logs(tenant, dag, RunId::from_uuid(Uuid::max()), None).await.expect("listed");
        assert!(none.is_empty());
        assert!(store.put_log(&train, 1, Bytes::from("another\n")).await.is_err(), "what was put stays");
    }

    #[test]
    fn other_keys_are_no_chunks() {
        for key in [
            "acme/retail/run/train/1.1/model.bin",
            "acme/retail/run/train/1.1/log/x.jsonl",
            "acme/retail/run/train/1/log/000001.jsonl",
            "acme/retail/run/train.x/1.1/log/000001.jsonl",
            "acme/retail/run/train/1.1/log/deep/000001.jsonl",
        ] {
            assert_eq!(chunk(key.to_owned(), 1), None, "{key}");
        }
    }
}
