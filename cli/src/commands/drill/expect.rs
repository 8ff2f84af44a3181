//! Whether what a drill expects holds: read from the store and the artifact store, never from what a command says of
//! itself, but for `said`.

use std::collections::{BTreeMap, BTreeSet};

use engine::artifact::ArtifactStore;
use engine::drill::{Check, Expectation};
use engine::id::TenantId;
use engine::plan::Reason;
use engine::registry::ModelStatus;
use engine::run::TaskState;
use engine::store::{RunView, Store, TaskView};
use serde_json::{Value, json};

use super::evidence::Clock;
use super::perform::{Made, Performance, Verdict};
use super::stage::{Cast, Stage};
use crate::exit::Failure;

/// Found: whether it holds, and what was there.
type Found = (bool, String);

/// Looks at one expectation.
pub(super) async fn judge(stage: &Stage<'_>, performance: &Performance, it: &Expectation) -> Result<Verdict, Failure> {
    let store = stage.look().await?;
    let bench = Bench { stage, store: &store, performance };
    let found = match run_of(&it.check) {
        Some(run) => bench.of_runs(it, run).await?,
        None => bench.of_tenants(it).await?,
    };
    let passed = !found.is_empty() && found.iter().all(|(_, (passed, _))| *passed);
    let several = found.len() > 1;
    let details: Vec<_> = found
        .into_iter()
        .map(|(label, (_, detail))| if several { format!("{label}: {detail}") } else { detail })
        .collect();
    let detail = if details.is_empty() { "there is no such run".to_owned() } else { details.join("; ") };
    Ok(Verdict { name: it.name.clone(), passed, detail })
}

/// All that a tenant has, as one text: equal texts, nothing touched.
pub(super) async fn fingerprint(stage: &Stage<'_>, tenant: &TenantId) -> Result<String, Failure> {
    let store = stage.look().await?;
    let mut runs = Vec::new();
    // More runs than a drill makes.
    for summary in store.runs(Some(tenant), None, 1_000).await? {
        let view = store.run_view(tenant, summary.run_id).await?;
        let tasks: Vec<_> = view
            .tasks
            .iter()
            .map(|it| json!([it.instance.to_string(), it.state, it.generation, it.attempts]))
            .collect();
        let artifacts: Vec<_> = view.artifacts.iter().map(|it| json!([it.artifact.key, it.artifact.digest])).collect();
        runs.push(json!([view.summary.run_id.to_string(), view.summary.state, tasks, artifacts]));
    }
    let models = store.models(Some(tenant), None).await?;
    let models: Vec<_> =
        models.iter().map(|it| json!([it.version.name, it.version.version, it.version.status])).collect();
    Ok(json!({ "runs": runs, "models": models }).to_string())
}

/// The step whose runs a check is about.
fn run_of(check: &Check) -> Option<&String> {
    match check {
        Check::State { run, .. }
        | Check::Task { run, .. }
        | Check::Attempts { run, .. }
        | Check::Reused { run, .. }
        | Check::SameArtifacts { run, .. }
        | Check::Whole { run }
        | Check::Output { run, .. } => Some(run),
        _ => None,
    }
}

struct Bench<'a> {
    stage: &'a Stage<'a>,
    store: &'a Store,
    performance: &'a Performance,
}

