//! `headworks runs logs`: what a run's attempts printed, afterwards or while they run.
//!
//! Called by `runs`. Reads the chunks that workers put to the artifact store, task by task in the
//! order of the DAG, attempt by attempt; a follower prints them in the order in which they come.

use std::collections::{BTreeSet, HashMap};
use std::io::IsTerminal;
use std::time::Duration;

use engine::artifact::{ArtifactStore, LogChunk};
use engine::id::{DagId, IdError, InstanceId, RunId, TaskId, TenantId};
use engine::run::is_terminal;
use engine::store::{OpenMode, RunView, Store};
use engine::task::{LogLine, LogStream};
use serde_json::{Value, json};

use super::{Session, tenant};
use crate::args::LogsArgs;
use crate::exit::Failure;
use crate::output::Output;

/// How often a follower looks: chunks come every two seconds.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &LogsArgs) -> Result<(), Failure> {
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(&args.run, tenant(args.tenant.as_deref())?.as_ref()).await?;
    let view = store.run_view(&whose, id).await?;
    let dag = DagId::parse(&view.summary.dag).map_err(|error| Failure::bug("the run's DAG has no id", error))?;
    let reader = Reader {
        artifacts: ArtifactStore::open(&session.config.artifacts.url)?,
        tenant: whose,
        dag,
        run: id,
        asked: args.task.as_deref().map(|text| asked(text, &view)).transpose()?,
        output: *session.output,
        is_terminal: std::io::stdout().is_terminal(),
    };
    if args.follow { reader.follow(&store, &view).await } else { reader.print_all(&view).await }
}

/// Whose lines are asked for: a task with all its elements, or one element.
struct Asked {
    task: TaskId,
    index: Option<u32>,
}

impl Asked {
    fn fits(&self, instance: &InstanceId) -> bool {
        self.task == instance.task && (self.index.is_none() || self.index == instance.index)
    }
}

fn asked(text: &str, view: &RunView) -> Result<Asked, Failure> {
    let parsed = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((task, index)) => index.parse().ok().map(|index| (task, Some(index))),
        None => Some((text, None)),
    };
    let wrong = |error: IdError| Failure::usage(format!("--task {text:?}: {error}"));
    let (task, index) = parsed.ok_or_else(|| Failure::usage(format!("--task {text:?} names no element")))?;
    let asked = Asked { task: TaskId::parse(task).map_err(wrong)?, index };
    if view.tasks.iter().any(|it| asked.fits(&it.instance)) {
        return Ok(asked);
    }
    let known: BTreeSet<_> = view.tasks.iter().map(|it| it.instance.task.as_str()).collect();
    let known: Vec<_> = known.into_iter().collect();
    Err(Failure::usage(format!("the run has no task {text}")).hint(format!("it has: {}", known.join(", "))))
}

struct Reader {
    artifacts: ArtifactStore,
    tenant: TenantId,
    dag: DagId,
    run: RunId,
    asked: Option<Asked>,
    output: Output,
    /// Whether what is printed is obeyed, not only read.
    is_terminal: bool,
}

impl Reader {
    /// Prints what there is.
    async fn print_all(&self, view: &RunView) -> Result<(), Failure> {
        let order: HashMap<_, _> = view.tasks.iter().enumerate().map(|(at, it)| (&it.instance, at)).collect();
        let mut chunks = self.chunks().await?;
        // Stable: attempts and chunks stay in their order.
        chunks.sort_by_key(|chunk| order.get(&chunk.instance).copied());
        if !self.output.is_json() {
            for chunk in &chunks {
                self.print(chunk).await?;
            }
            return Ok(());
        }
        // As it is read: the whole may be larger than memory.
        self.write(&format!("{{\"run_id\": \"{}\", \"lines\": [", self.run))?;
        let mut separator = "\n  ";
        for chunk in &chunks {
            for line in self.lines(chunk).await? {
                self.write(&format!("{separator}{}", shape(chunk, &line)))?;
                separator = ",\n  ";
            }
        }
        self.write("\n]}\n")
    }

    /// Prints what comes until the run has ended.
    async fn follow(&self, store: &Store, view: &RunView) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        let mut state = view.summary.state;
        loop {
            // Asked before the look: what a run's last attempt printed is there once the run has ended.
            let has_ended = is_terminal(state);
            for chunk in self.chunks().await? {
                if !seen.contains(&chunk.key) {
                    self.print(&chunk).await?;
                    seen.insert(chunk.key);
                }
            }
            if has_ended {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
            state = store.run_view(&self.tenant, self.run).await?.summary.state;
        }
    }

    async fn chunks(&self) -> Result<Vec<LogChunk>, Failure> {
        let instance = match &self.asked {
            Some(Asked { task, index: Some(index) }) => Some(InstanceId::new(task.clone(), Some(*index))),
            _ => None,
        };
        let mut chunks = self.artifacts.logs(&self.tenant, &self.dag, self.run, instance.as_ref()).await?;
        if let Some(asked) = &self.asked {
            chunks.retain(|chunk| asked.fits(&chunk.instance));
        }
        Ok(chunks)
    }

    /// A chunk's lines; what is no line (of a later version, say) is shown as it is.
    async fn lines(&self, chunk: &LogChunk) -> Result<Vec<LogLine>, Failure> {
        let bytes = self.artifacts.read_log(chunk).await?;
        let text = String::from_utf8_lossy(&bytes);
        let line = |text: &str| {
            serde_json::from_str(text).unwrap_or_else(|_| LogLine {
                v: 0,
                at: String::new(),
                stream: LogStream::Engine,
                line: text.to_owned(),
            })
        };
        Ok(text.lines().map(line).collect())
    }

    async fn print(&self, chunk: &LogChunk) -> Result<(), Failure> {
        for line in self.lines(chunk).await? {
            let text = match self.output.is_json() {
                true => shape(chunk, &line).to_string(),
                false => {
                    let mark = if line.stream == LogStream::Engine { "--- " } else { "" };
                    let shown = if self.is_terminal { harmless(&line.line) } else { line.line };
                    format!("{} {} | {mark}{shown}", line.at, chunk.instance)
                }
            };
            self.write(&format!("{text}\n"))?;
        }
        Ok(())
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        match self.output.raw(text.as_bytes()) {
            // Whoever closed the pipe has read enough: there is nobody to follow for.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            result => result.map_err(|error| Failure::file("can not write to standard output", error)),
        }
    }
}

/// A line as scripts read it.
fn shape(chunk: &LogChunk, line: &LogLine) -> Value {
    json!({
        "task": chunk.instance.task, "index": chunk.instance.index, "generation": chunk.generation,
        "epoch": chunk.epoch, "at": line.at, "stream": line.stream, "line": line.line,
    })
}

/// Without what a terminal would obey: a task's output is not to be trusted with it.
fn harmless(line: &str) -> String {
    let obeyed =
        |c: char| c != '\t' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
    line.chars().map(|c| if obeyed(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_no_escapes() {
        assert_eq!(harmless("\u{1b}[2Jgone\r\u{202e}txt\tend é"), "\u{fffd}[2Jgone\u{fffd}\u{fffd}txt\tend é");
    }
}
