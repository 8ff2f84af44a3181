//! The effect ledger: what test tasks really did, outside of the database.
//!
//! Every test task appends a line when it starts and one when it ends, each in one write to a file
//! opened with O_APPEND, so that the order of lines is the order of effects across all processes.
//! Tasks of kind `command` write their own lines, from the variables that they get; scenarios and the
//! checker read them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the file is read while a line is awaited: it is the only signal that crosses processes.
const LOOK: Duration = Duration::from_millis(10);

/// The file.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The run.
    pub run: String,
    /// The task instance: `train` or `train[2]`.
    pub task: String,
    /// Its generation.
    pub generation: i64,
    /// The try.
    pub attempt: i64,
    /// The epoch that the attempt was claimed under.
    pub epoch: i64,
    /// The process.
    pub pid: i32,
    /// `start`, `end`, or what the script says.
    pub phase: String,
}

impl Ledger {
    /// The ledger at `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A script for /bin/sh that notes its start, does `body`, and notes its end. `body` may call
    /// `note WORD` itself; a `$` in the ledger's path would be expanded.
    pub fn script(&self, body: &str) -> String {
        let note = "set -e; note() { printf '%s %s %s %s %s %s %s\\n' \"$HEADWORKS_RUN\" \"$HEADWORKS_TASK\" \
                    \"$HEADWORKS_GENERATION\" \"$HEADWORKS_ATTEMPT\" \"$HEADWORKS_EPOCH\" \"$$\" \"$1\" >> ";
        format!("{note}\"{}\"; }}; note start; {body}\nnote end", self.path.display())
    }

    /// All lines so far, in the order of effects.
    ///
    /// # Panics
    /// A line is not one of ours: two writes got mixed up.
    pub fn entries(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        // A last line without its end is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| parse(line).unwrap_or_else(|| panic!("a torn line in the ledger: {line:?}"))).collect()
    }

    /// Lines of a phase of a task.
    pub fn of(&self, task: &str, phase: &str) -> Vec<Entry> {
        self.entries().into_iter().filter(|entry| entry.task == task && entry.phase == phase).collect()
    }

    /// The first line that `wanted` accepts, once it is there.
    ///
    /// # Panics
    /// It does not come within `patience`.
    pub async fn until(&self, patience: Duration, mut wanted: impl FnMut(&Entry) -> bool) -> Entry {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(entry) = self.entries().into_iter().find(|entry| wanted(entry)) {
                return entry;
            }
            assert!(Instant::now() < deadline, "not in the ledger within {patience:?}; it holds {:#?}", self.entries());
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    let mut next = || words.next();
    let entry = Entry {
        run: next()?.to_owned(),
        task: next()?.to_owned(),
        generation: next()?.parse().ok()?,
        attempt: next()?.parse().ok()?,
        epoch: next()?.parse().ok()?,
        pid: next()?.parse().ok()?,
        phase: next()?.to_owned(),
    };
    next().is_none().then_some(entry)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn scripts_write_lines_that_are_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::at(folder.path().join("ledger"));
        let variables = [("RUN", "r"), ("TASK", "t[2]"), ("GENERATION", "1"), ("ATTEMPT", "3"), ("EPOCH", "4")];
        let status = Command::new("/bin/sh")
            .args(["-c", &ledger.script("note middle")])
            .envs(variables.map(|(name, value)| (format!("HEADWORKS_{name}"), value)))
            .status();
        assert!(status.expect("a shell").success());
        let phases: Vec<_> = ledger.entries().into_iter().map(|entry| entry.phase).collect();
        assert_eq!(phases, ["start", "middle", "end"]);
        let start = &ledger.of("t[2]", "start")[0];
        assert_eq!((start.run.as_str(), start.attempt, start.epoch), ("r", 3, 4));
        assert!(start.pid > 0);
    }
}