impl Bench<'_> {
    async fn of_runs(&self, it: &Expectation, step: &str) -> Result<Vec<(String, Found)>, Failure> {
        let mut found = Vec::new();
        for made in self.performance.runs(step, it.tenant.as_ref()) {
            let view = self.store.run_view(&made.tenant, made.run).await?;
            found.push((made.label.clone(), self.of_run(&it.check, made, &view).await?));
        }
        Ok(found)
    }

    async fn of_run(&self, check: &Check, made: &Made, view: &RunView) -> Result<Found, Failure> {
        Ok(match check {
            Check::State { state, .. } => {
                (view.summary.state.as_str() == state, format!("run {} is {}", made.run, view.summary.state))
            }
            Check::Task { instance, state, attempts, generation, reason, .. } => {
                let of_it = |it: &&TaskView| {
                    it.instance.task == instance.task
                        && (instance.index.is_none() || instance.index == it.instance.index)
                };
                let tasks: Vec<_> = view.tasks.iter().filter(of_it).collect();
                let fits = |it: &&TaskView| {
                    let why = it.reason.as_ref().map(ToString::to_string).unwrap_or_default();
                    state.as_ref().is_none_or(|state| it.state.as_str() == state)
                        && attempts.is_none_or(|attempts| it.attempts == attempts)
                        && generation.is_none_or(|generation| it.generation == generation)
                        && reason.as_ref().is_none_or(|reason| why.contains(reason.as_str()))
                };
                (!tasks.is_empty() && tasks.iter().all(fits), task_words(&tasks))
            }
            Check::Attempts { attempts, .. } => {
                let others: Vec<_> = view.tasks.iter().filter(|it| !is_first(it, *attempts)).collect();
                match others.is_empty() {
                    true => (true, format!("{} task instances took {attempts} attempt(s) each", view.tasks.len())),
                    false => (false, task_words(&others)),
                }
            }
            Check::Reused { from, tasks, .. } => self.reused(made, view, (from, tasks)).await?,
            Check::SameArtifacts { other, names, .. } => {
                let Some(other) = self.other(made, other).await? else { return Ok((false, "no other run".to_owned())) };
                let named = |key: &&(String, String)| names.iter().any(|name| name.as_str() == key.1);
                let (mine, his) = (digests(view), digests(&other));
                let wanted: Vec<_> =
                    mine.keys().chain(his.keys()).filter(named).collect::<BTreeSet<_>>().into_iter().collect();
                let differs: Vec<_> = wanted.iter().filter(|key| mine.get(**key) != his.get(**key)).collect();
                match differs.first() {
                    Some((task, name)) => (false, format!("{name} of {task} is another")),
                    None => match names.iter().find(|name| !wanted.iter().any(|(_, it)| *it == name.as_str())) {
                        Some(name) => (false, format!("neither run made {name}")),
                        None => (!wanted.is_empty(), format!("{} artifacts have the same digests", wanted.len())),
                    },
                }
            }
            Check::Whole { .. } => self.whole(view).await?,
            Check::Output { path, value, .. } => {
                let pointer = format!("/{}", path.replace('.', "/"));
                let there = view.outputs.pointer(&pointer).unwrap_or(&Value::Null);
                let holds = match (there, value) {
                    (Value::String(there), Value::String(part)) => there.contains(part.as_str()),
                    (there, value) => there == value,
                };
                (holds, format!("{path} is {there}"))
            }
            _ => (false, "not about a run".to_owned()),
        })
    }

    /// The run of another step, of the same tenant.
    async fn other(&self, made: &Made, step: &str) -> Result<Option<RunView>, Failure> {
        match self.performance.runs(step, Some(&made.label)).next() {
            Some(other) => Ok(Some(self.store.run_view(&other.tenant, other.run).await?)),
            None => Ok(None),
        }
    }

    async fn reused(
        &self,
        made: &Made,
        view: &RunView,
        (from, tasks): (&str, &[engine::id::TaskId]),
    ) -> Result<Found, Failure> {
        let Some(earlier) = self.other(made, from).await? else { return Ok((false, "no earlier run".to_owned())) };
        let is_reused = |it: &&TaskView| matches!(it.reason, Some(Reason::Reused { .. }));
        let reused: BTreeSet<String> =
            view.tasks.iter().filter(is_reused).map(|it| it.instance.task.to_string()).collect();
        let wanted: BTreeSet<String> = tasks.iter().map(ToString::to_string).collect();
        let (mine, his) = (digests(view), digests(&earlier));
        let of_reused = |key: &&(String, String)| {
            wanted.iter().any(|task| key.0 == *task || key.0.starts_with(&format!("{task}[")))
        };
        let kept: Vec<_> = his.keys().filter(of_reused).collect();
        let same = kept.iter().all(|key| mine.get(*key) == his.get(*key));
        let list = reused.iter().cloned().collect::<Vec<_>>().join(", ");
        let artifacts = if same { "the old ones by digest" } else { "others" };
        let detail = format!("taken over: {list}; their {} artifacts are {artifacts}", kept.len());
        Ok((reused == wanted && same && !kept.is_empty(), detail))
    }

    async fn whole(&self, view: &RunView) -> Result<Found, Failure> {
        let artifacts = ArtifactStore::open(&self.stage.session.config.artifacts.url)?;
        let doubled = self.store.doubled_artifacts(&view.summary.tenant, view.summary.run_id).await?;
        if let Some((task, name)) = doubled.first() {
            return Ok((false, format!("{name} of {task} is there twice")));
        }
        for it in &view.artifacts {
            if let Err(error) = artifacts.verify(&it.artifact).await {
                return Ok((false, error.to_string()));
            }
        }
        let count = view.artifacts.len();
        Ok((count > 0, format!("{count} artifacts, each there once and as it was published")))
    }

    async fn of_tenants(&self, it: &Expectation) -> Result<Vec<(String, Found)>, Failure> {
        match &it.check {
            Check::DetectedWithin(limit) => {
                let clock = Clock::read(self.stage, self.performance, self.store).await?;
                return Ok(vec![(String::new(), within("detected", clock.detection(), *limit))]);
            }
            Check::RecoveredWithin(limit) => {
                let clock = Clock::read(self.stage, self.performance, self.store).await?;
                return Ok(vec![(String::new(), within("recovered", clock.recovery(), *limit))]);
            }
            _ => {}
        }
        let whose = it.tenant.as_ref();
        let mut found = Vec::new();
        for cast in self.stage.casts.iter().filter(|cast| whose.is_none_or(|label| *label == cast.label)) {
            if let Some(one) = self.of_tenant(&it.check, cast).await? {
                found.push((cast.label.clone(), one));
            }
        }
        Ok(found)
    }

    async fn of_tenant(&self, check: &Check, cast: &Cast) -> Result<Option<Found>, Failure> {
        Ok(match check {
            Check::Champion { model, version } => {
                let rows = self.store.models(Some(&cast.tenant), Some(model)).await?;
                let champion = rows.iter().find(|row| row.version.status == ModelStatus::Champion);
                let is = champion.map_or(0, |row| row.version.version);
                let words =
                    if is == 0 { "there is no champion".to_owned() } else { format!("the champion is version {is}") };
                Some((is == *version, words))
            }
            Check::Unchanged { since } => {
                let before = self.performance.marks.get(&(since.clone(), cast.label.clone()));
                let now = fingerprint(self.stage, &cast.tenant).await?;
                let same = before.is_some_and(|before| *before == now);
                let words = if same { "runs, artifacts and models are as they were" } else { "something is another" };
                Some((same, words.to_owned()))
            }
            Check::Alert { kind, is_raised } => {
                // Resolved ones, too, and more than a drill raises.
                let all = self.store.alerts(Some(&cast.tenant), true, 1_000).await?;
                let found = all.iter().find(|it| it.kind.as_str() == *kind);
                let words = found.map_or_else(|| format!("no alert {kind}"), |it| format!("{kind}: {}", it.message));
                Some((found.is_some() == *is_raised, words))
            }
            Check::Said { step, text } => {
                let mut of_step =
                    self.performance.acts.iter().filter(|act| act.step == *step && act.label == cast.label);
                let Some(act) = of_step.next_back() else { return Ok(None) };
                let words = if act.said.contains(text.as_str()) { "was" } else { "was not" };
                Some((act.said.contains(text.as_str()), format!("{text:?} {words} printed")))
            }
            _ => None,
        })
    }
}

