//! What a drill leaves: one JSON document with everything, a page and an incident log made from it.
//!
//! The document is what the store keeps; the other two are made anew whenever somebody asks (`page`).

use std::collections::BTreeSet;
use std::path::Path;

use engine::clock::{parse_rfc3339, rfc3339};
use engine::drill::{Declared, Exit, Family, Trouble};
use engine::run::RunState;
use engine::store::{EventView, RunView, Store, Struck};
use serde_json::{Value, json};

use super::super::shapes;
use super::page;
use super::perform::{Made, Performance};
use super::stage::Stage;
use crate::exit::Failure;

/// The version of the document.
const VERSION: u32 = 1;

/// The document.
pub(super) struct Evidence {
    pub(super) document: Value,
}

/// What happened, by one clock: faults, their first trace, the end of the trouble. Instants are microseconds since
/// 1970 by the database's clock or this machine's, which are one on SQLite and close elsewhere.
pub(super) struct Clock {
    pub(super) faults: Vec<(i64, String)>,
    traces: Vec<(i64, String)>,
    recovered: Vec<(i64, String)>,
    /// Whether each run that was struck has succeeded, or a replay of it.
    is_over: bool,
}

/// Events that show that something went wrong.
const BAD: [&str; 6] = ["failed", "orphaned", "retry_scheduled", "quarantined", "lost", "timed_out"];

impl Clock {
    /// Reads the record of every run.
    pub(super) async fn read(stage: &Stage<'_>, done: &Performance, store: &Store) -> Result<Self, Failure> {
        let mut it = Self { faults: Vec::new(), traces: Vec::new(), recovered: Vec::new(), is_over: false };
        let families = stage.drill.struck();
        let is_struck = |step: &str, label: &str| {
            families.iter().any(|family| family.tenant == label && family.steps.contains(&step))
        };
        it.faults.extend(done.mishaps.iter().map(|it| (to_millisecond(it.at), format!("{}: {}", it.label, it.what))));
        let mut well = BTreeSet::new();
        for made in &done.made {
            for struck in store.faults_of(&made.tenant, made.run).await? {
                it.faults.push((to_millisecond(struck.at), fault_words(&struck)));
            }
            if !is_struck(&made.step, &made.label) {
                continue;
            }
            for event in store.events(&made.tenant, made.run).await? {
                let (at, is_run) = (instant(&event.at), event.instance.is_none());
                if is_run && event.state == RunState::Succeeded.as_str() {
                    it.recovered.push((at, format!("run {} succeeded", made.run)));
                    well.insert((made.step.as_str(), made.label.as_str()));
                } else if BAD.iter().any(|word| event.event.contains(word)) {
                    it.traces.push((at, event_words(&event)));
                }
            }
        }
        it.is_over = families
            .iter()
            .filter(|family| has_run(done, family))
            .all(|family| family.steps.iter().any(|step| well.contains(&(*step, family.tenant))));
        for cast in &stage.casts {
            let versions = store.models(Some(&cast.tenant), None).await?;
            for name in versions.into_iter().map(|row| row.version.name).collect::<BTreeSet<_>>() {
                for decision in store.decisions(&cast.tenant, &name).await? {
                    let of = |made: &&Made| decision["run_id"] == made.run.to_string();
                    let of_struck = done.made.iter().find(of).is_some_and(|made| is_struck(&made.step, &made.label));
                    if decision["promoted"] == false && of_struck {
                        let words = format!("the gate refused: {}", decision["reason"].as_str().unwrap_or_default());
                        it.traces.push((instant(decision["at"].as_str().unwrap_or_default()), words));
                    }
                }
            }
        }
        for act in &done.acts {
            let warnings = act.warnings.iter().filter(|_| is_struck(&act.step, &act.label));
            it.traces.extend(warnings.map(|(at, line)| (*at, line.trim().to_owned())));
            if act.is_remedy {
                it.recovered.push((act.ended_at, act.what.clone()));
            }
        }
        it.faults.sort();
        it.traces.sort();
        it.recovered.sort();
        Ok(it)
    }

    fn first_fault(&self) -> Option<i64> {
        self.faults.first().map(|(at, _)| *at)
    }

    fn trace(&self) -> Option<&(i64, String)> {
        let first = self.first_fault()?;
        self.traces.iter().find(|(at, _)| *at >= first)
    }

    fn end(&self) -> Option<&(i64, String)> {
        let first = self.first_fault()?;
        self.recovered.last().filter(|(at, _)| self.is_over && *at >= first)
    }

    /// Seconds from the first fault to its first trace.
    pub(super) fn detection(&self) -> Option<f64> {
        Some(seconds(self.trace()?.0 - self.first_fault()?))
    }

    /// Seconds from the first fault to the last thing that put it right.
    pub(super) fn recovery(&self) -> Option<f64> {
        Some(seconds(self.end()?.0 - self.first_fault()?))
    }
}

/// Whether the run that the family begins with has been made by now.
fn has_run(done: &Performance, family: &Family<'_>) -> bool {
    done.made.iter().any(|made| made.label == family.tenant && family.steps.first() == Some(&made.step.as_str()))
}

/// Events have milliseconds: what follows a fault within its own must not come before it.
fn to_millisecond(at: i64) -> i64 {
    at - at.rem_euclid(1_000)
}

/// Of entries of the same millisecond, which comes first.
fn rank(kind: &str) -> usize {
    ["fault", "action", "transition", "detection", "recovery"].iter().position(|it| *it == kind).unwrap_or_default()
}

