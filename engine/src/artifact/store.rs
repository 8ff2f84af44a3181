//! The object store behind artifacts: create-only publish, verified read.
//!
//! Called through [`crate::task::TaskContext`], by the executor, and by commands that list and
//! verify. It never overwrites and never believes: what is published is compared with what its
//! writer measured, what is read with what was published.
//!
//! A put whose answer is lost is put again; "already exists" is then looked at, not believed: the
//! same digest means that the first put arrived, another one that someone else holds the key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::folder::{Content, Folder, Put};
use super::{bucket, folder, key, parquet};
use crate::artifact::{ArtifactError, ArtifactRef, Condition, FileFacts, Interference, StoreOptions};
use crate::failpoint;
use crate::id::{ArtifactName, Digest};

/// Puts of one object before the attempt fails; with the waits below about 3 s beyond the requests.
const PUT_ATTEMPTS: u32 = 6;

/// The first wait between two puts; doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// A store that slows down asks for seconds, not minutes; the task's own policy takes over then.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The object store that a configuration names. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct ArtifactStore {
    /// What people see: an absolute path or a URL.
    location: String,
    /// As it was opened with.
    options: StoreOptions,
    /// Reads, lists and deletes; puts too, where there is no folder.
    objects: Arc<dyn ObjectStore>,
    /// Set for a local store.
    folder: Option<Folder>,
    /// Set for attempts of drills.
    interference: Option<Arc<Interference>>,
}

impl ArtifactStore {
    /// The same store, with what a drill puts in front of it.
    pub fn disturbed(&self, interference: Interference) -> Self {
        Self {
            location: self.location.clone(),
            options: self.options.clone(),
            objects: Arc::clone(&self.objects),
            folder: self.folder.clone(),
            interference: Some(Arc::new(interference)),
        }
    }

    /// Opens the store at `url` with [`StoreOptions::from_env`].
    ///
    /// # Errors
    /// As [`ArtifactStore::open_with`].
    pub fn open(url: &str) -> Result<Self, ArtifactError> {
        Self::open_with(url, &StoreOptions::from_env())
    }

    /// Opens the store at `url`: a folder (created if missing), `file:///...` or `s3://bucket/prefix`.
    /// Talks to no server yet.
    ///
    /// # Errors
    /// [`ArtifactError::Url`] for any other URL; [`ArtifactError::File`] if the folder can not be made.
    pub fn open_with(url: &str, options: &StoreOptions) -> Result<Self, ArtifactError> {
        if url.starts_with("s3://") {
            let (objects, location) = bucket::open(url, options)?;
            return Ok(Self { location, options: options.clone(), objects, folder: None, interference: None });
        }
        let folder = Folder::open(&folder_path(url)?)?;
        let objects = LocalFileSystem::new_with_prefix(folder.root()).map_err(ArtifactError::store(url))?;
        let location = folder.root().display().to_string();
        let objects = Arc::new(objects);
        Ok(Self { location, options: options.clone(), objects, folder: Some(folder), interference: None })
    }

    /// Publishes a finished local file under `key`, create-only; `facts` as its writer measured them.
    /// An object that is already there with the same digest and size is success.
    ///
    /// # Errors
    /// [`ArtifactError::Integrity`] if the file is not what `facts` say (also by its Parquet footer,
    /// where they state rows), or if another object has that key; `Store` and `File` once the
    /// retries are used up.
    pub async fn publish_file(
        &self,
        key: &str,
        name: ArtifactName,
        file: &Path,
        facts: FileFacts,
    ) -> Result<ArtifactRef, ArtifactError> {
        if facts.rows.is_some() {
            let (path, key) = (file.to_owned(), key.to_owned());
            blocking(move || parquet::check_footer(&path, &key, &facts)).await?;
        }
        self.publish(key, name, Content::File(file.to_owned()), facts).await
    }

