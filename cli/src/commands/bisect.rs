//! `headworks artifacts bisect`: the first run between a good and a bad one whose artifact is bad.
//!
//! Halves the runs between the two, so that 1,000 nights take ten looks. It trusts that what is bad stays
//! bad, and looks at no run twice.

use std::path::Path;
use std::process::{Command, Stdio};

use engine::artifact::ArtifactStore;
use engine::id::{ArtifactName, DagId, InstanceId, RunId};
use engine::store::{OpenMode, Sighting};
use serde_json::json;

use super::{Session, instance, tenant};
use crate::args::BisectArgs;
use crate::exit::Failure;

/// How `git bisect` has a program say that it can not tell.
const CAN_NOT_TELL: i32 = 125;

/// What a look at a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Good,
    Bad,
    Unknown,
}

impl Judgement {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &BisectArgs) -> Result<(), Failure> {
    let (task, index) = instance(&args.task)?;
    let name = ArtifactName::parse(&args.name).map_err(|error| Failure::usage(error.to_string()))?;
    let store = session.store(OpenMode::Read).await?;
    let whose = tenant(args.tenant.as_deref())?;
    let (whose, good) = store.find_run(&args.good, whose.as_ref()).await?;
    let (_, bad) = store.find_run(&args.bad, Some(&whose)).await?;
    let dag = store.run_summary(&whose, good).await?.dag;
    let dag = DagId::parse(&dag).map_err(|error| Failure::bug("a stored DAG id is not valid", error))?;
    let what = InstanceId::new(task, index);
    let history = store.sightings((&whose, &dag), &what, &name).await?;
    let at = |run: RunId| {
        history.iter().position(|it| it.run == run).ok_or_else(|| {
            Failure::usage(format!("run {run} has no {name} of {what} as a run of DAG {dag}"))
                .hint("both runs have to be of one DAG, and the task has to have succeeded in them")
        })
    };
    let (from, to) = (at(good)?, at(bad)?);
    if from >= to {
        let message = format!("run {bad} does not come after run {good}");
        return Err(Failure::usage(message).hint("runs are in the order of what they are about"));
    }
    let between = history.get(from..=to).unwrap_or_default();
    let artifacts = ArtifactStore::open(&session.config.artifacts.url)?;
    let mut search = Search { session, artifacts, args, between, steps: Vec::new() };
    let (last_good, first_bad) = search.first_bad().await?;
    search.tell(last_good, first_bad);
    Ok(())
}

struct Search<'a> {
    session: &'a Session<'a>,
    artifacts: ArtifactStore,
    args: &'a BisectArgs,
    /// From the good run to the bad one.
    between: &'a [Sighting],
    steps: Vec<(usize, Judgement)>,
}

impl Search<'_> {
    /// Where it is good for the last time, and where it is bad for the first time; runs that nothing can be
    /// told of may lie between the two.
    async fn first_bad(&mut self) -> Result<(usize, usize), Failure> {
        let (mut good, mut bad) = (0, self.between.len() - 1);
        for (end, expected) in [(good, Judgement::Good), (bad, Judgement::Bad)] {
            let found = self.look(end).await?;
            if found != expected {
                let run = self.between[end].run;
                let message = format!("run {run} is {}, not {}", found.as_str(), expected.as_str());
                return Err(Failure::usage(message).hint("the search needs a good run and a later bad one"));
            }
        }
        while bad - good > 1 {
            // From the middle outward, past those that can not be told.
            let middle = good + (bad - good) / 2;
            let mut open: Vec<usize> = (good + 1..bad).collect();
            open.sort_by_key(|at| at.abs_diff(middle));
            let mut is_narrower = false;
            for at in open {
                if self.steps.iter().any(|(seen, _)| *seen == at) {
                    continue;
                }
                match self.look(at).await? {
                    Judgement::Good => good = at,
                    Judgement::Bad => bad = at,
                    Judgement::Unknown => continue,
                }
                is_narrower = true;
                break;
            }
            if !is_narrower {
                break;
            }
        }
        Ok((good, bad))
    }

    async fn look(&mut self, at: usize) -> Result<Judgement, Failure> {
        let sighting = &self.between[at];
        let judgement = match self.args.check.split_first() {
            None if sighting.artifact.digest == self.between[0].artifact.digest => Judgement::Good,
            None => Judgement::Bad,
            Some((program, arguments)) => {
                let scratch = tempfile::tempdir()
                    .map_err(|error| Failure::file("can not make a folder for a copy of an artifact", error))?;
                let found = self.artifacts.fetch(&sighting.artifact, scratch.path()).await?;
                // A copy: what judges must not be able to change what it judges.
                let copy = scratch.path().join(sighting.artifact.name.as_str());
                std::fs::copy(&found, &copy)
                    .map_err(|error| Failure::file(format!("can not copy {}", found.display()), error))?;
                judge(program, arguments, &copy)?
            }
        };
        self.session.output.note(&format!("run {} ({}): {}", sighting.run, sighting.logical_time, judgement.as_str()));
        self.steps.push((at, judgement));
        Ok(judgement)
    }

    fn tell(&self, last_good: usize, first_bad: usize) {
        let output = self.session.output;
        let (good, bad) = (&self.between[last_good], &self.between[first_bad]);
        let skipped = first_bad - last_good - 1;
        if output.is_json() {
            let shown = |it: &Sighting| {
                json!({ "run_id": it.run.to_string(), "logical_time": it.logical_time, "digest": it.artifact.digest,
                        "key": it.artifact.key })
            };
            let steps: Vec<_> = self
                .steps
                .iter()
                .map(|(at, judgement)| json!({ "run_id": self.between[*at].run.to_string(), "verdict": judgement.as_str() }))
                .collect();
            output.document(&json!({
                "first_bad": shown(bad), "last_good": shown(good), "unknown_between": skipped,
                "runs": self.between.len(), "steps": steps,
            }));
            return;
        }
        output.line(&format!("first bad: run {} ({})", bad.run, bad.logical_time));
        output.line(&format!("last good: run {} ({})", good.run, good.logical_time));
        if skipped > 0 {
            output.line(&format!("{skipped} run(s) between the two could not be told"));
        }
    }
}

/// Runs the program on a file, without a shell.
fn judge(program: &str, arguments: &[String], file: &Path) -> Result<Judgement, Failure> {
    let status = Command::new(program).args(arguments).arg(file).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.map_err(|error| Failure::file(format!("can not run {program}"), error))?;
    match status.code() {
        Some(0) => Ok(Judgement::Good),
        Some(CAN_NOT_TELL) => Ok(Judgement::Unknown),
        Some(_) => Ok(Judgement::Bad),
        None => Err(Failure::usage(format!("{program} was killed while it judged")).hint("run it on one file by hand")),
    }
}
