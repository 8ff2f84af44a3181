//! Kills the process groups of this worker's children when the worker is gone, however it went.
//!
//! Called by `child`. A worker that is killed with SIGKILL runs no code of its own, and its children
//! would go on, beside the next attempt. So a small shell reads, from a pipe that only the worker
//! holds, which groups there are; when the pipe closes it kills those that are left. One shell per
//! worker process, started with its first child.
//!
//! (`PR_SET_PDEATHSIG` would need `unsafe` code between fork and exec, and is bound to the thread that
//! forked.) A group is registered just after its leader has started: a worker that is killed in
//! between, some microseconds, leaves the child behind.

use std::io::{self, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::unistd::Pid;

const SCRIPT: &str = r#"
groups=
while read -r verb group; do
  case $verb in
    +) groups="$groups $group" ;;
    -) left=
       for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
       groups=$left ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"#;

static PIPE: OnceLock<Option<Mutex<PipeWriter>>> = OnceLock::new();

/// A group is there.
pub(super) fn watch(group: Pid) {
    tell('+', group);
}

/// A group is over; said before its leader is reaped, since its id may be somebody else's then.
pub(super) fn forget(group: Pid) {
    tell('-', group);
}

fn tell(verb: char, group: Pid) {
    let pipe = PIPE.get_or_init(|| match start() {
        Ok(pipe) => Some(Mutex::new(pipe)),
        Err(error) => {
            tracing::warn!(%error, "no watchdog: children would outlive this process if it were killed");
            None
        }
    });
    let Some(pipe) = pipe else { return };
    // One write of one line: the shell never sees half of it.
    let told = pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(format!("{verb} {group}\n").as_bytes());
    if let Err(error) = told {
        tracing::warn!(%error, "the watchdog is gone: children would outlive this process if it were killed");
    }
}

fn start() -> io::Result<PipeWriter> {
    let (reader, writer) = io::pipe()?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SCRIPT, "headworks-watchdog"]).env_clear();
    // A group of its own: Ctrl-C is for the worker, which tells its children itself.
    shell.stdin(reader).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").process_group(0);
    // Never waited for: it ends after this process.
    shell.spawn()?;
    Ok(writer)
}