    /// Publishes bytes under `key`, create-only.
    ///
    /// # Errors
    /// As [`ArtifactStore::publish_file`].
    pub async fn publish_bytes(
        &self,
        key: &str,
        name: ArtifactName,
        bytes: Bytes,
    ) -> Result<ArtifactRef, ArtifactError> {
        let facts = FileFacts::of(&bytes);
        self.publish(key, name, Content::Bytes(bytes), facts).await
    }

    /// A local file with the object's verified bytes: the object itself on a local store (read-only:
    /// it is the published one), a copy in `scratch` elsewhere.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`], [`ArtifactError::Integrity`] if the bytes are not what was published.
    pub async fn fetch(&self, artifact: &ArtifactRef, scratch: &Path) -> Result<PathBuf, ArtifactError> {
        let path = key::parse_key(&artifact.key)?;
        let Some(folder) = self.folder.clone() else {
            return self.download(artifact, &path, scratch).await;
        };
        self.before(&artifact.key, false).await?;
        let artifact = artifact.clone();
        blocking(move || {
            let found = folder.measure(&artifact.key)?;
            let found = found.ok_or_else(|| ArtifactError::Missing { key: artifact.key.clone() })?;
            compare(&artifact.key, &facts_of(&artifact), &found)?;
            folder.resolve(&artifact.key)
        })
        .await
    }

    /// The object's verified bytes, in memory: for documents, not for panels.
    ///
    /// # Errors
    /// As [`ArtifactStore::fetch`].
    pub async fn read(&self, artifact: &ArtifactRef) -> Result<Bytes, ArtifactError> {
        let path = self.checked(&artifact.key)?;
        let mut stream = self.get(&artifact.key, &path).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.try_next().await.map_err(ArtifactError::store(&artifact.key))? {
            // A swapped object may be of any size; past the expected one it need not be held.
            if bytes.len() as u64 <= artifact.bytes {
                bytes.extend_from_slice(&chunk);
            }
        }
        compare(&artifact.key, &facts_of(artifact), &FileFacts::of(&bytes))?;
        Ok(bytes.freeze())
    }

    /// Checks an object against what was published, without keeping it.
    ///
    /// # Errors
    /// As [`ArtifactStore::fetch`].
    pub async fn verify(&self, artifact: &ArtifactRef) -> Result<(), ArtifactError> {
        let path = self.checked(&artifact.key)?;
        match self.measure(&artifact.key, &path).await? {
            Some(found) => compare(&artifact.key, &facts_of(artifact), &found),
            None => Err(ArtifactError::Missing { key: artifact.key.clone() }),
        }
    }

