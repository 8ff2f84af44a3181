//! Deterministic Parquet: equal rows give equal bytes.
//!
//! Tasks write through [`crate::task::ParquetSink`]; the store checks the footer of what it is asked
//! to publish. Nothing here publishes.
//!
//! What could differ between two files with the same rows is pinned: the writer's name, compression
//! and its level, row groups, and where pages end. Parquet decides on page ends per call of its
//! writer, so that one row group handed over in two pieces gives other bytes than in one; rows are
//! therefore regrouped here, and each row group is handed over whole. Metadata of schema and
//! fields, which depends on where a batch came from, is dropped.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::compute::BatchCoalescer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::{ArrowWriter, parquet_to_arrow_schema};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::artifact::schema::schema_digest;
use crate::artifact::{ArtifactError, FileFacts};
use crate::id::Digest;

/// Rows of a row group: large enough to compress, small enough that a wide one (200 columns of
/// f64) stays near 200 MB while it is gathered.
const ROWS_PER_GROUP: usize = 131_072;

/// Takes the place of Parquet's own version, which an upgrade would change in every file. The
/// form `name version x.y.z (build b)` is what readers parse; raise it when the layout changes.
const CREATED_BY: &str = "headworks version 1.0.0 (build 1)";

/// zstd's own default: a higher level costs time that a panel of a few MB does not give back.
const ZSTD_LEVEL: i32 = 3;

/// Writes one Parquet file, hashing as it goes. Its methods block.
pub struct ParquetFileWriter {
    path: PathBuf,
    schema: SchemaRef,
    rows: u64,
    groups: BatchCoalescer,
    writer: ArrowWriter<HashingWriter<BufWriter<File>>>,
}

impl ParquetFileWriter {
    /// Starts a file at `path` (must not exist).
    ///
    /// # Errors
    /// The file can not be created, or the schema has a type that Parquet does not know.
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self, ArtifactError> {
        let schema = Arc::new(without_metadata(&schema));
        let properties = properties().map_err(parquet_error(path))?;
        let file = File::create_new(path).map_err(ArtifactError::file("create", path))?;
        let sink = HashingWriter::new(BufWriter::with_capacity(1 << 16, file));
        let writer = ArrowWriter::try_new(sink, Arc::clone(&schema), Some(properties)).map_err(parquet_error(path))?;
        let groups = BatchCoalescer::new(Arc::clone(&schema), ROWS_PER_GROUP);
        Ok(Self { path: path.to_owned(), schema, rows: 0, groups, writer })
    }

    /// Appends a batch of the file's schema.
    ///
    /// # Errors
    /// The batch has other columns, types or nulls than the schema; the disk is full.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArtifactError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())
            .map_err(|error| self.arrow_error(error))?;
        self.rows += batch.num_rows() as u64;
        self.groups.push_batch(batch).map_err(|error| self.arrow_error(error))?;
        self.write_full_groups()
    }

    /// Writes the footer, reads it back and returns what was written.
    ///
    /// # Errors
    /// The disk is full, or the file does not hold what was written.
    pub fn finish(mut self) -> Result<FileFacts, ArtifactError> {
        self.groups.finish_buffered_batch().map_err(|error| self.arrow_error(error))?;
        self.write_full_groups()?;
        let Self { path, schema, rows, writer, .. } = self;
        let mut sink = writer.into_inner().map_err(parquet_error(&path))?;
        sink.flush().map_err(ArtifactError::file("write", &path))?;
        let facts = FileFacts {
            digest: Digest::from_hash(sink.hasher.finalize()),
            bytes: sink.bytes,
            rows: Some(rows),
            schema_digest: Some(schema_digest(&schema)),
        };
        check_footer(&path, &path.to_string_lossy(), &facts)?;
        Ok(facts)
    }

    fn write_full_groups(&mut self) -> Result<(), ArtifactError> {
        while let Some(group) = self.groups.next_completed_batch() {
            self.writer.write(&group).map_err(parquet_error(&self.path))?;
            // A group also ends where Parquet ends it by itself; then this is a no-op.
            self.writer.flush().map_err(parquet_error(&self.path))?;
        }
        Ok(())
    }

    fn arrow_error(&self, error: ArrowError) -> ArtifactError {
        parquet_error(&self.path)(ParquetError::from(error))
    }
}

fn properties() -> Result<WriterProperties, ParquetError> {
    Ok(WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_statistics_enabled(EnabledStatistics::Page)
        .build())
}

fn without_metadata(schema: &Schema) -> Schema {
    let bare = |field: &Arc<Field>| field.as_ref().clone().with_metadata(Default::default());
    Schema::new(schema.fields().iter().map(bare).collect::<Vec<_>>())
}

/// Reads the footer of the Parquet file at `path` and compares rows and schema with `facts`, where
/// they state them. `key` names the object in errors.
///
/// # Errors
/// [`ArtifactError::Parquet`] for a file without a readable footer (truncated, wrong magic, absurd
/// lengths), [`ArtifactError::Integrity`] for one that says something else than `facts`.
pub(super) fn check_footer(path: &Path, key: &str, facts: &FileFacts) -> Result<(), ArtifactError> {
    let file = File::open(path).map_err(ArtifactError::file("open", path))?;
    let unreadable = |source| ArtifactError::Parquet { key: key.to_owned(), source };
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(unreadable)?;
    let footer = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata()).map_err(unreadable)?;
    let rows = u64::try_from(footer.num_rows()).ok();
    let differs = |detail| Err(ArtifactError::Integrity { key: key.to_owned(), detail });
    if facts.rows.is_some() && facts.rows != rows {
        return differs(format!("{:?} rows written, {} in the footer", facts.rows, footer.num_rows()));
    }
    let found = schema_digest(&schema);
    match facts.schema_digest {
        Some(expected) if expected != found => {
            differs(format!("schema digest {expected} written, {found} in the footer"))
        }
        _ => Ok(()),
    }
}

