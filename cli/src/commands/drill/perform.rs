//! A drill performed: its steps one after the other, and after each what has to hold by then.
//!
//! A step that ends otherwise than its file says is an expectation that does not hold; the drill goes on, since what
//! the later ones find belongs to the evidence.

use std::collections::BTreeMap;

use engine::clock::{Clock, SystemClock};
use engine::drill::{Action, Check, Exit, Expectation, Fault, Step, Trouble, Which};
use engine::id::{AttemptNumber, Generation, RunId, TenantId};
use engine::store::{Outage, Store, Struck};
use tokio::sync::Notify;

use super::evidence::trouble_words;
use super::expect;
use super::stage::{Cast, Stage, Told};
use crate::exit::Failure;

/// What a drill did and found.
#[derive(Default)]
pub(super) struct Performance {
    pub(super) acts: Vec<Act>,
    pub(super) mishaps: Vec<Mishap>,
    pub(super) made: Vec<Made>,
    pub(super) verdicts: Vec<Verdict>,
    /// What each tenant had after each step: (step, tenant) -> its runs, artifacts and champion.
    pub(super) marks: BTreeMap<(String, String), String>,
}

/// A step done for a tenant.
pub(super) struct Act {
    pub(super) step: String,
    pub(super) label: String,
    /// What a person would have typed, or done.
    pub(super) what: String,
    /// Whether it puts something right by itself.
    pub(super) is_remedy: bool,
    pub(super) at: i64,
    pub(super) ended_at: i64,
    pub(super) exit: Option<Exit>,
    /// What the command printed.
    pub(super) said: String,
    /// Warnings on its standard error: how a worker tells what it meets.
    pub(super) warnings: Vec<(i64, String)>,
}

/// A fault that the drill itself caused.
pub(super) struct Mishap {
    /// Its place among the drill's faults.
    pub(super) fault: usize,
    pub(super) at: i64,
    pub(super) label: String,
    pub(super) what: String,
}

/// A run of the drill.
pub(super) struct Made {
    pub(super) step: String,
    pub(super) label: String,
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
}

/// An expectation and what was found.
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) detail: String,
}

impl Performance {
    /// Performs the drill as far as it goes: an error on the way is an expectation that does not hold, and what was
    /// found before it belongs to the evidence.
    pub(super) async fn of(stage: &Stage<'_>) -> Self {
        let mut performance = Self::default();
        if let Err(failure) = performance.perform(stage).await {
            let name = "the drill is performed to its end".to_owned();
            performance.verdicts.push(Verdict { name, passed: false, detail: failure.words() });
        }
        performance
    }

    async fn perform(&mut self, stage: &Stage<'_>) -> Result<(), Failure> {
        for step in &stage.drill.steps {
            let whose = step.tenant.as_ref();
            for cast in stage.casts.iter().filter(|cast| whose.is_none_or(|label| *label == cast.label)) {
                self.step(stage, (step, cast)).await?;
            }
            self.mark(stage, step).await?;
            self.judge(stage, Some(&step.name)).await?;
        }
        self.judge(stage, None).await?;
        self.look_for_faults(stage).await
    }

    /// A fault that never struck has shown nothing, whatever else holds.
    async fn look_for_faults(&mut self, stage: &Stage<'_>) -> Result<(), Failure> {
        let store = stage.look().await?;
        for (at, fault) in stage.drill.faults.iter().enumerate() {
            for label in stage.drill.struck_by(fault) {
                let passed = match &fault.what {
                    Trouble::Attempt(wanted) => self.is_on_record(&store, (&fault.step, label), wanted).await?,
                    _ => self.mishaps.iter().any(|it| it.fault == at && it.label == label),
                };
                let shown = stage.suffix(label);
                let what = trouble_words(&fault.what);
                let detail = if passed { what } else { format!("it never did: {what}") };
                self.verdicts.push(Verdict { name: format!("fault {}{shown} strikes", at + 1), passed, detail });
            }
        }
        Ok(())
    }

    async fn is_on_record(&self, store: &Store, (step, label): (&str, &str), wanted: &Fault) -> Result<bool, Failure> {
        let Some(made) = self.made.iter().find(|it| it.step == step && it.label == label) else { return Ok(false) };
        let struck = store.faults_of(&made.tenant, made.run).await?;
        // Nothing else is ever struck, and so on record, than a first generation.
        let is_it = |it: &Struck| {
            wanted.strikes(&it.instance, Generation(1), AttemptNumber(it.attempt)) && it.fault == wanted.what
        };
        Ok(struck.iter().any(is_it))
    }