    /// What is under the key, against what was published.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn examine(&self, artifact: &ArtifactRef) -> Result<Condition, ArtifactError> {
        let path = match self.checked(&artifact.key) {
            Ok(path) => path,
            // Also a key that the engine can not have made: nothing of ours is under it.
            Err(ArtifactError::Missing { .. }) => return Ok(Condition::Missing),
            Err(error) => return Err(error),
        };
        Ok(match self.measure(&artifact.key, &path).await? {
            None => Condition::Missing,
            Some(found) if found.digest == artifact.digest && found.bytes == artifact.bytes => Condition::Intact,
            Some(found) => Condition::Altered { digest: found.digest, bytes: found.bytes },
        })
    }

    /// Keys and sizes of the objects below `prefix` (whole segments; empty for all), in no set order.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, ArtifactError> {
        let path = if prefix.is_empty() { path::Path::ROOT } else { self.checked(prefix)? };
        let found: Vec<_> = self.objects.list(Some(&path)).try_collect().await.map_err(ArtifactError::store(prefix))?;
        let listed = found.into_iter().map(|object| (object.location.to_string(), object.size));
        // What the engine can not have put (staging, strangers' files, links) is not an object.
        Ok(listed.filter(|(key, _)| self.checked(key).is_ok()).collect())
    }

    /// Deletes an object; one that is not there is success.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        let path = self.checked(key)?;
        match self.objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(ArtifactError::store(key)(source)),
        }
    }

    /// What opens this store again, in a process elsewhere in the file system and with another
    /// environment.
    pub fn opened_with(&self) -> (&str, &StoreOptions) {
        (&self.location, &self.options)
    }

    /// Where people find the object: an absolute path or a URL.
    pub fn location(&self, key: &str) -> String {
        format!("{}/{key}", self.location)
    }

    async fn publish(
        &self,
        key: &str,
        name: ArtifactName,
        content: Content,
        facts: FileFacts,
    ) -> Result<ArtifactRef, ArtifactError> {
        let path = self.checked(key)?;
        let mut tries = 1;
        loop {
            match self.put_or_compare(key, &path, &content, &facts).await {
                Ok(true) => break,
                // Taken a moment ago, gone now (a conflicting put that failed): as if never tried.
                Ok(false) if tries < PUT_ATTEMPTS => {}
                Ok(false) => return Err(ArtifactError::Missing { key: key.to_owned() }),
                Err(error @ ArtifactError::Store { .. }) if error.is_transient() && tries < PUT_ATTEMPTS => {
                    tracing::warn!(key, tries, error = &error as &dyn std::error::Error, "put failed; trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff(tries)).await;
            tries += 1;
        }
        // What a log's chunks do is nobody's outcome.
        if !key.contains("/log/") {
            failpoint::hit("publish.after_put").await.map_err(ArtifactError::file("publish", Path::new(key)))?;
        }
        if let Some(interference) = &self.interference {
            interference.after_put().await;
        }
        let FileFacts { digest, bytes, rows, schema_digest } = facts;
        Ok(ArtifactRef { name, key: key.to_owned(), digest, bytes, rows, schema_digest })
    }

    /// Puts the content; true if the object is there now and holds it, false if it is not there.
    async fn put_or_compare(
        &self,
        key: &str,
        path: &path::Path,
        content: &Content,
        facts: &FileFacts,
    ) -> Result<bool, ArtifactError> {
        if self.put(key, path, content, facts).await? == Put::Created {
            return Ok(true);
        }
        match self.measure(key, path).await? {
            None => Ok(false),
            Some(found) => compare(key, facts, &found).map(|()| true),
        }
    }

    async fn put(
        &self,
        key: &str,
        path: &path::Path,
        content: &Content,
        facts: &FileFacts,
    ) -> Result<Put, ArtifactError> {
        self.before(key, true).await?;
        if let Some(folder) = self.folder.clone() {
            let (key, content, facts) = (key.to_owned(), content.clone(), *facts);
            return blocking(move || folder.put(&key, &content, &facts)).await;
        }
        let bytes = match content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::File(file) => Bytes::from(tokio::fs::read(file).await.map_err(ArtifactError::file("read", file))?),
        };
        compare(key, facts, &FileFacts::of(&bytes))?;
        let create_only = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(path, PutPayload::from(bytes), create_only).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(source) => Err(ArtifactError::Store { key: key.to_owned(), source }),
        }
    }

    /// Size and digest of what is under a key.
    async fn measure(&self, key: &str, path: &path::Path) -> Result<Option<FileFacts>, ArtifactError> {
        let mut stream = match self.get(key, path).await {
            Ok(stream) => stream,
            Err(ArtifactError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        while let Some(chunk) = stream.try_next().await.map_err(ArtifactError::store(key))? {
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
        }
        let digest = Digest::from_hash(hasher.finalize());
        Ok(Some(FileFacts { digest, bytes, rows: None, schema_digest: None }))
    }

    /// Copies an object to `scratch`, verified before it gets its name there.
    async fn download(
        &self,
        artifact: &ArtifactRef,
        path: &path::Path,
        scratch: &Path,
    ) -> Result<PathBuf, ArtifactError> {
        let partial = scratch.join(format!("in-{}.part", Uuid::new_v4().simple()));
        let mut file = tokio::fs::File::create_new(&partial).await.map_err(ArtifactError::file("create", &partial))?;
        let mut stream = self.get(&artifact.key, path).await?;
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        while let Some(chunk) = stream.try_next().await.map_err(ArtifactError::store(&artifact.key))? {
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(ArtifactError::file("write", &partial))?;
        }
        file.flush().await.map_err(ArtifactError::file("write", &partial))?;
        let digest = Digest::from_hash(hasher.finalize());
        let found = FileFacts { digest, bytes, rows: None, schema_digest: None };
        compare(&artifact.key, &facts_of(artifact), &found)?;
        // The digest is part of the name: inputs of one name come from several elements.
        let copy = scratch.join(format!("in-{digest}-{}", artifact.name));
        tokio::fs::rename(&partial, &copy).await.map_err(ArtifactError::file("rename", &partial))?;
        Ok(copy)
    }

    pub(super) async fn get(
        &self,
        key: &str,
        path: &path::Path,
    ) -> Result<futures::stream::BoxStream<'static, object_store::Result<Bytes>>, ArtifactError> {
        self.before(key, false).await?;
        Ok(self.objects.get(path).await.map_err(ArtifactError::store(key))?.into_stream().boxed())
    }

    async fn before(&self, key: &str, is_put: bool) -> Result<(), ArtifactError> {
        match &self.interference {
            Some(interference) => interference.before(key, is_put).await,
            None => Ok(()),
        }
    }

    /// The path of a key that may be read: well-formed and, in a folder, not through a link.
    pub(super) fn checked(&self, key: &str) -> Result<path::Path, ArtifactError> {
        let path = key::parse_key(key)?;
        if let Some(folder) = &self.folder {
            folder.resolve(key)?;
        }
        Ok(path)
    }
}

/// Refuses content that is not what was expected; names the size first, as truncation shows there.
pub(super) fn compare(key: &str, expected: &FileFacts, found: &FileFacts) -> Result<(), ArtifactError> {
    let differs = |detail| Err(ArtifactError::Integrity { key: key.to_owned(), detail });
    if expected.bytes != found.bytes {
        return differs(format!("{} bytes expected, {} found", expected.bytes, found.bytes));
    }
    if expected.digest != found.digest {
        return differs(format!("digest {} expected, {} found", expected.digest, found.digest));
    }
    Ok(())
}

fn facts_of(artifact: &ArtifactRef) -> FileFacts {
    FileFacts {
        digest: artifact.digest,
        bytes: artifact.bytes,
        rows: artifact.rows,
        schema_digest: artifact.schema_digest,
    }
}

/// The wait after try `tries`, from 1.
fn backoff(tries: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << (tries - 1).min(16)).min(MAX_BACKOFF)
}

