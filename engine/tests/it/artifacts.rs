//! One suite for every place that artifacts can lie in: the same promises on a folder and on S3.
//!
//! Also the basics of faults F17 (truncation) and F18 (one bit flipped, two objects swapped).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use headworks_engine::artifact::{ArtifactError, ArtifactRef, ArtifactStore, FileFacts, ParquetFileWriter};
use headworks_engine::id::{ArtifactName, Digest};
use testkit::S3Server;

/// A store, and the way to its objects' files: behind its back.
struct Place {
    store: ArtifactStore,
    home: tempfile::TempDir,
    server: Option<S3Server>,
}

impl Place {
    fn folder() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let url = format!("file://{}", home.path().join("store").display());
        Self { store: ArtifactStore::open(&url).expect("a folder"), home, server: None }
    }

    fn s3() -> Self {
        let server = S3Server::start();
        let store = ArtifactStore::open_with(&server.url("some/prefix"), &server.options()).expect("a bucket");
        Self { store, home: tempfile::tempdir().expect("a temporary folder"), server: Some(server) }
    }

    /// The file behind an object.
    fn object(&self, key: &str) -> PathBuf {
        match &self.server {
            Some(server) => server.object("some/prefix", key),
            None => self.home.path().join("store").join(key),
        }
    }

    /// Replaces an object's bytes.
    fn tamper(&self, key: &str, bytes: &[u8]) {
        let file = self.object(key);
        fs::remove_file(&file).expect("the object's file");
        fs::write(&file, bytes).expect("written");
    }

    async fn put(&self, key: &str, text: &'static str) -> Result<ArtifactRef, ArtifactError> {
        self.store.publish_bytes(key, name("data.json"), Bytes::from_static(text.as_bytes())).await
    }

    /// A new scratch folder.
    fn scratch(&self) -> PathBuf {
        tempfile::tempdir_in(self.home.path()).expect("a scratch folder").keep()
    }
}