    /// Whether everything holds.
    pub(super) fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passed)
    }

    /// The runs that a step made, of one tenant or of all.
    pub(super) fn runs<'a>(&'a self, step: &'a str, label: Option<&'a String>) -> impl Iterator<Item = &'a Made> {
        self.made.iter().filter(move |it| it.step == step && label.is_none_or(|label| *label == it.label))
    }

    async fn judge(&mut self, stage: &Stage<'_>, after: Option<&String>) -> Result<(), Failure> {
        for expectation in stage.drill.expectations.iter().filter(|it| it.after.as_ref() == after) {
            let verdict = expect::judge(stage, self, expectation).await?;
            stage.session.output.note(&format!("  {} {}", if verdict.passed { "ok" } else { "--" }, verdict.name));
            self.verdicts.push(verdict);
        }
        Ok(())
    }

    /// Notes what every tenant has: who was not to be touched shows itself in what he had before.
    async fn mark(&mut self, stage: &Stage<'_>, step: &Step) -> Result<(), Failure> {
        let is_asked_for = |it: &Expectation| matches!(&it.check, Check::Unchanged { since } if *since == step.name);
        if !stage.drill.expectations.iter().any(is_asked_for) {
            return Ok(());
        }
        for cast in &stage.casts {
            let mark = expect::fingerprint(stage, &cast.tenant).await?;
            self.marks.insert((step.name.clone(), cast.label.clone()), mark);
        }
        Ok(())
    }

    async fn step(&mut self, stage: &Stage<'_>, (step, cast): (&Step, &Cast)) -> Result<(), Failure> {
        let shown = stage.suffix(&cast.label);
        stage.session.output.note(&format!("step {}{shown}: {}", step.name, step.action.as_str()));
        if step.action == Action::RestoreInput {
            return self.restore(step, cast);
        }
        let Some(args) = self.arguments(stage, (step, cast)).await? else {
            let detail = format!("no run was made by the step that {} refers to", step.name);
            self.verdicts.push(Verdict { name: format!("step {}{shown}", step.name), passed: false, detail });
            return Ok(());
        };
        let told = self.give(stage, (step, cast), &args).await?;
        self.conclude((step, cast), told, &shown);
        Ok(())
    }

    fn restore(&mut self, step: &Step, cast: &Cast) -> Result<(), Failure> {
        let at = SystemClock.now();
        if let Some(input) = &cast.input {
            input.restore()?;
        }
        self.acts.push(Act {
            step: step.name.clone(),
            label: cast.label.clone(),
            what: "the good input is put back".to_owned(),
            is_remedy: false,
            at,
            ended_at: SystemClock.now(),
            exit: None,
            said: String::new(),
            warnings: Vec::new(),
        });
        Ok(())
    }

    /// The step's command; a run is made first, its input damaged before that. `None`: what it refers to is not there.
    async fn arguments(
        &mut self,
        stage: &Stage<'_>,
        (step, cast): (&Step, &Cast),
    ) -> Result<Option<Vec<String>>, Failure> {
        let of = |step: &String| self.runs(step, Some(&cast.label)).next().map(|made| made.run.to_string());
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let reason = format!("drill {}, step {}", stage.drill.id, step.name);
        let mut args = match &step.action {
            Action::Run { params } => {
                self.damage(stage, (step, cast))?;
                let run = stage.make_run((&step.name, cast), params).await?;
                let (tenant, label) = (cast.tenant.clone(), cast.label.clone());
                self.made.push(Made { step: step.name.clone(), label, tenant, run });
                words(&["run", "--resume", &run.to_string()])
            }
            Action::Resume { of: made } => {
                let Some(run) = of(made) else { return Ok(None) };
                words(&["run", "--resume", &run])
            }
            Action::Retry { of: made } => {
                let Some(run) = of(made) else { return Ok(None) };
                words(&["retry", &run, "--reason", &reason])
            }
            Action::Replay { of: made, which } => {
                let Some(run) = of(made) else { return Ok(None) };
                let which = match which {
                    Which::Failed => words(&["--from", "failed"]),
                    Which::Plan => words(&["--from", "failed", "--plan"]),
                    Which::Task(task) => words(&["--task", task.as_str()]),
                    Which::All => words(&["--all"]),
                    Which::Verify => words(&["--all", "--verify"]),
                };
                [words(&["replay", &run]), which].concat()
            }
            Action::Promote { model, version } => {
                words(&["models", "promote", model.as_str(), &version.to_string(), "--force", "--reason", &reason])
            }
            Action::Rollback { model } => words(&["models", "rollback", model.as_str(), "--reason", &reason]),
            Action::Pause => words(&["dag", "pause", stage.dag.id.as_str(), "--reason", &reason]),
            Action::Unpause => words(&["dag", "resume", stage.dag.id.as_str(), "--reason", &reason]),
            Action::RestoreInput => return Ok(None),
        };
        args.extend(words(&["--tenant", cast.tenant.as_str(), "--json"]));
        Ok(Some(args))
    }

    fn damage(&mut self, stage: &Stage<'_>, (step, cast): (&Step, &Cast)) -> Result<(), Failure> {
        for (fault, trouble) in stage.troubles(&step.name, cast) {
            let (Trouble::Input(damage), Some(input)) = (trouble, &cast.input) else { continue };
            input.damage(*damage)?;
            let what = format!("the input is damaged: {}", damage.words());
            self.mishaps.push(Mishap { fault, at: SystemClock.now(), label: cast.label.clone(), what });
        }
        Ok(())
    }

    /// Gives the command; a fault of the database comes as soon as its task has started.
    async fn give(
        &mut self,
        stage: &Stage<'_>,
        (step, cast): (&Step, &Cast),
        args: &[String],
    ) -> Result<Told, Failure> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let outage = stage.troubles(&step.name, cast).find_map(|(fault, it)| match it {
            Trouble::Database { task, lasts } => Some((fault, task, *lasts)),
            _ => None,
        });
        let Some((fault, task, lasts)) = outage else { return stage.command(&args, None).await };
        let run = self.runs(&step.name, Some(&cast.label)).next().map(|made| made.run);
        let started = Notify::new();
        let command = stage.command(&args, Some((task.as_str(), &started)));
        tokio::pin!(command);
        let Some(run) = run else { return command.await };
        tokio::select! {
            told = &mut command => return told,
            () = started.notified() => {}
        }
        let at = SystemClock.now();
        let (told, what) = tokio::join!(command, disturb(stage, cast, run, lasts));
        match what? {
            Some(what) => self.mishaps.push(Mishap { fault, at, label: cast.label.clone(), what }),
            None => {
                let (name, detail) =
                    (format!("step {} loses its database", step.name), "no connection was ended".into());
                self.verdicts.push(Verdict { name, passed: false, detail });
            }
        }
        told
    }

    fn conclude(&mut self, (step, cast): (&Step, &Cast), told: Told, shown: &str) {
        if let Action::Replay { .. } = step.action
            && let Some(run) = told.json()["run_id"].as_str().and_then(|text| RunId::parse(text).ok())
            && step.action.makes_run()
        {
            let (tenant, label) = (cast.tenant.clone(), cast.label.clone());
            self.made.push(Made { step: step.name.clone(), label, tenant, run });
        }
        let words = |exit: Exit| match exit {
            Exit::Code(code) => format!("exit code {code}"),
            Exit::Killed => "SIGKILL".to_owned(),
        };
        let ended_at = SystemClock.now();
        let lines: Vec<&str> = told.stderr.iter().map(|(_, line)| line.as_str()).collect();
        let said = format!("{}\n{}", told.stdout, lines.join("\n"));
        let last = lines.iter().rev().find(|line| !line.trim().is_empty()).copied().unwrap_or_default();
        let detail = match told.exit == step.exit {
            true => format!("{} after {:.1} s, as it has to", words(told.exit), told.seconds),
            false => format!("{} where {} was to come; it said last: {last}", words(told.exit), words(step.exit)),
        };
        let name = format!("step {}{shown} ends with {}", step.name, words(step.exit));
        self.verdicts.push(Verdict { name, passed: told.exit == step.exit, detail });
        let is_warning = |line: &str| line.contains(" WARN ") && !line.contains("a drill injects a fault");
        self.acts.push(Act {
            step: step.name.clone(),
            label: cast.label.clone(),
            what: told.command,
            is_remedy: matches!(step.action, Action::Rollback { .. }) && told.exit == Exit::Code(0),
            at: told.at,
            ended_at,
            exit: Some(told.exit),
            warnings: told.stderr.into_iter().filter(|(_, line)| is_warning(line)).collect(),
            said,
        });
    }
}

/// What was done to the database; `None`: nobody noticed, since nobody was connected.
async fn disturb(
    stage: &Stage<'_>,
    cast: &Cast,
    run: RunId,
    lasts: std::time::Duration,
) -> Result<Option<String>, Failure> {
    if let Some(took) = stage.restart_database().await? {
        let seconds = took.as_secs_f64();
        return Ok(Some(format!("the database is restarted by the configured command, in {seconds:.1} s")));
    }
    let outage = Outage { application: stage.application.clone(), lasts };
    let ended = stage.look().await?.disturb(&cast.tenant, run, &outage).await?;
    let seconds = lasts.as_secs_f64();
    Ok(match ended {
        None => Some(format!("the database is locked against every writer for {seconds:.1} s")),
        Some(0) => None,
        Some(ended) => {
            Some(format!("the database ends every connection of the worker for {seconds:.1} s ({ended} of them)"))
        }
    })
}
