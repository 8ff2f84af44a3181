//! A store in a local folder: create-only, durable, closed to links that lead out of it.
//!
//! Called by [`super::ArtifactStore`] only. `object_store`'s `LocalFileSystem` reads, lists and
//! deletes; it neither syncs what it writes nor minds symlinks, so that writing and resolving
//! are here. All methods block.
//!
//! A put writes to `.staging/` of the same folder, syncs, and links the finished file to its name:
//! linking is atomic and fails if the name is taken. A crash leaves at most a file in `.staging/`,
//! which no key can name.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use crate::artifact::{ArtifactError, FileFacts};
use crate::id::Digest;

/// Where unfinished files stay; keys can not begin with a dot.
const STAGING: &str = ".staging";

/// What to publish.
#[derive(Clone)]
pub(super) enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A finished local file.
    File(PathBuf),
}

/// What became of a create-only put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// The object is there now, and was not before.
    Created,
    /// An object of that key is there already; what it holds is not known.
    Exists,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens the folder, creating it if missing.
    pub(super) fn open(path: &Path) -> Result<Self, ArtifactError> {
        fs::create_dir_all(path.join(STAGING)).map_err(ArtifactError::file("create", path))?;
        let root = fs::canonicalize(path).map_err(ArtifactError::file("resolve", path))?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a (checked) key lies, whether or not it exists; [`ArtifactError::Missing`] if a symlink
    /// is on the way: it could lead anywhere.
    pub(super) fn resolve(&self, key: &str) -> Result<PathBuf, ArtifactError> {
        let mut path = self.root.clone();
        for segment in key.split('/') {
            path.push(segment);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => return Err(ArtifactError::Missing { key: key.to_owned() }),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(source) => return Err(ArtifactError::file("look at", path)(source)),
            }
        }
        Ok(self.root.join(key))
    }

    /// Size and digest of an object, or `None` if it is not there.
    pub(super) fn measure(&self, key: &str) -> Result<Option<FileFacts>, ArtifactError> {
        let path = self.resolve(key)?;
        match File::open(&path) {
            Ok(mut file) => {
                copy_hashing(&mut file, &mut std::io::sink()).map(Some).map_err(ArtifactError::file("read", path))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ArtifactError::file("open", path)(source)),
        }
    }

    /// Puts an object unless there is one; it is durable when this returns.
    ///
    /// # Errors
    /// [`ArtifactError::Integrity`], with nothing published, if the content is not what `facts` say.
    pub(super) fn put(&self, key: &str, content: &Content, facts: &FileFacts) -> Result<Put, ArtifactError> {
        let path = self.resolve(key)?;
        if path.exists() {
            return Ok(Put::Exists);
        }
        let staged = Staged::create(&self.root.join(STAGING))?;
        let written = staged.write(content)?;
        super::store::compare(key, facts, &written)?;
        let parent = path.parent().unwrap_or(&self.root);
        self.create_folders(parent)?;
        let outcome = match fs::hard_link(&staged.path, &path) {
            Ok(()) => Put::Created,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Put::Exists,
            Err(source) => return Err(ArtifactError::file("link", path)(source)),
        };
        sync_folder(parent)?;
        Ok(outcome)
    }

    /// Creates `folder` below the root; each new one is durable in its parent.
    fn create_folders(&self, folder: &Path) -> Result<(), ArtifactError> {
        let missing: Vec<&Path> = folder.ancestors().take_while(|path| *path != self.root && !path.exists()).collect();
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Ok(()) => {}
                // Another attempt of the same run came first; it may not have synced yet.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(ArtifactError::file("create", path)(source)),
            }
            sync_folder(path.parent().unwrap_or(&self.root))?;
        }
        Ok(())
    }
}

