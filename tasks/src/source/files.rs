//! Which files a source names, and whether they are the pinned ones.
//!
//! A source is a file, a folder (all of its data files) or a pattern with `*` and `?` in its last part. Files are
//! read in the order of their names, so the same folder always gives the same rows in the same order.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::SourceError;
use crate::contract::{Format, Table};

/// A raw file, measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceFile {
    /// Where it is.
    #[serde(skip)]
    pub path: PathBuf,
    /// The path as the DAG, the tenant or the contract names it.
    #[serde(rename = "path")]
    pub shown: String,
    /// sha256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// Finds and measures the files of `table` at `path`; `shown` is how people wrote it.
///
/// # Errors
/// Nothing there, nothing readable there, or not the pinned file.
pub fn locate(table: &Table, path: &Path, shown: &str) -> Result<Vec<SourceFile>, SourceError> {
    if shown.contains("://") {
        let what = "sources at a URL are not read by this version; copy the files below the project and name the path";
        return Err(SourceError::refused(shown, what));
    }
    let found = expand(path).map_err(|source| missing_or_io(table, path, source))?;
    if found.is_empty() {
        return Err(SourceError::refused(path, format!("no data file is there{}", origin(table))));
    }
    let single = found.len() == 1 && found[0] == path;
    let parent = Path::new(shown).parent().unwrap_or(Path::new(""));
    let files = found.into_iter().map(|path| {
        let name = path.file_name().unwrap_or_default();
        let folder = if path.parent().is_some_and(|p| p.ends_with(shown)) { Path::new(shown) } else { parent };
        let shown = if single { shown.to_owned() } else { folder.join(name).to_string_lossy().into_owned() };
        measure(path, shown)
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    pins(table, &files)?;
    Ok(files)
}

fn expand(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (folder, pattern) = if name.contains(['*', '?']) {
        (path.parent().unwrap_or(Path::new(".")), Some(name))
    } else if std::fs::metadata(path)?.is_dir() {
        (path, None)
    } else {
        return Ok(vec![path.to_owned()]);
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = match &pattern {
            Some(pattern) => matches(pattern.as_bytes(), name.as_bytes()),
            None => !name.starts_with(['.', '_']) && by_extension(&entry).is_some(),
        };
        if wanted && entry.is_file() {
            found.push(entry);
        }
    }
    found.sort();
    Ok(found)
}

/// `*` is any text, `?` any byte. Linear in the text for each `*`: no pattern can be made to explode.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn missing_or_io(table: &Table, path: &Path, source: std::io::Error) -> SourceError {
    if source.kind() == std::io::ErrorKind::NotFound {
        return SourceError::refused(path, format!("is not there{}", origin(table)));
    }
    SourceError::Io { path: path.to_owned(), source }
}

fn origin(table: &Table) -> String {
    table.origin.as_ref().map_or(String::new(), |origin| format!("; get it from {origin}"))
}

fn measure(path: PathBuf, shown: String) -> Result<SourceFile, SourceError> {
    let io = |source| SourceError::Io { path: path.clone(), source };
    let mut reader = BufReader::with_capacity(1 << 20, File::open(&path).map_err(io)?);
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        let chunk = reader.fill_buf().map_err(io)?;
        let length = chunk.len();
        if length == 0 {
            break;
        }
        hasher.update(chunk);
        bytes += length as u64;
        reader.consume(length);
    }
    if bytes == 0 {
        return Err(SourceError::refused(path, "is empty (0 bytes)"));
    }
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(SourceFile { path, shown, sha256, bytes })
}

fn pins(table: &Table, files: &[SourceFile]) -> Result<(), SourceError> {
    if table.sha256.is_none() && table.bytes.is_none() {
        return Ok(());
    }
    let [file] = files else {
        let what = format!("the contract pins one file, and {} are there", files.len());
        return Err(SourceError::refused(&files[0].path, what));
    };
    if let Some(bytes) = table.bytes.filter(|bytes| *bytes != file.bytes) {
        let what =
            format!("has {} bytes; the contract pins {bytes}. It is another file, or a partial copy", file.bytes);
        return Err(SourceError::refused(&file.path, what));
    }
    if let Some(pin) = table.sha256.as_ref().filter(|pin| !pin.eq_ignore_ascii_case(&file.sha256)) {
        let what = format!("has sha256 {}; the contract pins {pin}. It is another file", file.sha256);
        return Err(SourceError::refused(&file.path, what));
    }
    Ok(())
}

/// The declared format, or the one that the extension says.
pub(super) fn format(table: &Table, file: &SourceFile) -> Result<Format, SourceError> {
    table.format.or_else(|| by_extension(&file.path)).ok_or_else(|| SourceError::NeedsAdapter {
        path: file.path.clone(),
        reason: "its extension names no format that a contract can read (csv, jsonl, parquet; .gz); if it is one of \
                 these, say so in `format`"
            .into(),
    })
}

