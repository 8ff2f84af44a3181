//! From the text of a file to a validated [`Dag`], or every mistake at once.
//!
//! Called by the CLI, by whoever loads the project, and by the store for pinned versions. Stages,
//! each of which goes on where it can: limits, TOML, each key (`spec`), each task by its kind
//! (`with`), the whole (`graph`, `bind`, `references`), warnings (`lints`). A file that is not
//! TOML is judged key by key, but not as a whole: half a graph has mistakes that its author did not
//! make.

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use super::bind::{self, Bound, Ports};
use super::graph::{self, Links};
use super::read::{self, Section, Sink};
use super::spec::{self, DagSpec, Matrix, TaskSpec, unknown};
use super::{Dag, Diagnostic, Diagnostics, InputBinding, KindCatalog, KindInfo, Task, limits};
use super::{lints, references, with};
use crate::id::{Digest, TaskId};

/// Lowers the text of `file`. Returns the DAG with its warnings, or all diagnostics if one is an error.
///
/// # Errors
/// Every mistake in the file.
pub fn lower(file: &str, source: &str, kinds: &dyn KindCatalog) -> Result<(Dag, Diagnostics), Diagnostics> {
    if let Some(refused) = limits::check_size(source.len()) {
        return Err(refusal(file, limits::head(source), refused));
    }
    let mut sink = Sink::new(source);
    let dag = lower_into(file, source, kinds, &mut sink);
    let diagnostics = sink.finish(file);
    match dag {
        Some(dag) if !diagnostics.has_errors() => Ok((dag, diagnostics)),
        _ => Err(diagnostics),
    }
}

/// As [`lower`], for bytes that may not be text.
///
/// # Errors
/// Every mistake in the file; that it is not UTF-8 is one.
pub fn lower_bytes(file: &str, bytes: &[u8], kinds: &dyn KindCatalog) -> Result<(Dag, Diagnostics), Diagnostics> {
    match utf8(file, bytes) {
        Ok(source) => lower(file, source, kinds),
        Err(diagnostics) => Err(diagnostics),
    }
}

/// The text of a file of the project, or the one diagnostic that says why it is none.
pub(crate) fn utf8<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str, Diagnostics> {
    if let Some(refused) = limits::check_size(bytes.len()) {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).into_owned();
        return Err(refusal(file, &start, refused));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
        let at = good.len();
        let refused = Diagnostic::error("dag::not_utf8", at..at, format!("the file is not UTF-8 from byte {at}"))
            .label("text ends here")
            .help("save the file as UTF-8");
        refusal(file, &good, refused)
    })
}

fn refusal(file: &str, source: &str, item: Diagnostic) -> Diagnostics {
    Diagnostics { file: file.to_owned(), source: source.to_owned(), items: vec![item] }
}

fn lower_into(file: &str, source: &str, kinds: &dyn KindCatalog, sink: &mut Sink<'_>) -> Option<Dag> {
    let document = read::parse(source, sink)?;
    let spec = spec::read(file, &Section::root(document.get_ref()), sink)?;
    check_fan_outs(&spec, sink);
    let infos = spec.tasks.iter().map(|task| check_kind(&spec, task, kinds, sink)).collect::<Vec<_>>();
    lints::no_timeout(&spec, sink);
    if sink.is_broken() {
        references::check(&spec, None, sink);
        return None;
    }
    let ports = spec.tasks.iter().zip(&infos).map(|(task, info)| ports(task, *info)).collect::<Vec<_>>();
    let mut links = graph::link(&spec, sink);
    for (doubtful, info) in links.doubtful.iter_mut().zip(&infos) {
        *doubtful |= info.is_none();
    }
    references::check(&spec, Some(&links), sink);
    let bound = bind::bind(&spec, &links, &ports, sink);
    if sink.has_errors() {
        return None;
    }
    lints::unread(&spec, &links, (&ports, &bound), sink);
    build(source, spec, &links, (&infos, ports, bound))
}

/// Notes matrices that are too large, alone or together, and fan-outs that can not run yet.
fn check_fan_outs(spec: &DagSpec<'_, '_>, sink: &mut Sink<'_>) {
    let mut elements = 0_usize;
    for task in &spec.tasks {
        elements = elements.saturating_add(task.matrix.elements);
        if elements > limits::MAX_MATRIX_ELEMENTS {
            let made =
                if task.matrix.elements == usize::MAX { "too many to count".into() } else { elements.to_string() };
            sink.push(
                Diagnostic::error(
                    "dag::matrix_too_large",
                    task.matrix.span.clone(),
                    format!("{}: the matrix is too large", task.name),
                )
                .label(format!("{made} elements up to here"))
                .help(format!("at most {} elements in all matrices of a DAG", limits::MAX_MATRIX_ELEMENTS)),
            );
            // Counted on from here, each later one would be told for this one's fault.
            elements = 0;
        }
        check_fan_out(task, sink);
    }
}

