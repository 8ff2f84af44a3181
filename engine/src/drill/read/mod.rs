//! From a drill's file to a [`Drill`], or to everything that is wrong with it at once.
//!
//! Called by `headworks drill` and `headworks validate`; mistakes are diagnostics like those of a DAG, under codes of
//! their own. Whether there is such a DAG, only the project can say.

mod check;

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::{Map, Value};
use toml::de::DeValue;

use self::check::read_expectation;
use super::{
    Action, Damage, Declared, Drill, Exit, Fault, FaultKind, Moment, Operation, Step, Subject, Trouble, Which,
};
use crate::dag::json::to_json;
use crate::dag::read::{self, Section, Sink};
use crate::dag::{Diagnostic, Diagnostics, spec};
use crate::id::{ArtifactName, IdError, ModelName, TaskId};

/// The version of the file's shape.
const FORMAT_VERSION: i64 = 1;

/// More tenants, steps or attempts than this are no drill.
const MOST: i64 = 100;

/// Parses the text of `file`. Returns the drill with its warnings, or all diagnostics if one is an error.
///
/// # Errors
/// Every mistake in the file.
pub fn parse(file: &str, source: &str) -> Result<(Drill, Diagnostics), Diagnostics> {
    let mut sink = Sink::new(source);
    let drill = read::parse(source, &mut sink)
        .and_then(|document| read_drill(file, &Section::root(document.get_ref()), &mut sink));
    let mut diagnostics = sink.finish(file);
    for item in &mut diagnostics.items {
        item.code = code(item.code);
    }
    match drill {
        Some(drill) if !diagnostics.has_errors() => Ok((drill, diagnostics)),
        _ => Err(diagnostics),
    }
}

