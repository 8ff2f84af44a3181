//! A drill performed: its steps one after the other, and after each what has to hold by then.
//!
//! A step that ends otherwise than its file says is an expectation that does not hold; the drill goes on, since what
//! the later ones find belongs to the evidence.

use std::collections::BTreeMap;

use engine::clock::{Clock, SystemClock};
use engine::drill::{Action, Exit, Step, Trouble, Which};
use engine::id::{RunId, TenantId};
use engine::store::Outage;
use tokio::sync::Notify;

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
    /// Performs the drill.
    pub(super) async fn of(stage: &Stage<'_>) -> Result<Self, Failure> {
        let mut performance = Self::default();
        for step in &stage.drill.steps {
            let whose = step.tenant.as_ref();
            for cast in stage.casts.iter().filter(|cast| whose.is_none_or(|label| *label == cast.label)) {
                performance.step(stage, (step, cast)).await?;
            }
            performance.mark(stage, step).await?;
            performance.judge(stage, Some(&step.name)).await?;
        }
        performance.judge(stage, None).await?;
        Ok(performance)
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
        let is_asked_for = |it: &engine::drill::Expectation| matches!(&it.check, engine::drill::Check::Unchanged { since } if *since == step.name);
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
        let shown = if stage.casts.len() > 1 { format!(" ({})", cast.label) } else { String::new() };
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
        for trouble in stage.troubles(&step.name, cast) {
            let (Trouble::Input(damage), Some(input)) = (trouble, &cast.input) else { continue };
            input.damage(*damage)?;
            let what = format!("the input is damaged: {}", damage.words());
            self.mishaps.push(Mishap { at: SystemClock.now(), label: cast.label.clone(), what });
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
        let outage = stage.troubles(&step.name, cast).find_map(|it| match it {
            Trouble::Database { task, lasts } => Some((task, *lasts)),
            _ => None,
        });
        let Some((task, lasts)) = outage else { return stage.command(&args, None).await };
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
        self.mishaps.push(Mishap { at, label: cast.label.clone(), what: what? });
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

async fn disturb(stage: &Stage<'_>, cast: &Cast, run: RunId, lasts: std::time::Duration) -> Result<String, Failure> {
    if let Some(took) = stage.restart_database().await? {
        return Ok(format!("the database is restarted by the configured command, in {:.1} s", took.as_secs_f64()));
    }
    let outage = Outage { application: stage.application.clone(), lasts };
    let ended = stage.look().await?.disturb(&cast.tenant, run, &outage).await?;
    let seconds = lasts.as_secs_f64();
    Ok(match ended {
        0 => format!("the database is locked against every writer for {seconds:.1} s"),
        _ => format!("the database ends every connection of the worker for {seconds:.1} s ({ended} of them)"),
    })
}