fn parquet_error(path: &Path) -> impl FnOnce(ParquetError) -> ArtifactError {
    let path = path.to_owned();
    move |error| match error {
        // A full disk is the machine's trouble, not the file's: it has to stay worth another try.
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => ArtifactError::File { action: "write", path, source: *source },
            Err(source) => {
                ArtifactError::Parquet { key: path.display().to_string(), source: ParquetError::External(source) }
            }
        },
        source => ArtifactError::Parquet { key: path.display().to_string(), source },
    }
}

/// Hashes and counts what passes on its way to `inner`.
struct HashingWriter<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{ArrayRef, Date32Array, Float64Array, StringArray};
    use arrow::datatypes::DataType;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("series", DataType::Utf8, false),
            Field::new("time", DataType::Date32, false),
            Field::new("demand", DataType::Float64, true),
        ]))
    }

    fn batch(rows: usize) -> RecordBatch {
        let series: StringArray = (0..rows).map(|i| Some(format!("item-{}", i / 700))).collect();
        let time: Date32Array = (0..rows).map(|i| Some((i % 700) as i32)).collect();
        let demand: Float64Array = (0..rows).map(|i| (i % 13 != 0).then(|| (i * 7 % 101) as f64 / 3.0)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(series), Arc::new(time), Arc::new(demand)];
        RecordBatch::try_new(schema(), columns).expect("columns fit the schema")
    }

    fn write(name: &str, schema: SchemaRef, batches: &[RecordBatch]) -> (FileFacts, Vec<u8>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        let mut writer = ParquetFileWriter::create(&path, schema).expect("created");
        for batch in batches {
            writer.write(batch).expect("written");
        }
        let facts = writer.finish().expect("finished");
        (facts, std::fs::read(&path).expect("readable"))
    }

    #[test]
    fn batching_leaves_no_trace_in_the_bytes() {
        // More than two row groups, so that pieces cross their borders.
        let rows = ROWS_PER_GROUP * 2 + 4_321;
        let whole = batch(rows);
        let (facts, bytes) = write("whole", schema(), std::slice::from_ref(&whole));
        assert_eq!(facts.digest, Digest::of(&bytes), "the digest is of the file's bytes");
        assert_eq!((facts.bytes, facts.rows), (bytes.len() as u64, Some(rows as u64)));
        for size in [1_000, 8_192, 100_003, ROWS_PER_GROUP] {
            let pieces: Vec<_> =
                (0..rows).step_by(size).map(|start| whole.slice(start, size.min(rows - start))).collect();
            assert_eq!(write("pieces", schema(), &pieces), (facts, bytes.clone()), "in pieces of {size} rows");
        }
    }

    #[test]
    fn metadata_of_batches_is_not_written() {
        let data = batch(10);
        let noise: HashMap<_, _> = (0..9).map(|i| (format!("key{i}"), "x".to_owned())).collect();
        let noisy = Arc::new(schema().as_ref().clone().with_metadata(noise));
        let other = RecordBatch::try_new(Arc::clone(&noisy), data.columns().to_vec()).expect("same columns");
        assert_eq!(write("noisy", noisy, &[other]), write("plain", schema(), &[data]));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let data = batch(2_000);
        let (_, bytes) = write("data", schema(), std::slice::from_ref(&data));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).expect("a footer");
        assert_eq!(reader.metadata().file_metadata().created_by(), Some(CREATED_BY));
        let read: Vec<_> = reader.with_batch_size(4_096).build().expect("a reader").map(|b| b.expect("rows")).collect();
        assert_eq!(read, vec![data]);
    }

    #[test]
    fn a_file_without_rows_is_a_file() {
        let (facts, _) = write("empty", schema(), &[]);
        assert_eq!(facts.rows, Some(0));
    }

    #[test]
    fn a_truncated_file_has_no_footer() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("whole");
        let mut writer = ParquetFileWriter::create(&path, schema()).expect("created");
        writer.write(&batch(500)).expect("written");
        let facts = writer.finish().expect("finished");
        let bytes = std::fs::read(&path).expect("readable");
        for missing in 1..=64 {
            let cut = folder.path().join(format!("cut-{missing}"));
            std::fs::write(&cut, &bytes[..bytes.len() - missing]).expect("written");
            assert!(
                matches!(check_footer(&cut, "cut", &facts), Err(ArtifactError::Parquet { .. })),
                "{missing} bytes short"
            );
        }
    }

    #[test]
    fn other_columns_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let one = Arc::new(Schema::new(vec![Field::new("series", DataType::Utf8, false)]));
        let mut writer = ParquetFileWriter::create(&folder.path().join("one"), one).expect("created");
        assert!(matches!(writer.write(&batch(1)), Err(ArtifactError::Parquet { .. })));
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("there");
        std::fs::write(&path, b"mine").expect("written");
        assert!(matches!(ParquetFileWriter::create(&path, schema()), Err(ArtifactError::File { .. })));
        assert_eq!(std::fs::read(&path).expect("readable"), b"mine");
    }
}
