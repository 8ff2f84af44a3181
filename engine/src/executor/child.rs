//! An attempt in a process of its own, from the worker's side: started, listened to, stopped, judged.
//!
//! Called by `attempt` for `isolation = "process"`. The process is this very binary, as
//! `headworks attempt`; what it does is in `inside`, what is handed over in `handover`.
//!
//! The process leads a group of its own. It reads the attempt from its standard input, which stays
//! open for as long as the worker lives: the end of it is how the process learns of the worker's
//! death, however that came. Its outputs come back as a file; its exit code says nothing that the file
//! does not say. Without that file the process crashed: by a signal that nobody here sent, a failed
//! allocation, the kernel's hunt for memory. That is no failure of the task's own making but a loss,
//! and counts against the budget of losses (docs/decisions/0013).
//!
//! A group's id is the id of its leader, and the kernel may give it to somebody else once the leader
//! is reaped. Signals are therefore sent under a lock, and only before the reaping: the waiter looks
//! at the leader's end without reaping it (`WNOWAIT`), kills what is left of the group, forgets the id,
//! and reaps last.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::attempt::Stop;
use super::fault::Watch;
use super::handover::{HandBack, ProcessLimits, Spec};
use super::kin::Kin;
use super::log::LogSender;
use super::{failed, fault, secrets};
use crate::artifact::ArtifactRef;
use crate::plan::FailureKind;
use crate::store::Outcome;
use crate::task::{AttemptLog, ErrorClass, LastLines, LogStream, PROCESS_MARK};

/// The command of the binary that runs an attempt.
const COMMAND: &str = "attempt";

/// This binary itself, also after its file was replaced: both sides have to be of one version.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Variables of the worker that its attempts see without asking: where programs, certificates and
/// proxies are, how text and time are written. Keys and URLs are not among them.
const PASSED: [&str; 15] = [
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "HEADWORKS_LOG",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "NO_COLOR",
];

/// Variables that are the worker's own, whoever asks: those that change what code a process loads, and the secrets of
/// all tenants.
const NEVER_PASSED: [&str; 4] = ["LD_", "DYLD_", "GLIBC_TUNABLES", secrets::VARIABLE_PREFIX];

/// How long the output of a dead process may still come. Only a stranger who got hold of the pipe
/// keeps it open longer.
const DRAIN: Duration = Duration::from_secs(2);

/// How attempts run in processes of their own, and how much they may say.
#[derive(Debug, Clone)]
pub struct AttemptSettings {
    /// The `headworks` binary; `None` = this one (a test's is another).
    pub program: Option<PathBuf>,
    /// The store's URL, with its password: a process opens it to look models up.
    pub store_url: String,
    /// What a process may use.
    pub limits: ProcessLimits,
    /// The most that the log of one attempt may weigh.
    pub log_bytes: u64,
    /// The folder with a folder per tenant, in which its secrets are files.
    pub secrets: Option<PathBuf>,
}

impl Default for AttemptSettings {
    fn default() -> Self {
        // Enough to see what happened in a night, little enough for a thousand attempts.
        Self {
            program: None,
            store_url: String::new(),
            limits: ProcessLimits::default(),
            log_bytes: 16 << 20,
            secrets: None,
        }
    }
}

/// An attempt's process under way.
pub(super) struct Child {
    group: Group,
    mark: String,
    hand_back: PathBuf,
    waiter: JoinHandle<io::Result<ExitStatus>>,
    /// Holds the process's standard input open.
    feeder: JoinHandle<()>,
    readers: Vec<JoinHandle<()>>,
    last: Arc<Mutex<LastLines>>,
    /// Whether everything is gone and nothing is left to kill.
    is_over: bool,
}

