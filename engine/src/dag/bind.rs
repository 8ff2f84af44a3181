//! Binds each input of a task to the nearest upstream task that makes an artifact of that name.
//!
//! Called by `lower` once the edges are known. One input is read from one task: the nearest level
//! decides, two on it are a mistake. An input of which many are read comes from every producer that
//! no nearer one hides. Nothing is matched by anything but the name.

use std::collections::HashMap;

use super::graph::{Ancestry, Links};
use super::read::Sink;
use super::spec::DagSpec;
use super::{Diagnostic, InputSpec, OutputSpec, suggest};

/// What a task reads and makes, by its kind.
#[derive(Default)]
pub(crate) struct Ports {
    pub(crate) inputs: Vec<InputSpec>,
    pub(crate) outputs: Vec<OutputSpec>,
}

/// A bound input: its position among the task's inputs, and the producers in the file's order.
pub(crate) struct Bound {
    pub(crate) input: usize,
    pub(crate) producers: Vec<usize>,
}

/// Binds all inputs of all tasks; notes those that are missing or ambiguous.
pub(crate) fn bind(spec: &DagSpec<'_, '_>, links: &Links, ports: &[Ports], sink: &mut Sink<'_>) -> Vec<Vec<Bound>> {
    let mut makers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, port) in ports.iter().enumerate() {
        for output in &port.outputs {
            makers.entry(output.name.as_str()).or_default().push(index);
        }
    }
    let mut binder = Binder { spec, links, ports, makers, ancestry: Ancestry::new(links) };
    (0..spec.tasks.len()).map(|index| binder.task(index, sink)).collect()
}

struct Binder<'g> {
    spec: &'g DagSpec<'g, 'g>,
    links: &'g Links,
    ports: &'g [Ports],
    /// Tasks by the name of what they make, in the file's order.
    makers: HashMap<&'g str, Vec<usize>>,
    ancestry: Ancestry<'g>,
}

impl Binder<'_> {
    fn task(&mut self, index: usize, sink: &mut Sink<'_>) -> Vec<Bound> {
        let ports = self.ports;
        let (mut bound, mut missing) = (Vec::new(), Vec::new());
        for (position, input) in ports[index].inputs.iter().enumerate() {
            let mut producers = self.producers(index, input);
            producers.sort_unstable();
            if producers.is_empty() {
                if !input.optional {
                    missing.push(input.name.as_str());
                }
                continue;
            }
            if !input.many {
                self.note_ambiguous(index, input, &producers, sink);
            }
            bound.push(Bound { input: position, producers });
        }
        if !missing.is_empty() {
            self.note_missing(index, &missing, sink);
        }
        bound
    }

    fn producers(&mut self, index: usize, input: &InputSpec) -> Vec<usize> {
        let Some(makers) = self.makers.get(input.name.as_str()) else {
            return Vec::new();
        };
        // In the file's order, so a binary search.
        let wanted = |candidate: usize| makers.binary_search(&candidate).is_ok();
        if input.many { self.ancestry.frontier(index, wanted) } else { self.ancestry.nearest(index, wanted) }
    }

    /// One mistake for a task, whatever it misses: most often one edge mends all.
    fn note_missing(&mut self, index: usize, names: &[&str], sink: &mut Sink<'_>) {
        let doubtful = &self.links.doubtful;
        // What an unknown upstream makes can not be known; one mistake is enough.
        if doubtful[index] || !self.ancestry.nearest(index, |above| doubtful[above]).is_empty() {
            return;
        }
        let task = &self.spec.tasks[index];
        sink.push_with(|| {
            let listed = names.join(", ");
            let it = if names.len() == 1 { "it" } else { "them" };
            let message = format!("{} reads {listed}, and nothing upstream makes {it}", task.name);
            let (kind, span) = task.kind.as_ref().map_or(("its kind", &task.span), |(kind, span)| (kind, span));
            Diagnostic::error("dag::missing_input", span.clone(), message)
                .label(format!("{kind} reads {listed}"))
                .help(self.who_makes(names))
        });
    }

    fn who_makes(&self, names: &[&str]) -> String {
        let advice = names.iter().map(|name| match self.makers.get(name).map(Vec::as_slice) {
            Some([only]) => format!("{} makes {name}: add it to `needs`", self.spec.tasks[*only].name),
            Some([first, ..]) => format!("{} makes {name}, for one: add it to `needs`", self.spec.tasks[*first].name),
            _ => match suggest::nearest(name, self.makers.keys().copied()) {
                Some(near) => format!("no task makes {name}; {near} is made here"),
                None => format!("no task of this DAG makes {name}; add one of a kind that does"),
            },
        });
        advice.collect::<Vec<_>>().join("; ")
    }

    fn note_ambiguous(&self, index: usize, input: &InputSpec, producers: &[usize], sink: &mut Sink<'_>) {
        let task = &self.spec.tasks[index];
        let name = input.name.as_str();
        let span = task.needs.first().map_or(&task.span, |(_, span)| span);
        let elements = self.spec.tasks[producers[0]].matrix.elements;
        let (message, help) = match producers {
            [first, second, ..] => {
                let (first, second) = (self.spec.tasks[*first].name, self.spec.tasks[*second].name);
                (
                    format!("{} reads one {name:?}, but {first} and {second} are equally near", task.name),
                    format!("put one of the two before the other, or a task between that makes {name}"),
                )
            }
            [only] if elements > 1 => (
                format!("{} reads one {name:?}, but {} makes {elements}", task.name, self.spec.tasks[*only].name),
                "the producer has a matrix: put a task between that reads many and makes one".to_owned(),
            ),
            _ => return,
        };
        sink.push(Diagnostic::error("dag::ambiguous_input", span.clone(), message).label("which of them?").help(help));
    }
}
