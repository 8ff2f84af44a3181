//! A project in a temporary folder and the binary that runs in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder with `dags/`, in which the binary is run.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// Names another binary than the one that was built for the tests: an optimized one.
pub(crate) const BINARY: &str = "HEADWORKS_TEST_BINARY";

impl Bench {
    /// An empty project.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("dags/tenants")).expect("a folder");
        Self { folder, variables: Vec::new() }
    }

    /// A project with the repository's own DAGs and data.
    pub(crate) fn of_repository() -> Self {
        let bench = Self::new();
        copy(&repository().join("dags"), &bench.path("dags"));
        copy(&repository().join("docs/runbooks"), &bench.path("docs/runbooks"));
        bench
    }

    /// A path in the project.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, path: &str, text: &str) -> &Self {
        std::fs::write(self.path(path), text).expect("writable");
        self
    }

    /// Sets an environment variable for every later call.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The binary, about to be run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let built = env!("CARGO_BIN_EXE_headworks");
        let mut command = Command::new(std::env::var_os(BINARY).unwrap_or_else(|| built.into()));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Done(self.command(args).output().expect("the binary starts"))
    }
}

/// What a call of the binary came to.
pub(crate) struct Done(Output);

impl Done {
    /// Its exit code.
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    /// What it printed on standard output.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    /// What it printed on standard error.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// The one JSON document on standard output, after an end with `code`.
    pub(crate) fn json(&self, code: i32) -> Value {
        assert_eq!(self.code(), code, "{}\n{}", self.out(), self.err());
        serde_json::from_str(&self.out()).unwrap_or_else(|error| panic!("{error}: {}", self.out()))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