fn by_extension(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" | "tsv" | "txt" => Some(Format::Csv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

/// A stream of the file's text: gzip is seen by its magic, not by the name.
pub(super) fn text(file: &SourceFile) -> Result<Box<dyn BufRead + Send>, SourceError> {
    let io = |source| SourceError::Io { path: file.path.clone(), source };
    let mut raw = BufReader::with_capacity(1 << 18, File::open(&file.path).map_err(io)?);
    let magic = raw.fill_buf().map_err(io)?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        let plain = flate2::bufread::MultiGzDecoder::new(raw);
        return Ok(Box::new(BufReader::with_capacity(1 << 18, plain)));
    }
    if magic.starts_with(b"PAR1") {
        return Err(SourceError::refused(
            &file.path,
            "is Parquet, and the contract reads it as text; correct `format`",
        ));
    }
    if magic.starts_with(b"PK\x03\x04") {
        let reason = "it is a zip archive (an Excel workbook is one); unpack it, or save the sheet as CSV".into();
        return Err(SourceError::NeedsAdapter { path: file.path.clone(), reason });
    }
    if magic.starts_with(&[0xff, 0xfe]) || magic.starts_with(&[0xfe, 0xff]) {
        let what = "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)";
        return Err(SourceError::refused(&file.path, what));
    }
    Ok(Box::new(raw))
}

/// Reads what is left of a broken read as the fault it is: a cut gzip stream is the data's, the rest the machine's.
pub(super) fn read_error(path: &Path, source: std::io::Error) -> SourceError {
    match source.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            SourceError::refused(path, "ends in the middle of its gzip stream; it is a partial copy")
        }
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
            SourceError::refused(path, format!("its gzip stream is damaged: {source}"))
        }
        _ => SourceError::Io { path: path.to_owned(), source },
    }
}

/// The first bytes of a file; fewer if it is shorter.
pub(super) fn head(path: &Path, length: usize) -> Result<Vec<u8>, SourceError> {
    let io = |source| SourceError::Io { path: path.to_owned(), source };
    let mut head = Vec::new();
    File::open(path).map_err(io)?.take(length as u64).read_to_end(&mut head).map_err(io)?;
    Ok(head)
}

/// The last bytes of a file that is at least that long.
pub(super) fn tail(path: &Path, length: i64) -> Result<Vec<u8>, SourceError> {
    let io = |source| SourceError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    file.seek(SeekFrom::End(-length)).map_err(io)?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).map_err(io)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Contract;
    use crate::contract::tests::SHOP;

    fn table() -> Table {
        Contract::parse(SHOP).expect("valid").source
    }

    #[test]
    fn patterns() {
        assert!(matches(b"part-*.csv", b"part-001.csv"));
        assert!(matches(b"*", b"") && matches(b"a?c*", b"abcdef") && matches(b"*a*a*", b"xaxa"));
        assert!(!matches(b"part-*.csv", b"part-001.csv.tmp") && !matches(b"a?c", b"ac"));
        assert!(!matches(b"*a*a*a*a*a*a*a*b", &[b'a'; 4000]), "no blow-up");
    }

    #[test]
    fn folders_and_patterns_are_read_by_name() {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["b.csv", "a.csv.gz", "_skip.csv", ".hidden.csv", "notes.md", "c.parquet"] {
            std::fs::write(folder.path().join(name), "x").expect("write");
        }
        let names = |path: &Path, shown: &str| -> Vec<String> {
            locate(&table(), path, shown).expect("found").into_iter().map(|file| file.shown).collect()
        };
        let base = folder.path().file_name().expect("name").to_string_lossy().into_owned();
        assert_eq!(
            names(folder.path(), &base),
            [format!("{base}/a.csv.gz"), format!("{base}/b.csv"), format!("{base}/c.parquet")]
        );
        assert_eq!(names(&folder.path().join("?.csv"), "in/?.csv"), ["in/b.csv"]);
    }

    #[test]
    fn missing_empty_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.csv");
        let mut table = table();
        table.origin = Some("the shop".into());
        let text = locate(&table, &path, "a.csv").expect_err("missing").to_string();
        assert!(text.contains("is not there; get it from the shop"), "{text}");
        std::fs::write(&path, "").expect("write");
        assert!(locate(&table, &path, "a.csv").expect_err("empty").to_string().contains("empty"));
        std::fs::write(&path, "abc").expect("write");
        let file = locate(&table, &path, "a.csv").expect("found").remove(0);
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        table.bytes = Some(4);
        assert!(locate(&table, &path, "a.csv").expect_err("size").to_string().contains("pins 4"));
        table.bytes = Some(3);
        table.sha256 = Some("0".repeat(64));
        assert!(locate(&table, &path, "a.csv").expect_err("hash").to_string().contains("pins 000"));
        assert!(locate(&table, Path::new("s3://x/y"), "s3://x/y").expect_err("url").to_string().contains("URL"));
    }
}
