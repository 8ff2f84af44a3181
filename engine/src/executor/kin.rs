//! The processes of an attempt, found and killed wherever they hid.
//!
//! Called by `child` in the worker, and by `inside` in the attempt's own process. A group misses what
//! left it (`setsid`), the tree of parents misses what was adopted after its root had died: so both the
//! tree and a mark in the environment, which programs inherit and rarely drop, lead to them. It is no
//! jail: a process that empties its environment after the attempt's own process died is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use crate::task::PROCESS_MARK;

/// Killed processes are gone within milliseconds; one that the kernel holds is not waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// Between two looks: nobody is told when a stranger's child has died.
const PAUSE: Duration = Duration::from_millis(2);

/// How long an environment is read again that does not read whole: a process takes another program within
/// microseconds.
const WHOLE: Duration = Duration::from_millis(100);

/// Whose processes.
#[derive(Debug, Clone)]
pub(super) struct Kin {
    /// The attempt's own process; `None` once it is dead.
    pub(super) root: Option<Pid>,
    /// The value of [`PROCESS_MARK`] in their environment; `None` where the tree leads to all of them.
    pub(super) mark: Option<String>,
}

impl Kin {
    /// Kills all of them but the root and the caller, again until no look finds one: a process may
    /// fork between a look and its end. Blocks, for a second at the most.
    pub(super) fn kill(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = self.find();
            for process in &found {
                // Gone meanwhile is what was wanted.
                kill(*process, Signal::SIGKILL).ok();
            }
            if found.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(processes = ?found, "these processes of an attempt do not die");
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Those that run now.
    pub(super) fn find(&self) -> Vec<Pid> {
        let parents = parents();
        let mut found = self.below_root(&parents);
        if let Some(mark) = &self.mark {
            let needle = format!("{PROCESS_MARK}={mark}").into_bytes();
            let marked = parents.keys().filter(|process| !found.contains(process) && is_marked(**process, &needle));
            let marked: Vec<_> = marked.copied().collect();
            found.extend(marked);
        }
        found.remove(&getpid().as_raw());
        if let Some(root) = self.root {
            found.remove(&root.as_raw());
        }
        found.into_iter().map(Pid::from_raw).collect()
    }

    fn below_root(&self, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        let Some(root) = self.root else { return found };
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (process, parent) in parents {
            children.entry(*parent).or_default().push(*process);
        }
        let mut next = vec![root.as_raw()];
        while let Some(parent) = next.pop() {
            for child in children.get(&parent).into_iter().flatten() {
                // A look is no snapshot: ids that were used again must not lead in circles.
                if found.insert(*child) {
                    next.push(*child);
                }
            }
        }
        found
    }
}

/// Every process that runs, and its parent. The dead who wait to be reaped are not among them; their
/// children have another parent by then.
fn parents() -> BTreeMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    processes.filter_map(|process| Some((process, parent(process)?))).collect()
}

fn parent(process: i32) -> Option<i32> {
    stat(process)?.get(1)?.parse().ok()
}

/// What the kernel tells of a process that runs, from its state on.
fn stat(process: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // `pid (name) state parent ...`, and the name may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().map(str::to_owned).collect();
    let runs = fields.first().is_some_and(|state| !matches!(state.as_str(), "Z" | "X"));
    runs.then_some(fields)
}

/// Whether a process has this variable in its environment. Others' environments can not be read, and are
/// not ours. While a process takes another program, its environment reads as empty or in part: such a
/// reading proves nothing, and is made again.
fn is_marked(process: i32, needle: &[u8]) -> bool {
    let deadline = Instant::now() + WHOLE;
    loop {
        let before = place(process);
        let Ok(environment) = fs::read(format!("/proc/{process}/environ")) else { return false };
        if environment.split(|byte| *byte == 0).any(|variable| variable == needle) {
            return true;
        }
        let Some(Place { memory, code, start, end }) = place(process) else { return false };
        let is_whole = code > 0 && end.checked_sub(start) == u64::try_from(environment.len()).ok();
        if memory == 0 || (is_whole && before == Some(Place { memory, code, start, end })) {
            return false;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::yield_now();
    }
}

/// Where a process has its memory: another program has other places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Its size in bytes; nothing for a thread of the kernel.
    memory: u64,
    /// Where the code begins: set after the environment is there.
    code: u64,
    start: u64,
    end: u64,
}