/// The readers are those of a DAG; a script that looks for mistakes in DAGs must not find these.
fn code(code: &'static str) -> &'static str {
    match code {
        "dag::syntax" => "drill::syntax",
        "dag::too_large" => "drill::too_large",
        "dag::too_deep" => "drill::too_deep",
        "dag::too_many_mistakes" => "drill::too_many_mistakes",
        "dag::unknown_key" => "drill::unknown_key",
        "dag::missing_key" => "drill::missing_key",
        "dag::wrong_type" => "drill::wrong_type",
        "dag::out_of_range" => "drill::out_of_range",
        "dag::bad_value" => "drill::bad_value",
        "dag::bad_id" => "drill::bad_id",
        "dag::id_differs" => "drill::id_differs",
        "dag::nul" => "drill::nul",
        "dag::bad_duration" => "drill::bad_duration",
        other => other,
    }
}

fn read_drill(file: &str, root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Drill> {
    root.allow(&["drill", "run", "fault", "step", "expect"], sink);
    root.require("drill", "add [drill] with id = \"<the file's stem>\"", sink);
    root.require("run", "add [run] with dag = \"<a DAG's id>\"", sink);
    root.require("step", "add [[step]] with name = \"night\" and do = \"run\"", sink);
    root.require("expect", "add [[expect]]: a drill that expects nothing shows nothing", sink);
    let subject = root.section("run", sink).and_then(|section| read_subject(&section, sink));
    let (mut places, mut steps) = (Vec::new(), Vec::new());
    for section in tables(root, "step", sink) {
        if let Some(step) = read_step(&section, sink) {
            places.push(section);
            steps.push(step);
        }
    }
    let names = Names::of(&steps, subject.as_ref());
    for (section, step) in places.iter().zip(&steps) {
        check_step(section, step, &steps, &names, sink);
    }
    let tables_of_faults = tables(root, "fault", sink);
    let faults: Vec<_> =
        tables_of_faults.iter().filter_map(|section| Some((section, read_fault(section, &names, sink)?))).collect();
    check_faults(&faults, sink);
    let faults = faults.into_iter().map(|(_, fault)| fault).collect();
    let expectations = tables(root, "expect", sink);
    let expectations = expectations.iter().filter_map(|section| read_expectation(section, &names, sink)).collect();
    let section = root.section("drill", sink)?;
    section.allow(&["id", "title", "runbook", "severity", "format_version"], sink);
    section.integer("format_version", FORMAT_VERSION..=FORMAT_VERSION, sink);
    let severity = section.one_of("severity", &["S1", "S2", "S3"], sink).unwrap_or("S3");
    let title = required_text(&section, "title", "say in a sentence what goes wrong", sink);
    let runbook = required_text(&section, "runbook", "name the Markdown file beside this one", sink);
    let id = read_id(file, &section, sink)?;
    Some(Drill { id, title: title?.0, runbook: runbook?.0, severity, subject: subject?, faults, steps, expectations })
}

/// The tables of `[[key]]`.
fn tables<'t, 'i>(root: &Section<'t, 'i>, key: &str, sink: &mut Sink<'_>) -> Vec<Section<'t, 'i>> {
    let Some(node) = root.get(key) else { return Vec::new() };
    let DeValue::Array(items) = node.get_ref() else {
        read::wrong_type(key, &format!("a list of tables, each as [[{key}]]"), node.get_ref(), node.span(), sink);
        return Vec::new();
    };
    let section =
        |(at, item): (usize, &'t read::Node<'i>)| Section::of(format!("{key}[{at}]"), item.span(), item, sink);
    items.iter().enumerate().filter_map(section).collect()
}

fn required_text(
    section: &Section<'_, '_>,
    key: &str,
    help: &str,
    sink: &mut Sink<'_>,
) -> Option<(String, Range<usize>)> {
    section.require(key, help, sink)?;
    section.text(key, sink).map(|(text, span)| (text.to_owned(), span))
}

fn read_id(file: &str, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<String> {
    let (id, span) = required_text(section, "id", "add id = \"<the file's stem>\"", sink)?;
    // The same rule as for other names that end in a path; shorter, since tenants are named after it.
    if id.len() > 40 || TaskId::parse(&id).is_err() {
        sink.push(
            Diagnostic::error("drill::bad_id", span, format!("{:?} is no drill's id", read::brief(&id)))
                .label("not an id")
                .help("use lower-case letters, digits, - and _, at most 40"),
        );
        return None;
    }
    spec::check_stem(file, &id, span, sink);
    Some(id)
}

fn read_subject(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Subject> {
    section.allow(&["dag", "like", "clone", "input", "seed", "tenants", "params"], sink);
    let params = read_params(section, sink);
    let seed = section.integer("seed", 0..=i64::MAX, sink).unwrap_or(0).unsigned_abs();
    let mut tenants: Vec<String> = Vec::new();
    for (name, span) in section.texts("tenants", sink) {
        // `drill-<8 hex>-<name>` has to be a tenant's id.
        if name.len() > 40 || TaskId::parse(name).is_err() || tenants.iter().any(|it| it == name) {
            sink.push(
                Diagnostic::error("drill::bad_value", span, format!("{name:?} can not name a drill tenant"))
                    .label("not a name, or there already")
                    .help("use lower-case letters, digits, - and _, at most 40, each name once"),
            );
        }
        tenants.push(name.to_owned());
    }
    if tenants.is_empty() {
        tenants.push("shop".to_owned());
    }
    let text = |key, sink: &mut Sink<'_>| section.text(key, sink).map(|(text, _)| text.to_owned());
    let (like, clone_of, input) = (text("like", sink), text("clone", sink), text("input", sink));
    let (dag, _) = required_text(section, "dag", "name a DAG of the project", sink)?;
    Some(Subject { dag, like, clone_of, input, seed, tenants, params })
}

fn read_params(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Map<String, Value> {
    let Some(node) = section.get("params") else { return Map::new() };
    match to_json(&section.path("params"), node, sink) {
        Value::Object(params) => params,
        _ => {
            read::wrong_type(&section.path("params"), "a table", node.get_ref(), node.span(), sink);
            Map::new()
        }
    }
}

/// What the tables of a drill call each other.
struct Names {
    steps: BTreeSet<String>,
    /// Steps that make a run.
    runs: BTreeSet<String>,
    /// Those of them that faults are pinned to: a replay goes without.
    made: BTreeSet<String>,
    tenants: Vec<String>,
    has_input: bool,
}

impl Names {
    fn of(steps: &[Step], subject: Option<&Subject>) -> Self {
        let named = |is_one: fn(&Action) -> bool| {
            steps.iter().filter(|step| is_one(&step.action)).map(|step| step.name.clone()).collect()
        };
        Self {
            steps: named(|_| true),
            runs: named(Action::makes_run),
            made: named(|action| matches!(action, Action::Run { .. })),
            tenants: subject.map(|it| it.tenants.clone()).unwrap_or_default(),
            has_input: subject.is_none_or(|it| it.input.is_some()),
        }
    }

    fn known<'a>(
        what: &str,
        known: impl IntoIterator<Item = &'a String>,
        (name, span): (&str, Range<usize>),
        sink: &mut Sink<'_>,
    ) {
        let known: Vec<&String> = known.into_iter().collect();
        if known.iter().any(|it| *it == name) {
            return;
        }
        let list = known.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
        sink.push(
            Diagnostic::error("drill::unknown_name", span, format!("there is no {what} {:?}", read::brief(name)))
                .label(format!("no such {what}"))
                .help(if list.is_empty() { format!("the drill has no {what}") } else { format!("there are: {list}") }),
        );
    }

    /// The drill tenant that a table names.
    fn tenant(&self, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<String> {
        let (name, span) = section.text("tenant", sink)?;
        Self::known("drill tenant", &self.tenants, (name, span), sink);
        Some(name.to_owned())
    }

    fn named(&self, section: &Section<'_, '_>, key: &str, is_run: bool, sink: &mut Sink<'_>) -> Option<String> {
        let (name, span) = section.text(key, sink)?;
        let (what, known) = if is_run { ("step that makes a run", &self.runs) } else { ("step", &self.steps) };
        Self::known(what, known, (name, span), sink);
        Some(name.to_owned())
    }

    /// The step that made the run; the only one, where none is named.
    fn run(&self, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<String> {
        Self::only(section, ("step that makes a run", &self.runs), sink)
    }

    /// The step with `do = "run"` that a fault belongs to; the only one, where none is named.
    fn made(&self, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<String> {
        Self::only(section, ("step with do = \"run\"", &self.made), sink)
    }

    fn only(
        section: &Section<'_, '_>,
        (what, known): (&str, &BTreeSet<String>),
        sink: &mut Sink<'_>,
    ) -> Option<String> {
        if section.get("run").is_none() && known.len() == 1 {
            return known.first().cloned();
        }
        section.require("run", "name the step that makes the run", sink)?;
        let (name, span) = section.text("run", sink)?;
        Self::known(what, known, (name, span), sink);
        Some(name.to_owned())
    }

    /// Whether there is an input, for the table whose `key` has to do with it.
    fn input(&self, section: &Section<'_, '_>, key: &str, sink: &mut Sink<'_>) {
        if !self.has_input {
            sink.push(
                Diagnostic::error("drill::no_input", section.key_span(key), "the runs of this drill have no input")
                    .label("there is none")
                    .help("name the parameter that names the file, in [run]: input = \"source\""),
            );
        }
    }
}

fn id<T>(found: Result<T, IdError>, span: Range<usize>, sink: &mut Sink<'_>) -> Option<T> {
    found.map_err(|error| spec::bad_id(&error, span, sink)).ok()
}

fn task(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<TaskId> {
    section.require("task", "name a task of the DAG", sink)?;
    let (text, span) = section.text("task", sink)?;
    id(TaskId::parse(text), span, sink)
}

fn index(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<u32> {
    section.integer("index", 0..=99_999, sink).and_then(|index| u32::try_from(index).ok())
}

fn read_step(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Step> {
    const WORDS: [&str; 9] =
        ["run", "resume", "retry", "replay", "restore_input", "promote", "rollback", "pause", "unpause"];
    let exit = read_exit(section, sink);
    let tenant = section.text("tenant", sink).map(|(name, _)| name.to_owned());
    section.require("do", "say what is done: do = \"run\"", sink);
    let word = section.one_of("do", &WORDS, sink)?;
    let more: &[&str] = match word {
        "run" => &["params"],
        "resume" | "retry" => &["run"],
        "replay" => &["run", "from", "task", "plan", "verify"],
        "promote" => &["model", "version"],
        "rollback" => &["model"],
        _ => &[],
    };
    section.allow(&[&["name", "do", "tenant", "exit"], more].concat(), sink);
    let of = |sink: &mut Sink<'_>| required_text(section, "run", "name the step that made the run", sink);
    let action = match word {
        "run" => Action::Run { params: read_params(section, sink) },
        "resume" => Action::Resume { of: of(sink)?.0 },
        "retry" => Action::Retry { of: of(sink)?.0 },
        "replay" => Action::Replay { of: of(sink)?.0, which: read_which(section, sink)? },
        "restore_input" => Action::RestoreInput,
        "promote" => {
            section.require("version", "say which version is forced", sink)?;
            let version = section.integer("version", 1..=1_000_000, sink)?;
            Action::Promote { model: read_model(section, sink)?, version: u32::try_from(version).ok()? }
        }
        "rollback" => Action::Rollback { model: read_model(section, sink)? },
        "pause" => Action::Pause,
        _ => Action::Unpause,
    };
    let (name, _) = required_text(section, "name", "name the step; what follows refers to it", sink)?;
    Some(Step { name, tenant, action, exit })
}

fn read_model(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<ModelName> {
    section.require("model", "name the model: model = \"demand\"", sink)?;
    let (text, span) = section.text("model", sink)?;
    id(ModelName::parse(text), span, sink)
}

fn read_which(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Which> {
    if section.boolean("verify", sink).unwrap_or(false) {
        return Some(Which::Verify);
    }
    if section.get("task").is_some() {
        return Some(Which::Task(task(section, sink)?));
    }
    let from = section.one_of("from", &["failed", "start"], sink).unwrap_or("failed");
    Some(match (from, section.boolean("plan", sink).unwrap_or(false)) {
        (_, true) => Which::Plan,
        ("failed", false) => Which::Failed,
        _ => Which::All,
    })
}

fn read_exit(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Exit {
    match section.get("exit").map(|node| node.get_ref()) {
        None => Exit::Code(0),
        Some(DeValue::String(_)) => {
            section.one_of("exit", &["killed"], sink);
            Exit::Killed
        }
        Some(_) => {
            Exit::Code(section.integer("exit", 0..=255, sink).and_then(|it| i32::try_from(it).ok()).unwrap_or(0))
        }
    }
}

/// What a step says about others.
fn check_step(section: &Section<'_, '_>, step: &Step, steps: &[Step], names: &Names, sink: &mut Sink<'_>) {
    names.tenant(section, sink);
    names.named(section, "run", true, sink);
    if step.action == Action::RestoreInput {
        names.input(section, "do", sink);
    }
    if steps.iter().filter(|it| it.name == step.name).count() > 1 {
        sink.push(
            Diagnostic::error(
                "drill::doubled_name",
                section.key_span("name"),
                format!("two steps are called {:?}", step.name),
            )
            .label("there is another one")
            .help("give each step a name of its own"),
        );
    }
}

/// Of two faults that would strike at once, one would go unnoticed.
fn check_faults(faults: &[(&Section<'_, '_>, Declared)], sink: &mut Sink<'_>) {
    for (at, (section, fault)) in faults.iter().enumerate() {
        if faults.iter().take(at).any(|(_, other)| fault.overlaps(other)) {
            sink.push(
                Diagnostic::error(
                    "drill::overlapping_faults",
                    section.key_span("kind"),
                    "another fault strikes here, too",
                )
                .label("only one of them could")
                .help("give it another attempt, element, tenant or run; only a skew goes along with another fault"),
            );
        }
    }
}

fn read_fault(section: &Section<'_, '_>, names: &Names, sink: &mut Sink<'_>) -> Option<Declared> {
    const WORDS: [&str; 8] = ["fail", "hang", "kill", "lose_worker", "object_store", "skew", "input", "database"];
    section.require("kind", "say what goes wrong: kind = \"kill\"", sink);
    let word = section.one_of("kind", &WORDS, sink)?;
    let attempt: &[&str] = &["task", "index", "attempt", "times"];
    let more: Vec<&str> = match word {
        "fail" => [attempt, &["message", "transient"]].concat(),
        "hang" => attempt.to_vec(),
        "kill" | "lose_worker" => [attempt, &["at"]].concat(),
        "object_store" => [attempt, &["operation", "failures", "latency"]].concat(),
        "skew" => [attempt, &["artifact", "column", "factor"]].concat(),
        "input" => vec!["damage", "factor"],
        _ => vec!["task", "lasts"],
    };
    section.allow(&[&["kind", "run", "tenant"], more.as_slice()].concat(), sink);
    let tenant = names.tenant(section, sink);
    let step = names.made(section, sink);
    let what = match word {
        "input" => {
            names.input(section, "kind", sink);
            Trouble::Input(read_damage(section, sink)?)
        }
        "database" => Trouble::Database {
            lasts: section.duration("lasts", sink).unwrap_or(std::time::Duration::from_secs(2)),
            task: task(section, sink)?,
        },
        _ => Trouble::Attempt(Fault {
            index: index(section, sink),
            attempt: section.integer("attempt", 1..=MOST, sink).unwrap_or(1),
            times: section.integer("times", 1..=MOST, sink).unwrap_or(1),
            what: read_kind(word, section, sink)?,
            task: task(section, sink)?,
        }),
    };
    Some(Declared { step: step?, tenant, what })
}

fn read_damage(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Damage> {
    section.require("damage", "say what is wrong with the input: damage = \"truncated\"", sink)?;
    Some(match section.one_of("damage", &["missing", "truncated", "swapped", "scaled"], sink)? {
        "missing" => Damage::Missing,
        "truncated" => Damage::Truncated,
        "swapped" => Damage::Swapped,
        _ => Damage::Scaled(factor(section, sink)?),
    })
}

fn factor(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<f64> {
    section.require("factor", "say by what the numbers are multiplied: factor = 100.0", sink)?;
    section.float("factor", -1e6..=1e6, sink)
}

fn read_kind(word: &str, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<FaultKind> {
    let at = |sink: &mut Sink<'_>| match section.one_of("at", &["begun", "published"], sink) {
        Some("begun") => Moment::Begun,
        _ => Moment::Published,
    };
    Some(match word {
        "fail" => FaultKind::Fail {
            message: section.text("message", sink).map_or("told to fail by a drill", |(text, _)| text).to_owned(),
            transient: section.boolean("transient", sink).unwrap_or(false),
        },
        "hang" => FaultKind::Hang,
        "kill" => FaultKind::Kill { at: at(sink) },
        "lose_worker" => FaultKind::LoseWorker { at: at(sink) },
        "object_store" => FaultKind::ObjectStore {
            operation: match section.one_of("operation", &["put", "get", "all"], sink) {
                Some("put") => Operation::Put,
                Some("get") => Operation::Get,
                _ => Operation::All,
            },
            failures: section.integer("failures", 0..=1_000_000, sink).and_then(|it| u32::try_from(it).ok()),
            latency_ms: section
                .duration("latency", sink)
                .map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        },
        _ => {
            section.require("column", "name a column of the artifact", sink)?;
            let (name, span) = required_text(section, "artifact", "name a Parquet artifact of the task", sink)?;
            FaultKind::Skew {
                artifact: id(ArtifactName::parse(&name), span, sink)?,
                column: section.text("column", sink)?.0.to_owned(),
                factor: factor(section, sink)?,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drill::{Check, Family};

    const GOOD: &str = r#"
[drill]
id = "x"
title = "A worker is killed"
runbook = "x.md"

[run]
dag = "retail_demand"
tenants = ["shop", "other"]

[[fault]]
kind = "kill"
run = "night"
task = "train"
index = 2

[[step]]
name = "night"
do = "run"
exit = 4

[[step]]
name = "again"
do = "replay"
run = "night"
from = "failed"

[[expect]]
name = "it ends well"
that = "state"
run = "again"
is = "succeeded"

[[expect]]
name = "soon"
that = "timing"
recovered_within = "90s"
"#;

    /// A second fault of the same attempt.
    const SECOND: &str = "index = 2\n[[fault]]\nkind = \"hang\"\nrun = \"night\"\ntask = \"train\"\n";

    fn codes(source: &str) -> Vec<&'static str> {
        match parse("docs/runbooks/x.toml", source) {
            Ok((_, found)) | Err(found) => found.items.iter().map(|item| item.code).collect(),
        }
    }

    #[test]
    fn a_drill_is_read() {
        let (drill, found) = parse("docs/runbooks/x.toml", GOOD).expect("valid");
        assert!(found.items.is_empty());
        assert_eq!((drill.id.as_str(), drill.subject.tenants.len(), drill.steps.len()), ("x", 2, 2));
        let Trouble::Attempt(fault) = &drill.faults[0].what else { panic!("of an attempt") };
        assert_eq!((fault.index, fault.attempt, fault.times), (Some(2), 1, 1));
        assert_eq!(fault.what, FaultKind::Kill { at: Moment::Published });
        assert_eq!(drill.steps[0].exit, Exit::Code(4));
        assert_eq!(drill.expectations[1].check, Check::RecoveredWithin(Duration::from_secs(90)));
    }

    #[test]
    fn a_skew_goes_along_with_another_fault() {
        let skew = "kind = \"skew\"\nartifact = \"a.parquet\"\ncolumn = \"x\"\nfactor = 2.0";
        let both = GOOD.replace("index = 2\n", &SECOND.replace("kind = \"hang\"", skew));
        assert!(codes(&both).is_empty(), "{:?}", codes(&both));
        let later = GOOD.replace("index = 2\n", &format!("{SECOND}attempt = 2\n"));
        assert!(codes(&later).is_empty(), "{:?}", codes(&later));
    }

    #[test]
    fn runs_that_are_struck_have_their_replays() {
        let (drill, _) = parse("docs/runbooks/x.toml", GOOD).expect("valid");
        let family = |tenant, steps: &[&'static str]| Family { tenant, steps: steps.to_vec() };
        assert_eq!(drill.struck(), [family("shop", &["night", "again"]), family("other", &["night", "again"])]);
        let one = GOOD.replace("do = \"replay\"", "do = \"replay\"\ntenant = \"other\"");
        let (drill, _) = parse("docs/runbooks/x.toml", &one).expect("valid");
        assert_eq!(drill.struck(), [family("shop", &["night"]), family("other", &["night", "again"])]);
    }

    #[test]
    fn every_mistake_has_its_place_and_its_help() {
        for (from, to, code, line) in [
            ("id = \"x\"", "id = \"y\"", "drill::id_differs", 3),
            ("kind = \"kill\"", "kind = \"kil\"", "drill::bad_value", 12),
            ("task = \"train\"", "tusk = \"train\"", "drill::unknown_key", 14),
            ("index = 2", "at = \"now\"", "drill::bad_value", 15),
            ("run = \"night\"\nfrom", "run = \"nigth\"\nfrom", "drill::unknown_name", 25),
            ("do = \"replay\"", "do = \"reply\"", "drill::bad_value", 24),
            ("is = \"succeeded\"", "", "drill::missing_key", 28),
            ("recovered_within = \"90s\"", "recovered_within = 90", "drill::wrong_type", 37),
            ("name = \"again\"", "name = \"night\"", "drill::doubled_name", 18),
            ("tenants = [\"shop\", \"other\"]", "tenants = [\"Shop\"]", "drill::bad_value", 9),
            ("run = \"night\"\ntask", "run = \"again\"\ntask", "drill::unknown_name", 13),
            ("kind = \"kill\"", "kind = \"input\"", "drill::no_input", 12),
            ("do = \"replay\"", "do = \"restore_input\"", "drill::no_input", 24),
            ("index = 2\n", SECOND, "drill::overlapping_faults", 17),
            ("90s\"", "90s\"\ndetected_within = \"9s\"", "drill::bad_value", 37),
            (
                "that = \"state\"\nrun = \"again\"\nis = \"succeeded\"",
                "that = \"task\"\nrun = \"again\"\ntask = \"a\"",
                "drill::missing_key",
                28,
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let found = parse("docs/runbooks/x.toml", &GOOD.replace(from, to)).expect_err(to);
            let rows = found.rows();
            let row = rows.iter().find(|row| row.code == code && row.line == line);
            let row = row.unwrap_or_else(|| panic!("{to}: no {code} in line {line}: {rows:#?}"));
            assert!(!row.help.is_empty(), "{row:?}");
        }
        assert_eq!(codes("").iter().filter(|code| **code == "drill::missing_key").count(), 4);
    }
}