/// Starts the process. `asked` are the worker's variables that the attempt asks for; `held` is told when a drill holds
/// it.
///
/// # Errors
/// The program can not be started; the attempt can not be written as JSON.
pub(super) fn start(
    spec: &Spec,
    settings: &AttemptSettings,
    asked: &[String],
    log: &Arc<LogSender>,
    held: &Arc<Notify>,
) -> io::Result<Child> {
    let mut line = serde_json::to_vec(spec)?;
    line.push(b'\n');
    let program = settings.program.as_deref().unwrap_or(Path::new(OWN_PROGRAM));
    let mut command = Command::new(program);
    command.arg0("headworks").arg(COMMAND).env_clear().envs(environment(asked)).env(PROCESS_MARK, &spec.mark);
    command.env("TMPDIR", &spec.scratch).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let id = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let pipe = || io::Error::other("a pipe to the attempt's process is missing");
    let input = child.stdin.take().ok_or_else(pipe)?;
    let (out, err) = (child.stdout.take().ok_or_else(pipe)?, child.stderr.take().ok_or_else(pipe)?);
    let group = Group(Arc::new(Mutex::new(Some(id))));
    let shared = Arc::clone(&group.0);
    let waiter = tokio::task::spawn_blocking(move || wait(child, id, &shared));
    let last = Arc::default();
    // Only a drill's attempt has something to say.
    let watch = fault::held_at(&spec.faults).map(|_| Watch::new(held));
    let readers = vec![
        read(Receiver::from_owned_fd(OwnedFd::from(out))?, LogStream::Stdout, (log, None), &last),
        read(Receiver::from_owned_fd(OwnedFd::from(err))?, LogStream::Stderr, (log, watch), &last),
    ];
    let feeder = feed(Sender::from_owned_fd(OwnedFd::from(input))?, line);
    let (mark, hand_back) = (spec.mark.clone(), spec.hand_back.clone());
    Ok(Child { group, mark, hand_back, waiter, feeder, readers, last, is_over: false })
}

impl Child {
    /// Its process group, for a drill.
    pub(super) fn group(&self) -> Group {
        self.group.clone()
    }

    /// Waits for the end. If `stop` comes first the process gets SIGTERM, and once the grace has ended it
    /// and all that it started get SIGKILL. Returns the outcome, and what was published.
    pub(super) async fn outcome(
        mut self,
        stop: impl Future<Output = Stop>,
        grace_ended: impl Future<Output = ()>,
    ) -> (Outcome, Vec<ArtifactRef>) {
        let (stopped, status) = tokio::select! {
            status = &mut self.waiter => (None, Some(status)),
            stop = stop => (Some(stop), None),
        };
        let status = match status {
            Some(status) => status,
            None => self.stop(grace_ended).await,
        };
        let found = HandBack::read(&self.hand_back);
        if found.is_none() {
            // It had no time to look after what it started.
            self.sweep(None).await;
        }
        self.is_over = true;
        for reader in &mut self.readers {
            if tokio::time::timeout(DRAIN, &mut *reader).await.is_err() {
                reader.abort();
            }
        }
        let status = status.map_err(io::Error::other).flatten();
        let (ending, published) = found.map(|it| (it.ending, it.published)).unzip();
        let outcome = match (stopped, ending) {
            (Some(Stop::TimedOut { limit }), _) => Stop::too_late(limit),
            (_, Some(ending)) => Outcome::from(ending),
            (Some(Stop::Canceled), None) => {
                let message = "its process did not stop within its grace after a cancel, and was killed";
                failed(FailureKind::Canceled, ErrorClass::System, message.to_owned())
            }
            (None, None) => crashed(&status, &lock(&self.last).text()),
        };
        (outcome, published.unwrap_or_default())
    }

    async fn stop(
        &mut self,
        grace_ended: impl Future<Output = ()>,
    ) -> Result<io::Result<ExitStatus>, tokio::task::JoinError> {
        self.group.send_to_leader(Signal::SIGTERM);
        tokio::select! {
            status = &mut self.waiter => return status,
            () = grace_ended => {}
        }
        // Stopped, it starts nothing more, and still adopts what its programs leave behind: so the
        // tree below it is whole while it is swept.
        self.group.send_to_leader(Signal::SIGSTOP);
        self.sweep(self.group.leader()).await;
        self.group.send(Signal::SIGKILL);
        (&mut self.waiter).await
    }