/// A file in the staging folder; removed when dropped, its link under the final name stays.
struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    fn create(folder: &Path) -> Result<Self, ArtifactError> {
        let path = folder.join(Uuid::new_v4().simple().to_string());
        let file = File::create_new(&path).map_err(ArtifactError::file("create", &path))?;
        Ok(Self { path, file })
    }

    fn write(&self, content: &Content) -> Result<FileFacts, ArtifactError> {
        let mut out = &self.file;
        let facts = match content {
            Content::Bytes(bytes) => out.write_all(bytes).map(|()| FileFacts::of(bytes)),
            Content::File(path) => {
                let mut source = File::open(path).map_err(ArtifactError::file("open", path))?;
                copy_hashing(&mut source, &mut out)
            }
        };
        let facts = facts.map_err(ArtifactError::file("write", &self.path))?;
        // Readers get this very file as a path: a child process must not write through it.
        self.file
            .set_permissions(Permissions::from_mode(0o444))
            .and_then(|()| self.file.sync_all())
            .map_err(ArtifactError::file("sync", &self.path))?;
        Ok(facts)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What could not be removed is no object and costs space only.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), ArtifactError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ArtifactError::file("sync", folder))
}

/// Copies to the end of `from` and returns what passed.
pub(super) fn copy_hashing(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<FileFacts> {
    let mut hasher = blake3::Hasher::new();
    // blake3 hashes several KiB at a time with SIMD; 128 KiB keeps reads cheap as well.
    let mut buffer = vec![0; 128 * 1024];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                to.write_all(&buffer[..read])?;
                bytes += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(FileFacts { digest: Digest::from_hash(hasher.finalize()), bytes, rows: None, schema_digest: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> (Content, FileFacts) {
        (Content::Bytes(Bytes::from_static(text.as_bytes())), FileFacts::of(text.as_bytes()))
    }

    #[test]
    fn a_name_is_taken_once_and_nothing_is_left_in_staging() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(home.path()).expect("opened");
        let (first, facts) = bytes("first");
        assert_eq!(folder.put("a/b/c", &first, &facts).expect("put"), Put::Created);
        let (second, other) = bytes("second");
        assert_eq!(folder.put("a/b/c", &second, &other).expect("put"), Put::Exists);
        assert_eq!(folder.measure("a/b/c").expect("measured"), Some(facts));
        assert_eq!(fs::read_dir(home.path().join(STAGING)).expect("there").count(), 0);
        let mode = fs::metadata(home.path().join("a/b/c")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "nobody writes through a published object by accident");
    }

    #[test]
    fn content_that_is_not_what_its_writer_measured_is_not_published() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(home.path()).expect("opened");
        let (content, _) = bytes("cut sho");
        let refused = folder.put("a/b", &content, &FileFacts::of(b"cut short"));
        assert!(matches!(refused, Err(ArtifactError::Integrity { .. })), "{refused:?}");
        assert_eq!(folder.measure("a/b").expect("measured"), None);
    }

    #[test]
    fn many_writers_of_one_key_agree_on_one_winner() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(home.path()).expect("opened");
        let outcomes: Vec<Put> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let (content, facts) = bytes("same");
                        folder.put("deep/er/key", &content, &facts).expect("put")
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Put::Created).count(), 1);
    }

    #[test]
    fn symlinks_lead_nowhere() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let outside = tempfile::tempdir().expect("a temporary folder");
        fs::write(outside.path().join("secret"), b"s").expect("written");
        let folder = Folder::open(home.path()).expect("opened");
        std::os::unix::fs::symlink(outside.path(), home.path().join("linked")).expect("linked");
        std::os::unix::fs::symlink(outside.path().join("secret"), home.path().join("file")).expect("linked");
        for key in ["linked/secret", "linked", "file"] {
            assert!(matches!(folder.resolve(key), Err(ArtifactError::Missing { .. })), "{key}");
        }
        let (content, facts) = bytes("x");
        assert!(folder.put("linked/new", &content, &facts).is_err());
        assert!(!outside.path().join("new").exists());
    }
}
