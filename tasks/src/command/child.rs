//! One child process in a process group of its own: started, read, told to stop, killed.
//!
//! Called by `command`. Whatever ends the attempt (the child, a cancel, the executor dropping the
//! future, a panic), no process of the group outlives it: [`Running`] kills on drop, and `watchdog`
//! where this process is killed itself.
//!
//! A group's id is the id of its leader, and the kernel may give it to somebody else once the leader
//! is reaped. Signals are therefore sent under a lock, and only before the reaping: the waiter looks at
//! the leader's end without reaping it (`WNOWAIT`), kills what is left of the group, forgets the
//! id, and reaps last. A process that leaves the group (`setsid`) is out of reach.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::watchdog;

/// How long the output of a dead group may still come. Only a process that left the group keeps the
/// pipe open longer, and nobody waits for that one.
const DRAIN: Duration = Duration::from_secs(2);

/// A child under way.
pub(super) struct Running {
    group: Group,
    waiter: JoinHandle<io::Result<ExitStatus>>,
    reader: JoinHandle<io::Result<()>>,
    log: Arc<Mutex<Log>>,
}

/// How a child ended.
pub(super) struct Ended {
    /// Its exit code or signal.
    pub(super) status: ExitStatus,
    /// Whether it was told to stop.
    pub(super) canceled: bool,
    /// What it printed.
    pub(super) log: Log,
}

/// Starts `command` as the leader of a new process group, without input, its output in one pipe.
///
/// # Errors
/// As [`Command::spawn`].
pub(super) fn spawn(mut command: Command) -> io::Result<Running> {
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let output = Receiver::from_owned_fd(OwnedFd::from(output))?;
    let child = command.spawn()?;
    // It holds the pipe's other end, and the output would never end.
    drop(command);
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    watchdog::watch(Pid::from_raw(id));
    let group = Group(Arc::new(Mutex::new(Some(Pid::from_raw(id)))));
    let shared = Arc::clone(&group.0);
    let waiter = tokio::task::spawn_blocking(move || wait(child, Pid::from_raw(id), &shared));
    let log = Arc::new(Mutex::new(Log::default()));
    let reader = tokio::spawn(read(output, Arc::clone(&log)));
    Ok(Running { group, waiter, reader, log })
}

impl Running {
    /// Waits for the end; on a cancel sends SIGTERM to the group, and SIGKILL after `grace`.
    ///
    /// # Errors
    /// The system does not tell how the child ended.
    pub(super) async fn finish(mut self, cancel: &CancellationToken, grace: Duration) -> io::Result<Ended> {
        let mut ended = tokio::select! {
            status = &mut self.waiter => Some(status?),
            () = cancel.cancelled() => None,
        };
        let canceled = ended.is_none();
        if canceled {
            self.group.send(Signal::SIGTERM);
            ended = match tokio::time::timeout(grace, &mut self.waiter).await {
                Ok(status) => Some(status?),
                Err(_) => None,
            };
        }
        let status = match ended {
            Some(status) => status?,
            None => {
                self.group.send(Signal::SIGKILL);
                (&mut self.waiter).await??
            }
        };
        match tokio::time::timeout(DRAIN, &mut self.reader).await {
            Ok(read) => read??,
            Err(_) => self.reader.abort(),
        }
        Ok(Ended { status, canceled, log: std::mem::take(&mut *lock(&self.log)) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.send(Signal::SIGKILL);
        self.reader.abort();
    }
}

/// The group's id while a signal may be sent to it.
struct Group(Arc<Mutex<Option<Pid>>>);

impl Group {
    fn send(&self, signal: Signal) {
        send(lock(&self.0).as_ref(), signal);
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

/// Blocks until the child has ended, then kills what it left in its group, then reaps it.
fn wait(mut child: Child, id: Pid, group: &Mutex<Option<Pid>>) -> io::Result<ExitStatus> {
    loop {
        match waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    send(lock(group).take().as_ref(), Signal::SIGKILL);
    watchdog::forget(id);
    child.wait()
}

async fn read(mut output: Receiver, log: Arc<Mutex<Log>>) -> io::Result<()> {
    // A pipe's own capacity on Linux: one read takes what there is.
    let mut buffer = vec![0; 1 << 16];
    loop {
        match output.read(&mut buffer).await? {
            0 => return Ok(()),
            count => lock(&log).push(&buffer[..count]),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding it; if so, what it holds is still whole.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
