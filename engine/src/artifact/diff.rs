//! How two artifacts of one name differ: Parquet by column and row, JSON by path, the rest by byte.
//!
//! Called by `replay` on verified local files. Rows are compared by their position, in batches, so that
//! memory stays bounded; nothing here decides whether a difference matters.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde::Serialize;
use serde_json::Value;

use crate::artifact::ArtifactError;

/// Rows held of each file at a time.
const BATCH_ROWS: usize = 8_192;
/// Examples that a difference shows; whoever wants all of them reads the artifacts.
const EXAMPLES: usize = 5;
/// Leading columns that name a row to people.
const KEY_COLUMNS: usize = 3;
/// JSON documents are compared whole; larger ones by byte.
const JSON_LIMIT: u64 = 64 << 20;
/// Characters of a value that an example shows.
const SHOWN: usize = 200;

/// How two files differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "format", rename_all = "snake_case")]
pub enum Difference {
    /// Two tables.
    Parquet {
        /// Rows before and after.
        rows: (u64, u64),
        /// Columns that only one of them has, or whose type differs.
        schema: Vec<String>,
        /// Rows that differ, by column; columns without any are left out.
        columns: BTreeMap<String, u64>,
        /// Rows that differ in any column.
        rows_that_differ: u64,
        /// The first of them.
        examples: Vec<Example>,
    },
    /// Two JSON documents.
    Json {
        /// Values that differ.
        values_that_differ: u64,
        /// The first of them.
        examples: Vec<Example>,
    },
    /// Bytes.
    Bytes {
        /// Sizes before and after.
        bytes: (u64, u64),
        /// The first byte that differs, from 0.
        first: u64,
    },
}

/// One value that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// `row 17 (series=a, time=2024-01-03), demand`, or a JSON path.
    pub at: String,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
}

impl Difference {
    /// In one line, for people.
    pub fn words(&self) -> String {
        match self {
            Self::Parquet { rows, schema, columns, rows_that_differ, .. } => {
                let mut parts = schema.clone();
                if rows.0 != rows.1 {
                    parts.push(format!("{} rows before, {} now", rows.0, rows.1));
                }
                if *rows_that_differ > 0 {
                    let names: Vec<_> = columns.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
                    parts.push(format!("{rows_that_differ} of {} rows differ, in {}", rows.0, names.join(", ")));
                }
                if parts.is_empty() { "the same rows in other bytes".to_owned() } else { parts.join("; ") }
            }
            Self::Json { values_that_differ: 0, .. } => "the same JSON in other bytes".to_owned(),
            Self::Json { values_that_differ, examples } => {
                let first = examples.first().map(|it| format!(", first {}", it.at)).unwrap_or_default();
                format!("{values_that_differ} values differ{first}")
            }
            Self::Bytes { bytes, first } => {
                format!("differs from byte {first} on ({} bytes before, {} now)", bytes.0, bytes.1)
            }
        }
    }

    /// The first of the differences.
    pub fn examples(&self) -> &[Example] {
        match self {
            Self::Parquet { examples, .. } | Self::Json { examples, .. } => examples,
            Self::Bytes { .. } => &[],
        }
    }
}

/// Compares two files that are known to differ; `name` says what they are. Blocks.
///
/// # Errors
/// One of them can not be read, or is no Parquet although its name says so.
pub fn diff(name: &str, before: &Path, after: &Path) -> Result<Difference, ArtifactError> {
    let extension = Path::new(name).extension().and_then(|it| it.to_str()).unwrap_or_default();
    let size = |path: &Path| path.metadata().map(|it| it.len()).map_err(ArtifactError::file("read", path));
    let bytes = (size(before)?, size(after)?);
    match extension {
        "parquet" => tables(name, before, after),
        "json" if bytes.0.max(bytes.1) <= JSON_LIMIT => match (json(before)?, json(after)?) {
            (Some(one), Some(two)) => Ok(diff_json(&one, &two)),
            _ => raw(before, after, bytes),
        },
        _ => raw(before, after, bytes),
    }
}