/// Declares each test once and runs it on a folder and on S3.
macro_rules! on_every_store {
    ($($test:ident)+) => {
        mod on_a_folder { $(#[tokio::test] async fn $test() { super::$test(super::Place::folder()).await } )+ }
        mod on_s3 { $(#[tokio::test] async fn $test() { super::$test(super::Place::s3()).await } )+ }
    };
}

on_every_store! {
    what_is_published_is_what_is_read
    publishing_again_is_done_and_publishing_something_else_is_refused
    publishers_at_the_same_moment_all_succeed_with_equal_bytes
    a_file_that_changed_after_it_was_measured_is_not_published
    a_truncated_parquet_file_is_refused_at_publish_and_at_read
    a_flipped_bit_is_found
    swapped_objects_are_found
    foreign_keys_are_missing
    listing_and_deleting_see_objects_only
}

async fn what_is_published_is_what_is_read(place: Place) {
    let (file, facts) = parquet_file(&place.scratch(), 1_000);
    let key = "acme/shop/run-1/features/1.1/features.parquet";
    let artifact = place.store.publish_file(key, name("features.parquet"), &file, facts).await.expect("published");
    assert_eq!((artifact.rows, artifact.bytes, artifact.digest), (Some(1_000), facts.bytes, facts.digest));
    assert_eq!(artifact.schema_digest, facts.schema_digest);
    let written = fs::read(&file).expect("readable");
    fs::remove_file(&file).expect("the scratch file is not the object");
    let fetched = place.store.fetch(&artifact, &place.scratch()).await.expect("fetched");
    assert_eq!(fs::read(&fetched).expect("readable"), written);
    assert_eq!(place.store.read(&artifact).await.expect("read"), written);
    place.store.verify(&artifact).await.expect("sound");
    assert!(place.store.location(key).ends_with(key), "{}", place.store.location(key));
}

async fn publishing_again_is_done_and_publishing_something_else_is_refused(place: Place) {
    let first = place.put("acme/a/1", "first").await.expect("published");
    assert_eq!(place.put("acme/a/1", "first").await.expect("the same object"), first);
    for other in ["second", "FIRST"] {
        let refused = place.put("acme/a/1", other).await;
        assert!(matches!(refused, Err(ArtifactError::Integrity { .. })), "{refused:?}");
    }
    assert_eq!(place.store.read(&first).await.expect("untouched"), "first");
}

async fn publishers_at_the_same_moment_all_succeed_with_equal_bytes(place: Place) {
    let puts = (0..8).map(|_| place.put("acme/a/1", "the same"));
    for artifact in futures::future::join_all(puts).await {
        assert_eq!(artifact.expect("published").digest, Digest::of(b"the same"));
    }
}

async fn a_file_that_changed_after_it_was_measured_is_not_published(place: Place) {
    let file = place.scratch().join("model.bin");
    fs::write(&file, b"trained").expect("written");
    let facts = FileFacts::measure(&file).await.expect("measured");
    fs::write(&file, b"touched").expect("written");
    let refused = place.store.publish_file("acme/a/model.bin", name("model.bin"), &file, facts).await;
    assert!(matches!(refused, Err(ArtifactError::Integrity { .. })), "{refused:?}");
    assert!(place.store.list("").await.expect("listed").is_empty(), "nothing is visible");
}

async fn a_truncated_parquet_file_is_refused_at_publish_and_at_read(place: Place) {
    let (file, facts) = parquet_file(&place.scratch(), 100);
    let bytes = fs::read(&file).expect("readable");
    let artifact = place.store.publish_file("t/whole", name("p.parquet"), &file, facts).await.expect("published");
    for missing in 1..=64 {
        let cut = &bytes[..bytes.len() - missing];
        fs::write(&file, cut).expect("written");
        // Even where the writer measured the short file: the footer is gone.
        let short = FileFacts { bytes: cut.len() as u64, digest: Digest::of(cut), ..facts };
        let refused = place.store.publish_file("t/cut", name("p.parquet"), &file, short).await;
        assert!(matches!(refused, Err(ArtifactError::Parquet { .. })), "{missing}: {refused:?}");
        place.tamper("t/whole", cut);
        refuses_to_read(&place, &artifact).await;
    }
    assert_eq!(place.store.list("t").await.expect("listed").len(), 1, "only the first one was published");
}

async fn a_flipped_bit_is_found(place: Place) {
    let text = "all the bits of this object count";
    let artifact = place.put("t/bits", text).await.expect("published");
    for position in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[position] ^= 1 << (position % 8);
        place.tamper("t/bits", &bytes);
        refuses_to_read(&place, &artifact).await;
        assert_eq!(fs::read(place.object("t/bits")).expect("readable"), bytes, "the evidence is left alone");
        // A retry of the attempt does not write over it either.
        assert!(matches!(place.put("t/bits", text).await, Err(ArtifactError::Integrity { .. })));
    }
}

async fn swapped_objects_are_found(place: Place) {
    let one = place.put("acme/a/data.json", "of acme").await.expect("published");
    let two = place.put("rival/a/data.json", "of riva").await.expect("published");
    place.tamper("acme/a/data.json", b"of riva");
    place.tamper("rival/a/data.json", b"of acme");
    refuses_to_read(&place, &one).await;
    refuses_to_read(&place, &two).await;
}

async fn foreign_keys_are_missing(place: Place) {
    let mut artifact = place.put("t/here", "x").await.expect("published");
    for key in ["t/there", "../t/here", "/etc/passwd", "t/%2e%2e/here", "t/../t/here", "", ".staging/x"] {
        artifact.key = key.to_owned();
        let missing = |result: Result<(), ArtifactError>| matches!(result, Err(ArtifactError::Missing { .. }));
        assert!(missing(place.store.fetch(&artifact, &place.scratch()).await.map(drop)), "fetch {key:?}");
        assert!(missing(place.store.read(&artifact).await.map(drop)), "read {key:?}");
        assert!(missing(place.store.verify(&artifact).await), "verify {key:?}");
    }
    let outside = place.put("../outside", "x").await;
    assert!(matches!(outside, Err(ArtifactError::Missing { .. })), "{outside:?}");
}

async fn listing_and_deleting_see_objects_only(place: Place) {
    for key in ["t/run-1/a", "t/run-1/b", "t/run-10/c"] {
        place.put(key, "x").await.expect("published");
    }
    let keys = |mut listed: Vec<(String, u64)>| {
        listed.sort();
        listed
    };
    assert_eq!(
        keys(place.store.list("t/run-1").await.expect("listed")),
        [("t/run-1/a".to_owned(), 1), ("t/run-1/b".to_owned(), 1)],
        "run-10 is another run"
    );
    place.store.delete("t/run-1/a").await.expect("deleted");
    place.store.delete("t/run-1/a").await.expect("deleted before");
    assert_eq!(keys(place.store.list("").await.expect("listed")).len(), 2);
}

#[tokio::test]
async fn a_link_in_the_folder_is_not_an_object() {
    let place = Place::folder();
    let mut artifact = place.put("t/real", "x").await.expect("published");
    let outside = place.home.path().join("outside");
    fs::write(&outside, b"x").expect("written");
    std::os::unix::fs::symlink(&outside, place.object("t/link")).expect("linked");
    artifact.key = "t/link".to_owned();
    let refused = place.store.read(&artifact).await;
    assert!(matches!(refused, Err(ArtifactError::Missing { .. })), "{refused:?}");
    assert_eq!(place.store.list("t").await.expect("listed"), [("t/real".to_owned(), 1)]);
    place.store.delete("t/link").await.expect_err("not ours to delete");
    assert!(outside.exists());
}

#[tokio::test]
async fn wrong_keys_fail_at_once_and_say_so() {
    let server = S3Server::start();
    let mut options = server.options();
    if let Some(keys) = &mut options.s3.credentials {
        keys.secret_access_key = "guessed".to_owned();
    }
    let store = ArtifactStore::open_with(&server.url("p"), &options).expect("opened");
    let error = store.publish_bytes("t/x", name("x"), Bytes::from_static(b"x")).await.expect_err("refused");
    assert!(matches!(error, ArtifactError::Store { .. }) && !error.is_transient(), "{error:?}");
}

async fn refuses_to_read(place: &Place, artifact: &ArtifactRef) {
    let found = |result: Result<(), ArtifactError>| matches!(result, Err(ArtifactError::Integrity { .. }));
    let scratch = place.scratch();
    assert!(found(place.store.fetch(artifact, &scratch).await.map(drop)), "fetch");
    assert!(found(place.store.read(artifact).await.map(drop)), "read");
    assert!(found(place.store.verify(artifact).await), "verify");
    let copies = fs::read_dir(&scratch).expect("scratch").flatten();
    let named = copies.filter(|copy| !copy.file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(named.count(), 0, "no unverified copy gets a name");
}

fn name(text: &str) -> ArtifactName {
    ArtifactName::parse(text).expect("an artifact name")
}

fn parquet_file(folder: &Path, rows: usize) -> (PathBuf, FileFacts) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("demand", DataType::Float64, true),
    ]));
    let series: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("s{}", i % 7))));
    let demand: ArrayRef = Arc::new(Float64Array::from_iter((0..rows).map(|i| (i % 3 > 0).then_some(i as f64))));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![series, demand]).expect("columns of the schema");
    let path = folder.join("rows.parquet");
    let mut writer = ParquetFileWriter::create(&path, schema).expect("created");
    writer.write(&batch).expect("written");
    (path, writer.finish().expect("finished"))
}
