//! The shape of a DAG's TOML: what is written, with its places, each key checked on its own.
//!
//! `lower` reads a file with it and judges the whole afterwards. Nothing here looks at a second
//! task, at a kind, or into a template.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;

use super::json::to_json;
use super::policy::{self, Policies};
use super::read::{Node, Section, Sink, brief, wrong_type};
use super::{Diagnostic, Isolation, Overlap, ParamSpec, TriggerRule, limits, params, schedule_shape, secrets, suggest};
use crate::id::{DagId, IdError, TaskId};

/// A DAG as written.
pub(crate) struct DagSpec<'t, 'i> {
    pub(crate) id: Option<DagId>,
    pub(crate) description: String,
    pub(crate) tags: Vec<String>,
    pub(crate) max_active_runs: Option<u32>,
    pub(crate) overlap: Overlap,
    pub(crate) deadline: Option<Duration>,
    pub(crate) schedule: Option<Value>,
    pub(crate) params: IndexMap<String, ParamSpec>,
    pub(crate) tasks: Vec<TaskSpec<'t, 'i>>,
}

/// A task as written; `defaults` are in it already.
pub(crate) struct TaskSpec<'t, 'i> {
    /// As written; `id` is `None` if it is not one.
    pub(crate) name: &'t str,
    pub(crate) id: Option<TaskId>,
    pub(crate) span: Range<usize>,
    pub(crate) kind: Option<(&'t str, Range<usize>)>,
    pub(crate) needs: Vec<(&'t str, Range<usize>)>,
    pub(crate) trigger_rule: TriggerRule,
    pub(crate) condition: Option<(&'t Node<'i>, Value)>,
    pub(crate) matrix: Matrix,
    pub(crate) for_each: Option<(&'t str, Range<usize>)>,
    pub(crate) with: With<'t, 'i>,
    pub(crate) policies: Policies,
    pub(crate) cache: bool,
    pub(crate) max_in_flight: Option<u32>,
}

/// Axes of a cross product.
#[derive(Default)]
pub(crate) struct Matrix {
    pub(crate) span: Range<usize>,
    pub(crate) axes: IndexMap<String, Vec<Value>>,
    /// Elements of the product, at most `usize::MAX`; 0 = no matrix.
    pub(crate) elements: usize,
}

/// Parameters as written.
pub(crate) struct With<'t, 'i> {
    /// The key's place, or the task's.
    pub(crate) span: Range<usize>,
    pub(crate) node: Option<&'t Node<'i>>,
    /// Always an object.
    pub(crate) value: Value,
}

impl With<'_, '_> {
    /// Where the value at `pointer` stands.
    pub(crate) fn span_at(&self, pointer: &[String]) -> Range<usize> {
        self.node.map_or_else(|| self.span.clone(), |node| super::json::span_at(node, pointer))
    }

    /// Where the key at `pointer` stands; of the whole, the key `with`.
    pub(crate) fn key_span_at(&self, pointer: &[String]) -> Range<usize> {
        match self.node {
            Some(node) if !pointer.is_empty() => super::json::key_span_at(node, pointer),
            _ => self.span.clone(),
        }
    }
}

/// Reads the whole file. `None`: so many tasks that none was looked at.
pub(crate) fn read<'t, 'i>(file: &str, root: &Section<'t, 'i>, sink: &mut Sink<'_>) -> Option<DagSpec<'t, 'i>> {
    root.allow(&["dag", "schedule", "params", "defaults", "tasks"], sink);
    let tasks = root
        .require("tasks", "add a task: [tasks.ingest] with kind = \"...\"", sink)
        .and_then(|_| root.section("tasks", sink));
    if let Some(tasks) = &tasks
        && !check_count(tasks, sink)
    {
        return None;
    }
    let mut spec = DagSpec {
        id: None,
        description: String::new(),
        tags: Vec::new(),
        max_active_runs: None,
        overlap: Overlap::default(),
        deadline: None,
        schedule: root.section("schedule", sink).map(|section| schedule_shape::read(&section, root, sink)),
        params: root.section("params", sink).map(|section| params::read(&section, sink)).unwrap_or_default(),
        tasks: Vec::new(),
    };
    if root.require("dag", "add [dag] with id = \"<the file's stem>\"", sink).is_some()
        && let Some(section) = root.section("dag", sink)
    {
        read_heading(file, &section, &mut spec, sink);
    }
    let defaults = policy::read_defaults(root, sink);
    if let Some(tasks) = tasks {
        spec.tasks = tasks
            .table
            .iter()
            .filter_map(|(key, node)| {
                let section = Section::of(tasks.path(&brief(key.get_ref())), key.span(), node, sink)?;
                Some(read_task(key.get_ref(), &section, &defaults, sink))
            })
            .collect();
    }
    Some(spec)
}

fn check_count(tasks: &Section<'_, '_>, sink: &mut Sink<'_>) -> bool {
    let count = tasks.table.len();
    if count == 0 {
        sink.push(
            Diagnostic::error("dag::no_tasks", tasks.span.clone(), "the DAG has no tasks")
                .label("empty")
                .help("add a task: [tasks.ingest] with kind = \"...\""),
        );
    }
    if count > limits::MAX_TASKS {
        sink.push(
            Diagnostic::error("dag::too_many_tasks", tasks.span.clone(), format!("the DAG has {count} tasks"))
                .label("too many")
                .help(format!("at most {}; use a matrix for tasks that differ in a value", limits::MAX_TASKS)),
        );
    }
    count <= limits::MAX_TASKS
}

fn read_heading(file: &str, section: &Section<'_, '_>, spec: &mut DagSpec<'_, '_>, sink: &mut Sink<'_>) {
    section.allow(&["id", "description", "tags", "max_active_runs", "overlap", "deadline"], sink);
    spec.id = read_id(file, section, sink);
    spec.description = section.text("description", sink).map(|(text, _)| text.to_owned()).unwrap_or_default();
    spec.tags = section.texts("tags", sink).into_iter().map(|(tag, _)| tag.to_owned()).collect();
    spec.max_active_runs = count(section, "max_active_runs", sink);
    spec.overlap = section.one_of("overlap", &Overlap::WORDS, sink).and_then(Overlap::parse).unwrap_or_default();
    spec.deadline = section.duration("deadline", sink);
}

fn read_id(file: &str, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<DagId> {
    section.require("id", "add id = \"<the file's stem>\"", sink)?;
    let (text, span) = section.text("id", sink)?;
    let id = match DagId::parse(text) {
        Ok(id) => id,
        Err(error) => {
            bad_id(&error, span, sink);
            return None;
        }
    };
    check_stem(file, text, span, sink);
    Some(id)
}

/// Notes an id that is not the stem of its file.
pub(crate) fn check_stem(file: &str, id: &str, span: Range<usize>, sink: &mut Sink<'_>) {
    let Some(stem) = file.strip_suffix(".toml").map(Path::new).and_then(Path::file_name).and_then(|s| s.to_str())
    else {
        return;
    };
    if stem != id {
        sink.push(
            Diagnostic::error(
                "dag::id_differs",
                span,
                format!("the id {id:?} is not the file's stem {:?}", brief(stem)),
            )
            .label("differs from the file's name")
            .help(format!("write id = {:?}, or rename the file to {id}.toml", brief(stem))),
        );
    }
}

/// Notes an id that breaks its rule.
pub(crate) fn bad_id(error: &IdError, span: Range<usize>, sink: &mut Sink<'_>) {
    sink.push(
        Diagnostic::error("dag::bad_id", span, format!("{:?} is not a valid {}", error.text, error.what))
            .label(format!("not a {}", error.what))
            .help(error.rule),
    );
}

fn count(section: &Section<'_, '_>, key: &str, sink: &mut Sink<'_>) -> Option<u32> {
    section.integer(key, 1..=1_000_000, sink).and_then(|count| u32::try_from(count).ok())
}

const TASK_KEYS: [&str; 14] = [
    "kind",
    "needs",
    "with",
    "if",
    "matrix",
    "for_each",
    "max_in_flight",
    "trigger_rule",
    "timeout",
    "retries",
    "pool",
    "priority",
    "isolation",
    "cache",
];

fn read_task<'t, 'i>(
    name: &'t str,
    section: &Section<'t, 'i>,
    defaults: &Policies,
    sink: &mut Sink<'_>,
) -> TaskSpec<'t, 'i> {
    section.allow(&TASK_KEYS, sink);
    let id = TaskId::parse(name).map_err(|error| bad_id(&error, section.span.clone(), sink)).ok();
    let kind =
        section.require("kind", "add a kind, such as kind = \"train\"", sink).and_then(|_| section.text("kind", sink));
    TaskSpec {
        name,
        id,
        span: section.span.clone(),
        kind,
        needs: section.texts("needs", sink),
        trigger_rule: read_rule(section, sink),
        condition: read_condition(section, sink),
        matrix: read_matrix(section, sink),
        for_each: section.text("for_each", sink),
        with: read_with(section, sink),
        policies: policy::read_task(section, defaults, sink),
        cache: section.boolean("cache", sink).unwrap_or(false),
        max_in_flight: count(section, "max_in_flight", sink),
    }
}

fn read_rule(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> TriggerRule {
    let names = TriggerRule::ALL.map(TriggerRule::as_str);
    section.one_of("trigger_rule", &names, sink).and_then(TriggerRule::parse).unwrap_or_default()
}

fn read_condition<'t, 'i>(section: &Section<'t, 'i>, sink: &mut Sink<'_>) -> Option<(&'t Node<'i>, Value)> {
    let node = section.get("if")?;
    let value = to_json(&section.path("if"), node, sink);
    let fits = match &value {
        Value::Bool(_) => true,
        Value::String(text) => crate::template::is_template(text),
        _ => false,
    };
    if fits {
        return Some((node, value));
    }
    sink.push(
        Diagnostic::error("dag::bad_condition", node.span(), format!("{} is no condition", section.path("if")))
            .label("neither true, false nor an expression")
            .help("write true, false or one expression: \"{{gt tasks.evaluate.outputs.best_wape 0.2}}\""),
    );
    None
}

fn read_matrix(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Matrix {
    let Some(matrix) = section.section("matrix", sink) else {
        return Matrix::default();
    };
    let mut axes = IndexMap::new();
    for (key, node) in matrix.table {
        let path = matrix.path(&brief(key.get_ref()));
        let toml::de::DeValue::Array(items) = node.get_ref() else {
            wrong_type(&path, "a list of elements", node.get_ref(), node.span(), sink);
            continue;
        };
        let values = items.iter().map(|item| to_json(&path, item, sink)).collect::<Vec<_>>();
        for (value, item) in values.iter().zip(items) {
            secrets::refuse((value, item), (&path, 0), sink);
        }
        if let Err(error) = TaskId::parse(key.get_ref()) {
            sink.push(
                Diagnostic::error("dag::bad_id", key.span(), format!("{:?} can not name an axis", error.text))
                    .label("not a valid name")
                    .help(error.rule),
            );
        }
        // More is refused below; comparing each with each would take its time first.
        let comparable = &values[..values.len().min(1_000)];
        if let Some(twice) = (1..comparable.len()).find(|&index| comparable[..index].contains(&comparable[index])) {
            sink.push(
                Diagnostic::error(
                    "dag::duplicate_element",
                    items[twice].span(),
                    format!("{path} has an element twice"),
                )
                .label("is above already")
                .help("write each element once: equal elements would be equal task instances"),
            );
        }
        axes.insert(key.get_ref().clone().into_owned(), values);
    }
    let elements = axes.values().fold(1_usize, |product, values| product.saturating_mul(values.len()));
    if matrix.table.is_empty() || axes.values().any(Vec::is_empty) {
        sink.push(
            Diagnostic::error("dag::empty_matrix", matrix.span.clone(), format!("{} has no elements", matrix.name))
                .label("empty")
                .help("give each axis at least one element, or leave `matrix` out"),
        );
    }
    Matrix { span: matrix.span, axes, elements }
}

fn read_with<'t, 'i>(section: &Section<'t, 'i>, sink: &mut Sink<'_>) -> With<'t, 'i> {
    let node = section.section("with", sink).and_then(|_| section.get("with"));
    With {
        span: section.key_span("with"),
        node,
        value: node
            .map_or_else(|| Value::Object(Default::default()), |node| to_json(&section.path("with"), node, sink)),
    }
}

/// Where a task runs, by its name in TOML.
pub(crate) fn isolation(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<Isolation> {
    section.one_of("isolation", &["inline", "process"], sink).map(|word| match word {
        "process" => Isolation::Process,
        _ => Isolation::Inline,
    })
}

/// Notes a name that does not exist, with what does.
pub(crate) fn unknown<'a>(
    diagnostic: Diagnostic,
    name: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
    sink: &mut Sink<'_>,
) {
    sink.push_with(|| diagnostic.help(suggest::help(name, known)));
}