fn json(path: &Path) -> Result<Option<Value>, ArtifactError> {
    let bytes = std::fs::read(path).map_err(ArtifactError::file("read", path))?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// Compares two JSON values.
pub fn diff_json(before: &Value, after: &Value) -> Difference {
    let (mut count, mut examples) = (0, Vec::new());
    let mut note = |at: &str, before: Option<&Value>, after: Option<&Value>| {
        count += 1;
        if examples.len() < EXAMPLES {
            let text = |value: Option<&Value>| shorten(value.map_or("nothing".to_owned(), Value::to_string));
            examples.push(Example { at: at.to_owned(), before: text(before), after: text(after) });
        }
    };
    // A stack of our own: documents may be deep.
    let mut open = vec![("$".to_owned(), Some(before), Some(after))];
    while let Some((at, before, after)) = open.pop() {
        match (before, after) {
            (Some(Value::Object(one)), Some(Value::Object(two))) => {
                let mut names: Vec<_> = one.keys().chain(two.keys().filter(|name| !one.contains_key(*name))).collect();
                names.sort_by(|a, b| b.cmp(a));
                open.extend(names.into_iter().map(|name| (format!("{at}.{name}"), one.get(name), two.get(name))));
            }
            (Some(Value::Array(one)), Some(Value::Array(two))) => {
                let all = (0..one.len().max(two.len())).rev();
                open.extend(all.map(|index| (format!("{at}[{index}]"), one.get(index), two.get(index))));
            }
            (one, two) if one != two => note(&at, one, two),
            _ => {}
        }
    }
    Difference::Json { values_that_differ: count, examples }
}

fn raw(before: &Path, after: &Path, bytes: (u64, u64)) -> Result<Difference, ArtifactError> {
    let open = |path: &Path| File::open(path).map(std::io::BufReader::new).map_err(ArtifactError::file("open", path));
    let mut pairs = open(before)?.bytes().zip(open(after)?.bytes());
    let mut first = 0;
    let unequal = |pair: (std::io::Result<u8>, std::io::Result<u8>)| Ok::<_, std::io::Error>(pair.0? != pair.1?);
    loop {
        match pairs.next().map(unequal).transpose().map_err(ArtifactError::file("read", before))? {
            Some(false) => first += 1,
            Some(true) | None => return Ok(Difference::Bytes { bytes, first }),
        }
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn reader(name: &str, path: &Path) -> Result<(u64, ParquetRecordBatchReader), ArtifactError> {
    let unreadable = |source| ArtifactError::Parquet { key: name.to_owned(), source };
    let file = File::open(path).map_err(ArtifactError::file("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    Ok((rows, builder.with_batch_size(BATCH_ROWS).build().map_err(unreadable)?))
}

fn tables(name: &str, before: &Path, after: &Path) -> Result<Difference, ArtifactError> {
    let ((rows_before, mut before), (rows_after, mut after)) = (reader(name, before)?, reader(name, after)?);
    let unreadable =
        |source: arrow::error::ArrowError| ArtifactError::Parquet { key: name.to_owned(), source: source.into() };
    let mut found = Found { offset: 0, columns: BTreeMap::new(), rows: 0, examples: Vec::new() };
    let schema = found.schemas(&before, &after);
    // Batches of a reader are full but for its last one, so the two stay in step.
    while let (Some(one), Some(two)) = (before.next(), after.next()) {
        found.compare(&one.map_err(unreadable)?, &two.map_err(unreadable)?).map_err(unreadable)?;
    }
    Ok(Difference::Parquet {
        rows: (rows_before, rows_after),
        schema,
        columns: found.columns,
        rows_that_differ: found.rows,
        examples: found.examples,
    })
}

/// What was found so far in two tables.
struct Found {
    /// Rows before this batch.
    offset: u64,
    columns: BTreeMap<String, u64>,
    rows: u64,
    examples: Vec<Example>,
}

impl Found {
    /// Columns of one side alone, and those of another type.
    fn schemas(&self, before: &ParquetRecordBatchReader, after: &ParquetRecordBatchReader) -> Vec<String> {
        use arrow::record_batch::RecordBatchReader;
        let (one, two) = (before.schema(), after.schema());
        let mut notes = Vec::new();
        for field in one.fields() {
            match two.column_with_name(field.name()) {
                None => notes.push(format!("column {} is gone", field.name())),
                Some((_, other)) if other.data_type() != field.data_type() => {
                    notes.push(format!("column {} was {}, is {}", field.name(), field.data_type(), other.data_type()));
                }
                Some(_) => {}
            }
        }
        let new = two.fields().iter().filter(|field| one.column_with_name(field.name()).is_none());
        notes.extend(new.map(|field| format!("column {} is new", field.name())));
        notes
    }

    fn compare(&mut self, one: &RecordBatch, two: &RecordBatch) -> Result<(), arrow::error::ArrowError> {
        let rows = one.num_rows().min(two.num_rows());
        let mut any = vec![false; rows];
        let mut masks = Vec::new();
        for (at, field) in one.schema().fields().iter().enumerate() {
            let Some(other) = two.column_by_name(field.name()) else { continue };
            let (left, right) = (one.column(at).slice(0, rows), other.slice(0, rows));
            if left.data_type() != right.data_type() {
                continue;
            }
            let mask = unequal(&left, &right);
            let count = mask.true_count() as u64;
            if count > 0 {
                *self.columns.entry(field.name().clone()).or_default() += count;
                any.iter_mut().enumerate().for_each(|(row, any)| *any |= mask.value(row));
                masks.push((field.name().clone(), left, right, mask));
            }
        }
        for row in (0..rows).filter(|row| any[*row]) {
            self.rows += 1;
            for (column, left, right, _) in masks.iter().filter(|it| it.3.value(row)) {
                if self.examples.len() < EXAMPLES {
                    let key = key(one, row, &masks)?;
                    let at = format!("row {}{key}, {column}", self.offset + row as u64);
                    self.examples.push(Example { at, before: cell(left, row)?, after: cell(right, row)? });
                }
            }
        }
        self.offset += rows as u64;
        Ok(())
    }
}

/// Where two columns of one type differ; null equals null, and NaN equals NaN.
fn unequal(left: &ArrayRef, right: &ArrayRef) -> BooleanArray {
    match distinct(left, right) {
        Ok(mask) => mask,
        // Nested types have no kernel; their values compare as arrays of one.
        Err(_) => {
            (0..left.len()).map(|row| Some(left.slice(row, 1).to_data() != right.slice(row, 1).to_data())).collect()
        }
    }
}

/// What names a row to people: its first columns that are text, whole numbers or moments, and do not differ.
fn key(batch: &RecordBatch, row: usize, differing: &[Masked]) -> Result<String, arrow::error::ArrowError> {
    let names = |kind: &DataType| kind.is_integer() || kind.is_temporal() || matches!(kind, DataType::Utf8);
    let schema = batch.schema();
    let mut parts = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        let differs = differing.iter().any(|(name, _, _, mask)| name == field.name() && mask.value(row));
        if parts.len() < KEY_COLUMNS && names(field.data_type()) && !differs {
            parts.push(format!("{}={}", field.name(), cell(batch.column(at), row)?));
        }
    }
    Ok(if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) })
}

/// A column's name, both its sides, and where they differ.
type Masked = (String, ArrayRef, ArrayRef, BooleanArray);

fn cell(column: &ArrayRef, row: usize) -> Result<String, arrow::error::ArrowError> {
    if column.is_null(row) {
        return Ok("null".to_owned());
    }
    let options = FormatOptions::default();
    Ok(shorten(ArrayFormatter::try_new(column.as_ref(), &options)?.value(row).to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use serde_json::json;

    use super::*;
    use crate::artifact::ParquetFileWriter;

    fn table(folder: &Path, name: &str, series: Vec<&str>, demand: Vec<Option<f64>>) -> std::path::PathBuf {
        let schema = Arc::new(Schema::new(vec![
            Field::new("series", DataType::Utf8, false),
            Field::new("day", DataType::Int64, false),
            Field::new("demand", DataType::Float64, true),
        ]));
        let days: Int64Array = (0..i64::try_from(series.len()).expect("few")).collect();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(series)), Arc::new(days), Arc::new(Float64Array::from(demand))];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("fits");
        let path = folder.join(name);
        let mut writer = ParquetFileWriter::create(&path, schema).expect("created");
        writer.write(&batch).expect("written");
        writer.finish().expect("finished");
        path
    }

    #[test]
    fn tables_differ_by_column_and_row() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = table(folder.path(), "one", vec!["a", "a", "b"], vec![Some(1.0), None, Some(f64::NAN)]);
        let two = table(folder.path(), "two", vec!["a", "a", "b"], vec![Some(1.0), Some(2.5), Some(f64::NAN)]);
        let found = diff("panel.parquet", &one, &two).expect("compared");
        assert_eq!(found.words(), "1 of 3 rows differ, in demand (1)");
        let example =
            Example { at: "row 1 (series=a, day=1), demand".into(), before: "null".into(), after: "2.5".into() };
        assert_eq!(found.examples(), [example]);
        let three = table(folder.path(), "three", vec!["a", "a"], vec![Some(1.0), None]);
        assert_eq!(diff("panel.parquet", &one, &three).expect("compared").words(), "3 rows before, 2 now");
        assert_eq!(diff("panel.parquet", &one, &one).expect("compared").words(), "the same rows in other bytes");
    }

    #[test]
    fn rows_beyond_the_first_batch_are_numbered_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let rows = BATCH_ROWS * 2 + 3;
        let mut demand = vec![Some(0.0); rows];
        let one = table(folder.path(), "one", vec!["a"; rows], demand.clone());
        demand[rows - 1] = Some(-0.5);
        let two = table(folder.path(), "two", vec!["a"; rows], demand);
        let found = diff("panel.parquet", &one, &two).expect("compared");
        let last = rows - 1;
        assert_eq!(found.examples()[0].at, format!("row {last} (series=a, day={last}), demand"));
    }

    #[test]
    fn json_differs_by_path_and_the_rest_by_byte() {
        let found = diff_json(&json!({ "a": [1, { "b": 2 }], "c": 3 }), &json!({ "a": [1, { "b": 4 }], "d": 3 }));
        let at: Vec<_> = found.examples().iter().map(|it| it.at.as_str()).collect();
        assert_eq!(at, ["$.a[1].b", "$.c", "$.d"]);
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, "abcd").expect("written");
        std::fs::write(&two, "abXd").expect("written");
        assert_eq!(diff("x.bin", &one, &two).expect("compared"), Difference::Bytes { bytes: (4, 4), first: 2 });
        assert_eq!(
            diff("x.json", &one, &two).expect("compared").words(),
            "differs from byte 2 on (4 bytes before, 4 now)"
        );
    }
}