/// The folder that `url` names.
fn folder_path(url: &str) -> Result<PathBuf, ArtifactError> {
    let refused = |detail: &str| Err(ArtifactError::Url { url: url.to_owned(), detail: detail.to_owned() });
    match url.split_once("://") {
        None if url.is_empty() => refused("it is empty; use a folder, file:///folder or s3://bucket/prefix"),
        None => Ok(PathBuf::from(url)),
        Some(("file", path)) if path.contains('%') => refused("write the path without percent-encoding"),
        Some(("file", path)) if path.starts_with('/') => Ok(PathBuf::from(path)),
        Some(("file", _)) => refused("use file:/// and an absolute path"),
        Some(_) => refused("use a folder, file:///folder or s3://bucket/prefix"),
    }
}

/// Runs file work where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: the work was dropped before it began.
            Err(_) => Err(ArtifactError::file("reach", "the artifact store")(std::io::ErrorKind::Interrupted.into())),
        },
    }
}

impl FileFacts {
    /// Measures a finished file of any format.
    ///
    /// # Errors
    /// The file can not be read.
    pub async fn measure(path: &Path) -> Result<Self, ArtifactError> {
        let path = path.to_owned();
        blocking(move || {
            let mut file = std::fs::File::open(&path).map_err(ArtifactError::file("open", &path))?;
            folder::copy_hashing(&mut file, &mut std::io::sink()).map_err(ArtifactError::file("read", &path))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutResult,
    };

    use super::*;

    #[test]
    fn urls_that_are_no_store_say_why() {
        for bad in ["", "gs://bucket", "file://relative", "file:///a%20b", "http://x"] {
            assert!(matches!(ArtifactStore::open(bad), Err(ArtifactError::Url { .. })), "{bad:?}");
        }
    }

    #[test]
    fn backoff_is_bounded() {
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(2), FIRST_BACKOFF * 2);
        assert_eq!(backoff(60), MAX_BACKOFF);
    }

    /// What a put does to a [`Moody`] store.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Mood {
        /// Fails before anything is written.
        Refuses,
        /// Writes, and fails then: the answer is lost.
        WritesAndFails,
        /// Says "already exists" though nothing is there (S3's 409 for conflicting puts).
        ClaimsItExists,
        /// Works.
        Works,
    }