/// Digests of what a run's tasks made, by task instance and name.
fn digests(view: &RunView) -> BTreeMap<(String, String), String> {
    let ended_well: BTreeSet<String> =
        view.tasks.iter().filter(|it| it.state == TaskState::Succeeded).map(|it| it.instance.to_string()).collect();
    let made = view.artifacts.iter().filter(|it| ended_well.contains(&it.producer.to_string()));
    made.map(|it| ((it.producer.to_string(), it.artifact.name.to_string()), it.artifact.digest.to_string())).collect()
}

/// Whether nobody asked for it again, and it took so many attempts: each generation counts its own.
fn is_first(it: &TaskView, attempts: i64) -> bool {
    it.attempts == attempts && it.generation == 1
}

fn task_words(tasks: &[&TaskView]) -> String {
    let one = |it: &&TaskView| {
        let why = it.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let which = if it.generation > 1 { format!(" of generation {}", it.generation) } else { String::new() };
        format!("{} is {} after {} attempt(s){which}{why}", it.instance, it.state, it.attempts)
    };
    if tasks.is_empty() {
        "there is no such task".to_owned()
    } else {
        tasks.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

fn within(what: &str, seconds: Option<f64>, limit: std::time::Duration) -> Found {
    match seconds {
        Some(seconds) => (seconds <= limit.as_secs_f64(), format!("{what} {seconds:.1} s after the first fault")),
        None => (false, format!("not {what}")),
    }
}

#[cfg(test)]
mod tests {
    use engine::drill::ALERTS;
    use engine::id::{InstanceId, TaskId};
    use engine::store::AlertKind;

    use super::*;

    #[test]
    fn a_drill_names_alerts_as_the_store_does() {
        assert_eq!(ALERTS, AlertKind::ALL.map(AlertKind::as_str));
    }

    #[test]
    fn attempts_are_those_of_the_first_generation() {
        let task = |generation, attempts| TaskView {
            instance: InstanceId::new(TaskId::parse("train").expect("an id"), None),
            state: TaskState::Succeeded,
            generation,
            attempts,
            seconds: None,
            reason: None,
        };
        assert!(is_first(&task(1, 1), 1));
        assert!(!is_first(&task(2, 1), 1), "it ran again");
        assert!(!is_first(&task(1, 2), 1));
    }
}