    /// Kills what the process started and did not end.
    async fn sweep(&self, root: Option<Pid>) {
        let kin = Kin { root, mark: Some(self.mark.clone()) };
        // Fails only while the runtime shuts down, and then `drop` does the same.
        tokio::task::spawn_blocking(move || kin.kill()).await.ok();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.feeder.abort();
        if self.is_over {
            return;
        }
        // The attempt's future was dropped: nobody waits any longer, and nothing may go on.
        let root = self.group.leader();
        self.group.send_to_leader(Signal::SIGSTOP);
        Kin { root, mark: Some(self.mark.clone()) }.kill();
        self.group.send(Signal::SIGKILL);
        for reader in &self.readers {
            reader.abort();
        }
    }
}

/// What the attempt's process sees of the worker's environment.
fn environment(asked: &[String]) -> Vec<(OsString, OsString)> {
    let names = PASSED.iter().copied().chain(asked.iter().map(String::as_str));
    let allowed = names.filter(|name| !NEVER_PASSED.iter().any(|prefix| name.starts_with(prefix)));
    allowed.filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect()
}

/// Why a process ended that handed nothing back.
fn crashed(status: &io::Result<ExitStatus>, last_lines: &str) -> Outcome {
    let how = match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => {
                let name = Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |it| it.to_string());
                format!("was killed by {name}")
            }
            (None, Some(code)) => format!("ended with exit code {code} and without a result"),
            (None, None) => "ended without a result".to_owned(),
        },
        Err(error) => format!("was lost track of ({error})"),
    };
    let printed = if last_lines.is_empty() { String::new() } else { format!("; it printed last:\n{last_lines}") };
    failed(FailureKind::Crashed, ErrorClass::System, format!("its process {how}{printed}"))
}

/// The group's id while a signal may be sent to it.
#[derive(Clone)]
pub(super) struct Group(Arc<Mutex<Option<Pid>>>);

impl Group {
    fn leader(&self) -> Option<Pid> {
        *lock(&self.0)
    }

    /// Sends to all of the group, if there is one still.
    pub(super) fn send(&self, signal: Signal) {
        send(lock(&self.0).as_ref(), signal);
    }

    fn send_to_leader(&self, signal: Signal) {
        if let Some(leader) = lock(&self.0).as_ref() {
            // It was started here and is not reaped yet: the signal finds it, if only its remains.
            nix::sys::signal::kill(*leader, signal).ok();
        }
    }
}

fn send(group: Option<&Pid>, signal: Signal) {
    if let Some(group) = group
        && let Err(error) = killpg(*group, signal)
    {
        // Processes that changed their user are not ours to signal; nothing else can go wrong here.
        tracing::warn!(%group, %signal, %error, "can not signal a process group");
    }
}

/// Blocks until the process has ended, then kills what it left in its group, then reaps it.
fn wait(mut child: std::process::Child, id: Pid, group: &Mutex<Option<Pid>>) -> io::Result<ExitStatus> {
    loop {
        match waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    send(lock(group).take().as_ref(), Signal::SIGKILL);
    child.wait()
}

/// Writes the attempt and keeps the pipe open until it is aborted.
fn feed(mut input: Sender, line: Vec<u8>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // A process that died before it read everything is judged by its end.
        input.write_all(&line).await.ok();
        std::future::pending().await
    })
}