    /// A store in memory whose puts go as told, one mood after the other; then they work.
    #[derive(Debug)]
    struct Moody {
        inner: object_store::memory::InMemory,
        moods: std::sync::Mutex<Vec<Mood>>,
    }

    impl std::fmt::Display for Moody {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("moody")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Moody {
        async fn put_opts(
            &self,
            location: &path::Path,
            payload: PutPayload,
            options: PutOptions,
        ) -> object_store::Result<PutResult> {
            let mood = self.moods.lock().expect("no panic").pop().unwrap_or(Mood::Works);
            let failed = || object_store::Error::Generic { store: "moody", source: "500".into() };
            match mood {
                Mood::Refuses => Err(failed()),
                Mood::ClaimsItExists => {
                    Err(object_store::Error::AlreadyExists { path: location.to_string(), source: "409".into() })
                }
                Mood::WritesAndFails => {
                    self.inner.put_opts(location, payload, options).await?;
                    Err(failed())
                }
                Mood::Works => self.inner.put_opts(location, payload, options).await,
            }
        }

        async fn put_multipart_opts(
            &self,
            location: &path::Path,
            options: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(location, options).await
        }

        async fn get_opts(&self, location: &path::Path, options: GetOptions) -> object_store::Result<GetResult> {
            self.inner.get_opts(location, options).await
        }

        fn delete_stream(
            &self,
            locations: BoxStream<'static, object_store::Result<path::Path>>,
        ) -> BoxStream<'static, object_store::Result<path::Path>> {
            self.inner.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&path::Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&path::Path>) -> object_store::Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(
            &self,
            from: &path::Path,
            to: &path::Path,
            options: CopyOptions,
        ) -> object_store::Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    async fn publish(moods: &[Mood]) -> (Result<ArtifactRef, ArtifactError>, ArtifactStore) {
        let moods = std::sync::Mutex::new(moods.iter().rev().copied().collect());
        let objects = Arc::new(Moody { inner: object_store::memory::InMemory::new(), moods });
        let options = StoreOptions::default();
        let store = ArtifactStore { location: "moody:".to_owned(), options, objects, folder: None, interference: None };
        let name = ArtifactName::parse("x").expect("a name");
        (store.publish_bytes("t/x", name, Bytes::from_static(b"x")).await, store)
    }

    #[tokio::test]
    async fn a_put_lands_whatever_became_of_the_answer() {
        for moods in [
            &[Mood::Refuses, Mood::Refuses][..],
            &[Mood::WritesAndFails],
            &[Mood::WritesAndFails, Mood::Refuses],
            &[Mood::ClaimsItExists],
        ] {
            let (published, store) = publish(moods).await;
            let artifact = published.unwrap_or_else(|error| panic!("{moods:?}: {error:?}"));
            store.verify(&artifact).await.expect("the object is there");
        }
    }

    #[tokio::test]
    async fn a_store_that_stays_down_is_given_up_as_transient() {
        let (refused, store) = publish(&[Mood::Refuses; PUT_ATTEMPTS as usize]).await;
        assert!(refused.expect_err("given up").is_transient());
        assert!(store.list("").await.expect("listed").is_empty());
    }
}
