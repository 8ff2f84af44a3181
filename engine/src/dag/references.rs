//! Checks that every name in a template exists: parameters, axes, facts of the run, tasks upstream.
//!
//! Called by `lower`. It renders nothing; what a task will put into its outputs is not known here.

use std::collections::HashMap;
use std::ops::Range;

use super::Diagnostic;
use super::graph::{Ancestry, Links};
use super::read::Sink;
use super::spec::{DagSpec, TaskSpec, unknown};
use crate::template::{self, Reference};

/// Facts of a run that templates can see.
const RUN_FACTS: [&str; 5] = ["id", "logical_time", "interval_start", "interval_end", "seed"];

/// Notes every malformed template and every reference to nothing. Without `links`, whether a task
/// is upstream is not judged.
pub(crate) fn check(spec: &DagSpec<'_, '_>, links: Option<&Links>, sink: &mut Sink<'_>) {
    let positions = spec.tasks.iter().enumerate().map(|(index, task)| (task.name, index)).collect();
    let mut checker = Checker { spec, links, positions, ancestry: links.map(Ancestry::new) };
    for (index, task) in spec.tasks.iter().enumerate() {
        for found in template::references(&task.with.value) {
            let span = task.with.span_at(&found.pointer);
            checker.found(index, span, found.item, sink);
        }
        if let Some((text, span)) = &task.for_each {
            for found in template::references(&serde_json::Value::from(*text)) {
                checker.found(index, span.clone(), found.item, sink);
            }
        }
        if let Some((node, value)) = &task.condition {
            for found in template::references(value) {
                checker.found(index, node.span(), found.item, sink);
            }
        }
    }
}

struct Checker<'g> {
    spec: &'g DagSpec<'g, 'g>,
    links: Option<&'g Links>,
    positions: HashMap<&'g str, usize>,
    ancestry: Option<Ancestry<'g>>,
}

impl Checker<'_> {
    fn found(
        &mut self,
        index: usize,
        span: Range<usize>,
        item: Result<Reference, template::TemplateError>,
        sink: &mut Sink<'_>,
    ) {
        match item {
            Ok(reference) => {
                let span = sink.narrow(&span, &reference.text);
                self.reference(index, span, &reference, sink);
            }
            Err(error) => sink.push(
                Diagnostic::error("dag::bad_template", span, error.to_string())
                    .label("can not be rendered")
                    .help("write {{params.name}}, or a comparison such as {{gt params.horizon 7}}"),
            ),
        }
    }

    fn reference(&mut self, index: usize, span: Range<usize>, reference: &Reference, sink: &mut Sink<'_>) {
        let task = &self.spec.tasks[index];
        let root = reference.path.first().map_or("", String::as_str);
        let name = reference.path.get(1).map(String::as_str);
        let dangling = |message: String| {
            Diagnostic::error("dag::unknown_reference", span.clone(), message).label("refers to nothing")
        };
        match (root, name) {
            // What a tenant has is known when a run is made for it.
            ("tenant", _) => {}
            ("params", Some(name)) if !self.spec.params.contains_key(name) => {
                let known = self.spec.params.keys().map(String::as_str);
                unknown(
                    dangling(format!("{}: the DAG declares no parameter {name:?}", reference.text)),
                    name,
                    known,
                    sink,
                );
            }
            ("run", Some(name)) if !RUN_FACTS.contains(&name) => {
                unknown(dangling(format!("{}: a run has no {name:?}", reference.text)), name, RUN_FACTS, sink);
            }
            // The elements of a fan-out: what they hold is known when it begins.
            ("matrix", Some("item" | "index")) if task.for_each.is_some() => {}
            ("matrix", _) if task.matrix.axes.is_empty() => sink.push(
                dangling(format!("{}: {} has no matrix", reference.text, task.name))
                    .help("add matrix = { ... } to the task, or use {{params...}}"),
            ),
            ("matrix", Some(name)) if !task.matrix.axes.contains_key(name) => {
                let known = task.matrix.axes.keys().map(String::as_str);
                unknown(dangling(format!("{}: the matrix has no axis {name:?}", reference.text)), name, known, sink);
            }
            ("tasks", Some(name)) => self.upstream(index, span.clone(), reference, name, sink),
            ("tasks", None) => sink.push(
                dangling(format!("{}: names no task", reference.text)).help("write {{tasks.<id>.outputs.<name>}}"),
            ),
            ("params" | "run" | "matrix", _) => {}
            _ => {
                let message = format!("{}: there is no {root:?} to refer to", reference.text);
                unknown(dangling(message), root, template::ROOTS, sink);
            }
        }
    }

    fn upstream(&mut self, index: usize, span: Range<usize>, reference: &Reference, name: &str, sink: &mut Sink<'_>) {
        let dangling = |message: String| {
            Diagnostic::error("dag::unknown_reference", span.clone(), message).label("refers to nothing")
        };
        let Some(&target) = self.positions.get(name) else {
            let known = self.spec.tasks.iter().map(|task| task.name);
            unknown(dangling(format!("{}: there is no task {name:?}", reference.text)), name, known, sink);
            return;
        };
        if reference.path.get(2).is_none_or(|part| part != "outputs") {
            sink.push(
                dangling(format!("{}: of a task, only `outputs` can be seen", reference.text))
                    .help(format!("write {{{{tasks.{name}.outputs.<name>}}}}")),
            );
            return;
        }
        let (Some(links), Some(ancestry)) = (self.links, &mut self.ancestry) else { return };
        let task: &TaskSpec<'_, '_> = &self.spec.tasks[index];
        // A needed name that does not exist may well have led there.
        let is_upstream = !ancestry.nearest(index, |above| above == target || links.doubtful[above]).is_empty();
        if !is_upstream && !links.doubtful[index] {
            sink.push(
                dangling(format!("{}: {name} is not upstream of {}", reference.text, task.name))
                    .help(format!("add {name:?} to `needs`: its outputs are there once it has ended")),
            );
        }
    }
}