/// Reads a stream of the process into the log, to its end.
fn read(
    mut output: Receiver,
    stream: LogStream,
    (log, mut watch): (&Arc<LogSender>, Option<Watch>),
    last: &Arc<Mutex<LastLines>>,
) -> JoinHandle<()> {
    let (log, last) = (Arc::clone(log), Arc::clone(last));
    // The log hides what it is told by itself.
    let mut hidden = log.redactor().stream();
    tokio::spawn(async move {
        // A pipe's own capacity on Linux: one read takes what there is.
        let mut buffer = vec![0; 1 << 16];
        loop {
            match output.read(&mut buffer).await {
                Ok(0) | Err(_) => {
                    lock(&last).push(&hidden.finish());
                    return;
                }
                Ok(count) => {
                    lock(&last).push(&hidden.push(&buffer[..count]));
                    log.write(stream, &buffer[..count]).await;
                    if let Some(watch) = &mut watch {
                        watch.push(&buffer[..count]);
                    }
                }
            }
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding it; if so, what it holds is still whole.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{ArtifactStore, KeyPrefix};
    use crate::executor::log::Log;
    use crate::id::{DagId, Epoch, Generation, InstanceId, RunId, TaskId, TenantId};
    use crate::secret::{Redactor, SecretText};

    #[tokio::test]
    async fn a_drill_hears_of_a_held_attempt_whose_secret_is_a_word_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let artifacts = ArtifactStore::open(folder.path().to_str().expect("UTF-8")).expect("a local store");
        let redactor = Redactor::new(&[SecretText::new("drill holds".to_owned())]);
        let attempt = KeyPrefix {
            tenant: TenantId::parse("acme").expect("an id"),
            dag: DagId::parse("t").expect("an id"),
            run: RunId::from_uuid(uuid::Uuid::nil()),
            instance: InstanceId::new(TaskId::parse("a").expect("an id"), None),
            generation: Generation(1),
            epoch: Epoch(1),
        };
        let log = Log::open(&Arc::new(artifacts), attempt, 1 << 20, redactor);
        let (mut sender, receiver) = tokio::net::unix::pipe::pipe().expect("a pipe");
        let (held, last) = (Arc::default(), Arc::default());
        let reader = read(receiver, LogStream::Stderr, (&log.sender(), Some(Watch::new(&held))), &last);
        let (first, second) = fault::HELD.split_at(20);
        for piece in ["before\n", first, second, "\n"] {
            sender.write_all(piece.as_bytes()).await.expect("written");
            tokio::task::yield_now().await;
        }
        drop(sender);
        reader.await.expect("it ends");
        tokio::time::timeout(DRAIN, held.notified()).await.expect("it was told");
        assert_eq!(lock(&last).text(), "before\nheadworks: a *** this attempt here");
    }

    #[test]
    fn the_loaders_variables_are_never_passed() {
        let asked = ["CARGO_MANIFEST_DIR", "LD_LIBRARY_PATH", "NOT_SET_ANYWHERE"].map(str::to_owned);
        let passed: Vec<_> = environment(&asked).into_iter().map(|(name, _)| name).collect();
        assert!(passed.contains(&"PATH".into()) && passed.contains(&"CARGO_MANIFEST_DIR".into()), "{passed:?}");
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "the test itself has an environment");
        for name in ["CARGO_PKG_NAME", "LD_LIBRARY_PATH", "NOT_SET_ANYWHERE"] {
            assert!(!passed.contains(&name.into()), "{passed:?}");
        }
    }

    #[test]
    fn a_crash_says_what_happened_last() {
        let status = Ok(ExitStatus::from_raw(11));
        let Outcome::Failed { kind, message, .. } = crashed(&status, "assertion failed") else { panic!("failed") };
        assert_eq!(kind, FailureKind::Crashed);
        assert_eq!(message, "its process was killed by SIGSEGV; it printed last:\nassertion failed");
        let Outcome::Failed { message, .. } = crashed(&Ok(ExitStatus::from_raw(3 << 8)), "") else { panic!("failed") };
        assert_eq!(message, "its process ended with exit code 3 and without a result");
    }
}