impl Evidence {
    /// Gathers everything.
    pub(super) async fn gather(
        stage: &Stage<'_>,
        done: &Performance,
        (started_at, finished_at): (i64, i64),
    ) -> Result<Self, Failure> {
        let store = stage.look().await?;
        let clock = Clock::read(stage, done, &store).await?;
        let mut timeline: Vec<(i64, &str, String)> =
            clock.faults.iter().map(|(at, what)| (*at, "fault", what.clone())).collect();
        let mut runs = Vec::new();
        for made in &done.made {
            let view = store.run_view(&made.tenant, made.run).await?;
            for event in store.events(&made.tenant, made.run).await? {
                timeline.push((instant(&event.at), "transition", format!("{}: {}", made.step, event_words(&event))));
            }
            runs.push(run(made, &view));
        }
        for act in &done.acts {
            let ended = act.exit.map_or_else(String::new, |exit| format!(" ({})", exit_words(exit)));
            timeline.push((act.at, "action", format!("{}: {}{ended}", act.step, act.what)));
        }
        timeline.extend(clock.trace().map(|(at, what)| (*at, "detection", what.clone())));
        timeline.extend(clock.end().map(|(at, what)| (*at, "recovery", what.clone())));
        timeline.sort_by_key(|(at, kind, _)| (to_millisecond(*at), rank(kind)));
        let timeline: Vec<_> = timeline
            .into_iter()
            .map(|(at, kind, what)| json!({ "at": rfc3339(at), "kind": kind, "what": what }))
            .collect();
        let expectations: Vec<_> = done
            .verdicts
            .iter()
            .map(|it| json!({ "name": it.name, "passed": it.passed, "detail": it.detail }))
            .collect();
        let drill = &stage.drill;
        let tenants: Vec<_> = stage.casts.iter().map(|it| json!({ "name": it.label, "tenant": it.tenant })).collect();
        let document = json!({
            "version": VERSION, "drill": drill.id, "id": stage.id.to_string(), "title": drill.title,
            "severity": drill.severity, "runbook": drill.runbook,
            "verdict": if done.holds() { "passed" } else { "failed" },
            "started_at": rfc3339(started_at), "finished_at": rfc3339(finished_at),
            "seconds": round(seconds(finished_at - started_at)),
            "detection_seconds": clock.detection().map(round), "recovery_seconds": clock.recovery().map(round),
            "binary_version": env!("CARGO_PKG_VERSION"), "store": store.url(),
            "dag": stage.dag.id, "dag_version": stage.dag.version.to_string(),
            "cloned_run": stage.origin.as_ref().map(|it| it.summary.run_id.to_string()),
            "tenants": tenants, "declared_faults": declared(stage),
            "injected_faults": clock.faults.iter().map(|(at, what)| json!({ "at": rfc3339(*at), "what": what }))
                .collect::<Vec<_>>(),
            "actions": done.acts.iter().map(action).collect::<Vec<_>>(),
            "runs": runs, "timeline": timeline, "expectations": expectations,
        });
        Ok(Self { document })
    }
}

/// Writes the three files; returns where they are.
pub(super) fn write(document: &Value, folder: &Path) -> Result<Vec<String>, Failure> {
    let failed = |path: &Path| {
        let what = format!("can not write {}", path.display());
        move |error| Failure::file(what, error)
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let json = serde_json::to_string_pretty(document).unwrap_or_else(|_| document.to_string()) + "\n";
    let files =
        [("evidence.json", json), ("evidence.html", page::html(document)?), ("incident.md", page::incident(document)?)];
    let mut written = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(failed(&path))?;
        written.push(std::path::absolute(&path).unwrap_or(path).display().to_string());
    }
    Ok(written)
}

fn run(made: &Made, view: &RunView) -> Value {
    let mut shape = shapes::run(view, 0, None);
    if let Some(fields) = shape.as_object_mut() {
        fields.insert("step".into(), json!(made.step));
        fields.insert("name".into(), json!(made.label));
        // What a report prints of a training is not what a drill is about.
        fields.remove("outputs");
    }
    shape
}

/// What is declared to go wrong, for people.
pub(super) fn trouble_words(it: &Trouble) -> String {
    match it {
        Trouble::Attempt(fault) => {
            let index = fault.index.map(|index| format!("[{index}]")).unwrap_or_default();
            let last = fault.attempt + fault.times - 1;
            let which = if last > fault.attempt { format!("{} to {last}", fault.attempt) } else { last.to_string() };
            format!("{}{index}, attempt {which}: {}", fault.task, fault.what.words())
        }
        Trouble::Input(damage) => format!("the input: {}", damage.words()),
        Trouble::Database { task, .. } => format!("the database, once {task} has started"),
    }
}

fn declared(stage: &Stage<'_>) -> Vec<Value> {
    let one = |it: &Declared| json!({ "step": it.step, "tenant": it.tenant, "what": trouble_words(&it.what) });
    stage.drill.faults.iter().map(one).collect()
}

fn action(act: &super::perform::Act) -> Value {
    json!({
        "at": rfc3339(act.at), "step": act.step, "tenant": act.label, "what": act.what,
        "exit": act.exit.map(exit_words), "seconds": round(seconds(act.ended_at - act.at)),
    })
}

fn exit_words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Killed => "killed by SIGKILL".to_owned(),
    }
}

fn fault_words(it: &Struck) -> String {
    format!("{} attempt {}: {}", it.instance, it.attempt, it.fault.words())
}

fn event_words(it: &EventView) -> String {
    let who = it.instance.as_ref().map_or_else(|| "the run".to_owned(), ToString::to_string);
    let attempt = it.attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
    let why = it.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{who}{attempt} {} -> {}{why}", it.event, it.state)
}

fn instant(text: &str) -> i64 {
    parse_rfc3339(text).unwrap_or_default()
}

fn seconds(micros: i64) -> f64 {
    std::time::Duration::from_micros(micros.max(0).unsigned_abs()).as_secs_f64()
}

/// To the millisecond: more is nobody's to read.
fn round(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
