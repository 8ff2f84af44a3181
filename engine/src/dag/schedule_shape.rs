//! The shape of `[schedule]`: known keys of the right types, kept as JSON.
//!
//! Called by `spec`. What a schedule means is `schedule`'s business: it reads the JSON here once, so that
//! what it can not mean is a diagnostic with its place, and again whenever a run may be due.

use serde_json::Value;

use super::Diagnostic;
use super::json::to_json;
use super::read::{Section, Sink, brief};
use crate::id::{ArtifactName, DagId, TaskId};
use crate::schedule::{Lint, Schedule, check, lint};

const KEYS: [&str; 10] =
    ["cron", "every", "on", "timezone", "dst", "catchup", "catchup_window", "calendars", "jitter", "tenants"];

/// Years in which fire times are held against changes of the clock.
const LINTED_YEARS: std::ops::RangeInclusive<i64> = 2026..=2030;

/// Checks the section and yields it as JSON.
pub(crate) fn read(section: &Section<'_, '_>, root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Value {
    let before = sink.errors();
    section.allow(&KEYS, sink);
    read_rule(section, sink);
    read_timezone(section, sink);
    if let Some(dst) = section.section("dst", sink) {
        dst.allow(&["gap", "overlap"], sink);
        dst.one_of("gap", &["shift", "skip"], sink);
        dst.one_of("overlap", &["first", "last", "both"], sink);
    }
    section.one_of("catchup", &["none", "latest", "all"], sink);
    section.duration("catchup_window", sink);
    section.duration("jitter", sink);
    if let Some(calendars) = section.section("calendars", sink) {
        calendars.allow(&["exclude", "policy"], sink);
        calendars.one_of("policy", &["skip", "delay"], sink);
        for (name, span) in calendars.texts("exclude", sink) {
            if let Err(error) = TaskId::parse(name) {
                super::spec::bad_id(&crate::id::IdError { what: "calendar id", ..error }, span, sink);
            }
        }
    }
    if let Some(tenants) = section.section("tenants", sink) {
        tenants.allow(&["status"], sink);
        for (word, span) in tenants.texts("status", sink) {
            super::read::one_of(&tenants.path("status"), word, &["trial", "active", "suspended"], span, sink);
        }
    }
    let on = read_on(section, sink);
    let json = root.get("schedule").map_or(Value::Null, |node| to_json("schedule", node, sink));
    if !on && sink.errors() == before && !sink.is_broken() {
        check_meaning(section, root, &json, sink);
    }
    json
}

/// `on`: what arrives in place of a moment. Returns whether it is there.
fn read_on(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> bool {
    let Some(on) = section.section("on", sink) else { return false };
    on.allow(&["dags", "artifacts", "mode", "within"], sink);
    on.one_of("mode", &["all", "any"], sink);
    on.duration("within", sink);
    let dags = on.texts("dags", sink);
    for (name, span) in &dags {
        if let Err(error) = DagId::parse(name) {
            super::spec::bad_id(&error, span.clone(), sink);
        }
    }
    let artifacts = on.texts("artifacts", sink);
    for (name, span) in &artifacts {
        if Arrival::parse(name).is_none() {
            let message = format!("{:?} names no artifact", brief(name));
            sink.push(
                Diagnostic::error("dag::bad_schedule", span.clone(), message)
                    .label("not dag/task/name")
                    .help("write \"retail_demand/ingest/sales\": the DAG, the task, the artifact"),
            );
        }
    }
    if dags.is_empty() && artifacts.is_empty() {
        sink.push(
            Diagnostic::error("dag::bad_schedule", section.key_span("on"), "`on` waits for nothing")
                .label("for what?")
                .help("add dags = [\"prices\"] or artifacts = [\"prices/ingest/prices\"]"),
        );
    }
    true
}

/// An artifact that a schedule waits for: `dag/task/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The DAG that makes it.
    pub dag: DagId,
    /// The task.
    pub task: TaskId,
    /// Its name.
    pub name: ArtifactName,
}

impl Arrival {
    /// Reads `dag/task/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (dag, task, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            dag: DagId::parse(dag).ok()?,
            task: TaskId::parse(task).ok()?,
            name: ArtifactName::parse(name).ok()?,
        })
    }
}

/// What has the right shape and can not be meant: a zone that is not there, a rule that never fires.
fn check_meaning(section: &Section<'_, '_>, root: &Section<'_, '_>, json: &Value, sink: &mut Sink<'_>) {
    let span_of = |key: &str| {
        let pointer: Vec<String> = key.split('.').skip(1).map(str::to_owned).collect();
        root.get("schedule").map_or_else(|| section.span.clone(), |node| super::json::span_at(node, &pointer))
    };
    match Schedule::from_json(json) {
        Err(error) => {
            let message = format!("{} {}", error.key, error.problem);
            sink.push(
                Diagnostic::error("dag::bad_schedule", span_of(&error.key), message).label("here").help(error.help),
            );
        }
        Ok(schedule) => {
            // Who says what becomes of a gap knows that there is one.
            let is_decided = json["dst"].get("gap").is_some();
            let found = lint(&schedule, LINTED_YEARS);
            for found in found.into_iter().filter(|it| !(is_decided && matches!(it, Lint::InGap { .. }))) {
                let span = span_of(if json.get("cron").is_some() { "schedule.cron" } else { "schedule.every" });
                sink.push(
                    Diagnostic::warning(found.code(), span, found.to_string()).label("this rule").help(found.help()),
                );
            }
        }
    }
}

fn read_rule(section: &Section<'_, '_>, sink: &mut Sink<'_>) {
    let cron = section.text("cron", sink);
    section.duration("every", sink);
    let given: Vec<&str> = ["cron", "every", "on"].into_iter().filter(|key| section.get(key).is_some()).collect();
    match given.as_slice() {
        [_] => {}
        [] => sink.push(
            Diagnostic::error("dag::bad_schedule", section.span.clone(), "a schedule has neither cron, every nor on")
                .label("when?")
                .help("add cron = \"15 2 * * *\" or every = \"1h\", or leave [schedule] out"),
        ),
        [first, second, ..] => sink.push(
            Diagnostic::error(
                "dag::bad_schedule",
                section.key_span(second),
                format!("a schedule has both {first} and {second}"),
            )
            .label(format!("and `{first}` is there too"))
            .help("keep one of them"),
        ),
    }
    if let Some((text, span)) = cron
        && let Err(error) = check(text)
    {
        sink.push(
            Diagnostic::error("dag::bad_schedule", span, format!("schedule.cron = {:?}: {error}", brief(text)))
                .label("not a cron rule")
                .help(error.help),
        );
    }
}

fn read_timezone(section: &Section<'_, '_>, sink: &mut Sink<'_>) {
    let Some((name, span)) = section.text("timezone", sink) else {
        return;
    };
    let well_formed = !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'));
    if !well_formed {
        sink.push(
            Diagnostic::error("dag::bad_schedule", span, format!("{:?} is no time zone", brief(name)))
                .label("not a time zone's name")
                .help("use a name of the IANA database, such as \"America/Chicago\" or \"UTC\""),
        );
    }
}
