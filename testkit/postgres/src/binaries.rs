//! Finds the programs of a Postgres server, and whom to run them as.
//!
//! Called by the cluster and by xtask, which installs what is missing. Debian keeps the server's
//! programs off the PATH, so that several versions can stand side by side.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::PostgresError;

/// What a cluster needs; all in one folder, so that versions do not mix.
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];

/// The programs of one installation of Postgres.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Looks where `pg_config` says, then in Debian's folders (newest first), then on the PATH.
    ///
    /// # Errors
    /// [`PostgresError::NotInstalled`].
    pub fn find() -> Result<Self, PostgresError> {
        let looked_in: Vec<PathBuf> =
            pg_config().into_iter().chain(debian(Path::new("/usr/lib/postgresql"))).chain(search_path()).collect();
        match looked_in.iter().find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file())) {
            Some(folder) => Ok(Self { folder: folder.clone() }),
            None => Err(PostgresError::NotInstalled { looked_in }),
        }
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn pg_config() -> Option<PathBuf> {
    let text = stdout_of(Command::new("pg_config").arg("--bindir"))?;
    Some(PathBuf::from(text))
}

fn debian(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder).collect()
}

fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The user and group to run a server as: Postgres refuses to run as root. `None` = as we are.
pub(crate) fn unprivileged_user() -> Option<(u32, u32)> {
    if id(&["-u"])? != 0 {
        return None;
    }
    // Debian's package makes `postgres`; `nobody` is everywhere.
    ["postgres", "nobody"].iter().find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)))
}

fn id(arguments: &[&str]) -> Option<u32> {
    stdout_of(Command::new("id").args(arguments))?.parse().ok()
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_come_first() {
        let root = std::env::temp_dir().join(format!("headworks-binaries-{}", std::process::id()));
        for version in ["9", "15", "17", "not-a-version"] {
            std::fs::create_dir_all(root.join(version)).expect("a folder");
        }
        let found = debian(&root);
        std::fs::remove_dir_all(&root).expect("removed");
        assert_eq!(found, ["17", "15", "9"].map(|version| root.join(version).join("bin")));
    }
}