fn place(process: i32) -> Option<Place> {
    let fields = stat(process)?;
    // As proc(5) counts them; the first that is read is the third, the state.
    let field = |at: usize| fields.get(at - 3).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    Some(Place { memory: field(23), code: field(26), start: field(50), end: field(51) })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that prints the ids of what it started, one per line, and the ids.
    fn start(script: &str, mark: &str) -> (Child, Vec<i32>) {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).env(PROCESS_MARK, mark).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut ids = Vec::new();
        loop {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut out, &mut line).expect("text");
            match line.trim().parse() {
                Ok(id) => ids.push(id),
                Err(_) => return (child, ids),
            }
        }
    }

    fn all_gone(ids: &[i32]) -> bool {
        ids.iter().all(|id| parent(*id).is_none())
    }

    #[test]
    fn a_daemon_is_found_by_its_mark_after_its_parents_are_gone() {
        let mark = format!("kin-test-mark-{}", getpid());
        let script = "setsid sh -c 'sleep 600 & echo $!; echo $$; echo; exec sleep 600' & exit";
        let (mut child, ids) = start(script, &mark);
        child.wait().expect("ended");
        assert_eq!(ids.len(), 2);
        let kin = Kin { root: None, mark: Some(mark) };
        let found: Vec<_> = kin.find().into_iter().map(Pid::as_raw).collect();
        assert!(ids.iter().all(|id| found.contains(id)), "{ids:?} in {found:?}");
        kin.kill();
        assert!(all_gone(&ids) && all_gone(&found), "{ids:?}, {found:?}");
        assert!(kin.find().is_empty());
    }

    #[test]
    fn a_process_is_found_while_it_takes_another_program() {
        let mark = format!("kin-test-exec-{}", getpid());
        let (mut child, _) = start("echo; exec sh -c 'exec sh -c \"$0\" \"$0\"' 'exec sh -c \"$0\" \"$0\"'", &mark);
        let id = i32::try_from(child.id()).expect("an id");
        let needle = format!("{PROCESS_MARK}={mark}").into_bytes();
        let missed = (0..20_000).filter(|_| !is_marked(id, &needle)).count();
        child.kill().expect("it runs");
        child.wait().expect("ended");
        assert_eq!(missed, 0);
    }

    #[test]
    fn a_process_with_an_empty_environment_is_not_waited_for() {
        let (mut child, ids) = start("env -i sleep 600 & echo $!; echo; wait", "kin-test-empty");
        let began = Instant::now();
        let found = Kin { root: None, mark: Some("kin-test-nobody".into()) }.find();
        assert!(found.is_empty(), "{found:?}");
        assert!(began.elapsed() < LIMIT, "it was waited for");
        ids.iter().for_each(|process| kill(Pid::from_raw(*process), Signal::SIGKILL).expect("it runs"));
        child.wait().expect("ended");
    }

    #[test]
    fn the_tree_leads_to_those_who_dropped_the_mark() {
        let script = "env -i sh -c 'env -i sleep 600 & echo $!; echo $$; echo; wait'";
        let (mut child, ids) = start(script, "kin-test-tree");
        let id = i32::try_from(child.id()).expect("an id");
        let kin = Kin { root: Some(Pid::from_raw(id)), mark: None };
        assert_eq!(ids.len(), 2);
        let found: Vec<_> = kin.find().into_iter().map(Pid::as_raw).collect();
        assert!(found.contains(&ids[0]), "{ids:?} in {found:?}");
        assert!(!found.contains(&id), "the root is spared");
        kin.kill();
        // Its parent may have died first: then nothing leads to it any more while it ends, too.
        let deadline = Instant::now() + Duration::from_secs(10);
        while parent(ids[0]).is_some() {
            assert!(Instant::now() < deadline, "{ids:?} runs on");
            std::thread::yield_now();
        }
        child.kill().ok();
        child.wait().expect("ended");
    }
}
