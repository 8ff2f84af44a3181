//! The checker: reads database, ledger, objects and logs, and says which invariants do not hold.
//!
//! Called at the end of every chaos scenario. It shares no code with the store: it reads the tables
//! as an auditor would, so that a bug there can not hide itself. Violations are values; the scenario
//! decides what to print. The invariants are those of docs/guarantees.md, I1 to I10; I5 (limits) is a
//! fact about every moment, and [`Sampler`] looks while the scenario runs.

mod invariants;
mod read;
mod sampler;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use read::TABLES;
pub use sampler::Sampler;

use crate::Ledger;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// `I1` to `I10`.
    pub invariant: &'static str,
    /// Which run, task instance, attempt, object or file.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.invariant, self.place, self.what)
    }
}

/// What there is to look at.
pub struct Evidence<'a> {
    /// The database.
    pub store_url: &'a str,
    /// What tasks did.
    pub ledger: &'a Ledger,
    /// From an object's key to the file that holds it.
    pub object: &'a (dyn Fn(&str) -> PathBuf + Sync),
    /// Folders whose files must not hold the canary: objects, and what attempts leave behind.
    pub folders: &'a [PathBuf],
    /// What the processes printed.
    pub logs: &'a [PathBuf],
    /// Runs whose creation was acknowledged.
    pub acknowledged: &'a [String],
    /// Edges from parent to child whose rule is `all_success`, by DAG.
    pub edges: &'a BTreeMap<String, Vec<(String, String)>>,
    /// A secret that the processes were given, and their tasks.
    pub canary: &'a str,
}

/// Everything that is wrong, in order.
///
/// # Panics
/// The database can not be read.
pub async fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let facts = read::facts(evidence.store_url, evidence.ledger).await;
    let mut found = Vec::new();
    found.extend(invariants::runs_end(&facts, evidence.acknowledged));
    found.extend(invariants::outcomes(&facts));
    found.extend(invariants::events(&facts));
    found.extend(invariants::claims(&facts));
    found.extend(invariants::order(&facts, evidence.edges));
    found.extend(invariants::objects(&facts, evidence.object));
    found.extend(invariants::schedules(&facts));
    found.extend(invariants::nothing_is_left(&facts));
    found.extend(invariants::waits(&facts));
    found.extend(repairs(evidence.logs));
    found.extend(secrets(evidence).await);
    found.sort();
    found.dedup();
    found
}

/// I8: the reconciler had nothing to do; what it did all the same, by the logs of the processes.
pub fn repairs(logs: &[PathBuf]) -> Vec<Violation> {
    let mut found = Vec::new();
    for log in logs {
        for line in text(log).lines().filter(|line| line.contains("nothing moved this run any more")) {
            found.push(Violation { invariant: "I8", place: name(log), what: line.to_owned() });
        }
    }
    found
}

/// I9: the secret is nowhere.
async fn secrets(evidence: &Evidence<'_>) -> Vec<Violation> {
    let leak = |place: String| Violation { invariant: "I9", place, what: "holds the secret".to_owned() };
    let mut files: Vec<PathBuf> = evidence.logs.to_vec();
    files.push(evidence.ledger.path().to_owned());
    evidence.folders.iter().for_each(|folder| collect(folder, &mut files));
    let holds = |file: &PathBuf| {
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes.windows(evidence.canary.len()).any(|window| window == evidence.canary.as_bytes())
    };
    let mut found: Vec<_> = files.iter().filter(|file| holds(file)).map(|file| leak(name(file))).collect();
    found.extend(read::tables_with(evidence.store_url, evidence.canary).await.into_iter().map(leak));
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

fn text(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}

fn name(file: &Path) -> String {
    file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