/// `for_each` is one expression, and no second way to fan out.
fn check_fan_out(task: &TaskSpec<'_, '_>, sink: &mut Sink<'_>) {
    let Some((text, span)) = &task.for_each else {
        return;
    };
    if !task.matrix.axes.is_empty() {
        sink.push(
            Diagnostic::error("dag::two_fan_outs", span.clone(), format!("{}: both matrix and for_each", task.name))
                .label("one of the two")
                .help("put the axes of the matrix into the list that for_each reads"),
        );
    }
    if !crate::template::is_one_expression(text) {
        sink.push(
            Diagnostic::error("dag::bad_value", span.clone(), format!("{}: for_each is not one expression", task.name))
                .label("has to yield a list")
                .help("write for_each = \"{{tasks.<id>.outputs.<name>}}\""),
        );
    }
}

fn check_kind<'k>(
    spec: &DagSpec<'_, '_>,
    task: &TaskSpec<'_, '_>,
    kinds: &'k dyn KindCatalog,
    sink: &mut Sink<'_>,
) -> Option<&'k KindInfo> {
    lints::plain_secrets(task, sink);
    let (name, span) = task.kind.as_ref()?;
    let Some(info) = kinds.kind(name) else {
        let message = format!("{} is of kind {:?}, which does not exist", task.name, read::brief(name));
        let diagnostic = Diagnostic::error("dag::unknown_kind", span.clone(), message).label("no such kind");
        unknown(diagnostic, name, kinds.names(), sink);
        return None;
    };
    with::check(spec, task, info, sink);
    lints::no_retries(task, info, sink);
    lints::cache_without_effect(task, info, sink);
    Some(info)
}

fn ports(task: &TaskSpec<'_, '_>, info: Option<&KindInfo>) -> Ports {
    info.map(|info| Ports { inputs: (info.inputs)(&task.with.value), outputs: (info.outputs)(&task.with.value) })
        .unwrap_or_default()
}

/// Puts the parts together; `None` cannot be once there is no error, and is no panic either.
fn build(
    source: &str,
    spec: DagSpec<'_, '_>,
    links: &Links,
    (infos, ports, bound): (&[Option<&KindInfo>], Vec<Ports>, Vec<Vec<Bound>>),
) -> Option<Dag> {
    let ids = spec.tasks.iter().map(|task| task.id.clone()).collect::<Option<Vec<_>>>()?;
    let mut graph: DiGraph<Task, ()> = DiGraph::with_capacity(ids.len(), 0);
    for (index, ((task, ports), bound)) in spec.tasks.into_iter().zip(ports).zip(bound).enumerate() {
        let needs = links.parents[index].iter().map(|&parent| ids[parent].clone()).collect();
        let lowered = Lowered { info: infos[index]?, needs, inputs: bindings(&ports, bound, &ids), ports };
        graph.add_node(lower_task(task, lowered)?);
    }
    for (index, parents) in links.parents.iter().enumerate() {
        for &parent in parents {
            graph.add_edge(NodeIndex::new(parent), NodeIndex::new(index), ());
        }
    }
    Some(Dag {
        id: spec.id?,
        version: Digest::of(source.as_bytes()),
        source: source.to_owned(),
        description: spec.description,
        tags: spec.tags,
        max_active_runs: spec.max_active_runs,
        overlap: spec.overlap,
        deadline: spec.deadline,
        schedule: spec.schedule,
        params: spec.params,
        nodes: graph.node_indices().map(|node| (graph[node].id.clone(), node)).collect(),
        graph,
    })
}

fn bindings(ports: &Ports, bound: Vec<Bound>, ids: &[TaskId]) -> Vec<InputBinding> {
    bound
        .into_iter()
        .map(|bound| {
            let input = &ports.inputs[bound.input];
            InputBinding {
                name: input.name.clone(),
                producers: bound.producers.iter().map(|&index| ids[index].clone()).collect(),
                optional: input.optional,
            }
        })
        .collect()
}

struct Lowered<'k> {
    info: &'k KindInfo,
    needs: Vec<TaskId>,
    inputs: Vec<InputBinding>,
    ports: Ports,
}

fn lower_task(task: TaskSpec<'_, '_>, lowered: Lowered<'_>) -> Option<Task> {
    Some(Task {
        id: task.id?,
        kind: lowered.info.name.to_owned(),
        needs: lowered.needs,
        trigger_rule: task.trigger_rule,
        condition: task.condition.map(|(_, value)| value),
        matrix: (0..task.matrix.elements).map(|number| task.matrix.element(number)).collect(),
        for_each: task.for_each.map(|(text, _)| text.to_owned()),
        with: task.with.value,
        inputs: lowered.inputs,
        outputs: lowered.ports.outputs,
        timeouts: task.policies.timeouts,
        retries: task.policies.retries,
        pool: task.policies.pool,
        priority: task.policies.priority,
        cache: task.cache,
        isolation: task.policies.isolation.unwrap_or(lowered.info.isolation),
        max_in_flight: task.max_in_flight,
    })
}

impl Matrix {
    /// Element `number` of the cross product; the last axis turns fastest. Empty without a matrix.
    pub(super) fn element(&self, number: usize) -> indexmap::IndexMap<String, Value> {
        let mut rest = number;
        let mut chosen = Vec::with_capacity(self.axes.len());
        for (name, values) in self.axes.iter().rev().filter(|(_, values)| !values.is_empty()) {
            chosen.push((name.clone(), values[rest % values.len()].clone()));
            rest /= values.len();
        }
        chosen.into_iter().rev().collect()
    }
}
