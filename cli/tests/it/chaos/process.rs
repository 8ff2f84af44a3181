//! A process of the real binary: started, waited for, signaled, killed.
//!
//! Used by scenarios through [`World`](super::World). Its standard error is a file, which is both its
//! log and the signal that it has come so far.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a file or a process is looked at while it is awaited.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// A process; killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("the binary starts");
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// As the scenario calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the process is there");
    }

    /// Kills it with SIGKILL and reaps it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// How it ended.
    pub(crate) async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            assert!(Instant::now() < deadline, "{} still runs after {patience:?}:\n{}", self.name, self.said());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until its log holds `text`.
    pub(crate) async fn until_says(&mut self, text: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.said().contains(text) {
            let alive = self.is_alive();
            assert!(alive || self.said().contains(text), "{} ended without {text:?}:\n{}", self.name, self.said());
            assert!(Instant::now() < deadline, "{} did not say {text:?} in time:\n{}", self.name, self.said());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process that is not our child still runs; one that waits to be reaped does not.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `pid (name) state ...`; a name may hold anything, parentheses too.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// How long a process took to be gone.
pub(crate) async fn until_gone(pid: i32, patience: Duration) -> Duration {
    let started = Instant::now();
    while runs(pid) {
        assert!(started.elapsed() < patience, "process {pid} still runs after {patience:?}");
        tokio::time::sleep(LOOK).await;
    }
    started.elapsed()
}
