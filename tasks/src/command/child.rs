//! One child process in a process group of its own: started, read, told to stop, killed.
//!
//! Called by `command`. Whatever ends the attempt (the child, a cancel, the executor dropping the
//! future, a panic), no process of the group outlives it: [`Running`] kills on drop.
//!
//! A group's id is the id of its leader, and the kernel may give it to somebody else once the leader
//! is reaped. Signals are therefore sent under a lock, and only before the reaping: the waiter looks at
//! the leader's end without reaping it (`WNOWAIT`), kills what is left of the group, forgets the
//! id, and reaps last. A process that leaves the group (`setsid`) is out of reach here; in an attempt's
//! own process the engine finds it by its parents and by its mark.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use engine::task::{LastLines, LogStream, TaskContext};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the output of a dead group may still come. Only a process that left the group keeps the
/// pipe open longer, and nobody waits for that one.
const DRAIN: Duration = Duration::from_secs(2);

/// A child under way.
pub(super) struct Running {
    group: Group,
    waiter: JoinHandle<io::Result<ExitStatus>>,
    out: Receiver,
    err: Receiver,
}

/// How a child ended.
pub(super) struct Ended {
    /// Its exit code or signal.
    pub(super) status: ExitStatus,
    /// Whether it was told to stop.
    pub(super) canceled: bool,
    /// What it printed last, on either stream.
    pub(super) last: LastLines,
}

/// Starts `command` as the leader of a new process group, without input, its output in two pipes.
///
/// # Errors
/// As [`Command::spawn`].
pub(super) fn spawn(mut command: Command) -> io::Result<Running> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let pipe = || io::Error::other("a pipe to the child is missing");
    let (out, err) = (child.stdout.take().ok_or_else(pipe)?, child.stderr.take().ok_or_else(pipe)?);
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    let group = Group(Arc::new(Mutex::new(Some(Pid::from_raw(id)))));
    let shared = Arc::clone(&group.0);
    let waiter = tokio::task::spawn_blocking(move || wait(child, Pid::from_raw(id), &shared));
    let (out, err) = (Receiver::from_owned_fd(OwnedFd::from(out))?, Receiver::from_owned_fd(OwnedFd::from(err))?);
    Ok(Running { group, waiter, out, err })
}

impl Running {
    /// Waits for the end, and puts what the child prints into the attempt's log meanwhile; on a cancel
    /// sends SIGTERM to the group, and SIGKILL after `grace`.
    ///
    /// # Errors
    /// The system does not tell how the child ended, or what it printed.
    pub(super) async fn finish(mut self, context: &TaskContext, grace: Duration) -> io::Result<Ended> {
        let last = Mutex::default();
        let over = CancellationToken::new();
        let (group, waiter) = (&self.group, &mut self.waiter);
        let life = async {
            let ended = live(group, waiter, context.cancel(), grace).await;
            over.cancel();
            ended
        };
        let (out, err) = (&mut self.out, &mut self.err);
        let output = async {
            let both = async {
                tokio::try_join!(
                    read(out, LogStream::Stdout, context, &last),
                    read(err, LogStream::Stderr, context, &last)
                )
            };
            let drained = async {
                over.cancelled().await;
                tokio::time::sleep(DRAIN).await;
            };
            tokio::select! {
                read = both => read.map(|_| ()),
                () = drained => Ok(()),
            }
        };
        let (ended, output) = tokio::join!(life, output);
        let (status, canceled) = ended?;
        output?;
        Ok(Ended { status, canceled, last: std::mem::take(&mut *lock(&last)) })
    }
}

/// Waits for the child's end; returns whether it was told to stop, too.
async fn live(
    group: &Group,
    waiter: &mut JoinHandle<io::Result<ExitStatus>>,
    cancel: &CancellationToken,
    grace: Duration,
) -> io::Result<(ExitStatus, bool)> {
    tokio::select! {
        status = &mut *waiter => return Ok((status??, false)),
        () = cancel.cancelled() => {}
    }
    group.send(Signal::SIGTERM);
    if let Ok(status) = tokio::time::timeout(grace, &mut *waiter).await {
        return Ok((status??, true));
    }
    group.send(Signal::SIGKILL);
    Ok((waiter.await??, true))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.send(Signal::SIGKILL);
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
    child.wait()
}

async fn read(
    output: &mut Receiver,
    stream: LogStream,
    context: &TaskContext,
    last: &Mutex<LastLines>,
) -> io::Result<()> {
    // A pipe's own capacity on Linux: one read takes what there is.
    let mut buffer = vec![0; 1 << 16];
    let mut hidden = context.redaction();
    loop {
        match output.read(&mut buffer).await? {
            0 => {
                lock(last).push(&hidden.finish());
                return Ok(());
            }
            count => {
                lock(last).push(&hidden.push(&buffer[..count]));
                context.log(stream, &buffer[..count]).await;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding it; if so, what it holds is still whole.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
