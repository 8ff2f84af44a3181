//! The edges of a DAG while it is judged: who needs whom, cycles, and walks up to the ancestors.
//!
//! `lower` builds it from the spec; `bind` and `references` walk it. Nothing here recurses: a chain
//! of 10,000 tasks is a DAG like any other.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use super::read::{Sink, brief};
use super::spec::{DagSpec, unknown};
use super::{Diagnostic, limits};

/// Names in a message about a cycle; longer ones are cut in the middle.
const CYCLE_NAMES: usize = 100;

/// Edges by the tasks' positions in the file.
pub(crate) struct Links {
    /// Per task, its distinct existing upstreams, in the file's order of `needs`.
    pub(crate) parents: Vec<Vec<usize>>,
    /// Tasks about which something is unknown, so that what follows from them can not be judged.
    pub(crate) doubtful: Vec<bool>,
}

/// Resolves all `needs`; notes unknown, repeated and own names, too many edges, and cycles.
pub(crate) fn link(spec: &DagSpec<'_, '_>, sink: &mut Sink<'_>) -> Links {
    let positions = spec.tasks.iter().enumerate().map(|(index, task)| (task.name, index)).collect::<HashMap<_, _>>();
    let mut links = Links { parents: Vec::with_capacity(spec.tasks.len()), doubtful: vec![false; spec.tasks.len()] };
    let mut edges = 0;
    for (index, task) in spec.tasks.iter().enumerate() {
        let mut parents = Vec::with_capacity(task.needs.len());
        let mut seen = HashSet::new();
        for (name, span) in &task.needs {
            edges += 1;
            match positions.get(name) {
                Some(&parent) if parent == index => {
                    links.doubtful[index] = true;
                    sink.push(
                        Diagnostic::error("dag::self_edge", span.clone(), format!("{name} needs itself"))
                            .label("this very task")
                            .help("remove it from `needs`"),
                    );
                }
                Some(&parent) if seen.insert(parent) => parents.push(parent),
                Some(_) => sink.push(
                    Diagnostic::error("dag::duplicate_need", span.clone(), format!("{} needs {name} twice", task.name))
                        .label("is in the list already")
                        .help("name each task once"),
                ),
                None => {
                    links.doubtful[index] = true;
                    let message = format!("{} needs {:?}, which is no task", brief(task.name), brief(name));
                    let known = spec.tasks.iter().map(|task| task.name);
                    let diagnostic =
                        Diagnostic::error("dag::unknown_need", span.clone(), message).label("no such task");
                    unknown(diagnostic, name, known, sink);
                }
            }
        }
        if edges > limits::MAX_EDGES {
            sink.push(
                Diagnostic::error("dag::too_many_edges", task.span.clone(), "the DAG has too many edges")
                    .label(format!("more than {} up to here", limits::MAX_EDGES))
                    .help("put a task between the many and the many: each then needs one"),
            );
            break;
        }
        links.parents.push(parents);
    }
    links.parents.resize(spec.tasks.len(), Vec::new());
    note_cycles(spec, &mut links, sink);
    links
}

fn note_cycles(spec: &DagSpec<'_, '_>, links: &mut Links, sink: &mut Sink<'_>) {
    let cyclic = unordered(&links.parents);
    let mut told = vec![false; cyclic.len()];
    for start in (0..cyclic.len()).filter(|&index| cyclic[index]) {
        links.doubtful[start] = true;
        if told[start] {
            continue;
        }
        let Some(cycle) = shortest_cycle(start, &links.parents, &cyclic) else {
            // Only downstream of a cycle.
            continue;
        };
        let known = cycle.iter().any(|&index| told[index]);
        cycle.iter().for_each(|&index| told[index] = true);
        if known {
            continue;
        }
        let names = cycle.iter().map(|&index| spec.tasks[index].name).collect::<Vec<_>>();
        // The edge that closes the circle, in the task that is first in the file.
        let needed = names[names.len() - 1];
        let task = &spec.tasks[start];
        let span = task.needs.iter().find(|(name, _)| *name == needed).map_or(&task.span, |(_, span)| span);
        sink.push(
            Diagnostic::error("dag::cycle", span.clone(), format!("a cycle: {}", circle(&names)))
                .label(format!("{} needs {needed}, which needs {} in the end", task.name, task.name))
                .help("remove one of these edges from `needs`: tasks can not wait for each other"),
        );
    }
}

/// `a -> b -> a`, in the direction of the data.
fn circle(names: &[&str]) -> String {
    let mut shown = names.to_vec();
    let cut;
    if names.len() > CYCLE_NAMES {
        cut = format!("... ({} more) ...", names.len() - CYCLE_NAMES);
        shown.truncate(CYCLE_NAMES - 1);
        shown.push(&cut);
        shown.push(names[names.len() - 1]);
    }
    shown.push(names[0]);
    shown.join(" -> ")
}

/// Per task, whether it can not be ordered: it is on a cycle or below one (Kahn 1962).
fn unordered(parents: &[Vec<usize>]) -> Vec<bool> {
    let mut children = vec![Vec::new(); parents.len()];
    let mut missing = Vec::with_capacity(parents.len());
    for (index, list) in parents.iter().enumerate() {
        missing.push(list.len());
        list.iter().for_each(|&parent| children[parent].push(index));
    }
    let mut ready = (0..parents.len()).filter(|&index| missing[index] == 0).collect::<Vec<_>>();
    let mut stuck = vec![true; parents.len()];
    while let Some(index) = ready.pop() {
        stuck[index] = false;
        for &child in &children[index] {
            missing[child] -= 1;
            if missing[child] == 0 {
                ready.push(child);
            }
        }
    }
    stuck
}

/// A shortest cycle through `start`, from `start` along the edges to its last task, which `start` needs.
fn shortest_cycle(start: usize, parents: &[Vec<usize>], within: &[bool]) -> Option<Vec<usize>> {
    // Upward from `start` until it is met again; `below` leads back down.
    let mut below: HashMap<usize, usize> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(index) = queue.pop_front() {
        for &parent in parents[index].iter().filter(|&&parent| within[parent]) {
            if parent == start {
                let mut cycle = vec![start];
                let mut at = index;
                while at != start {
                    cycle.push(at);
                    at = below[&at];
                }
                return Some(cycle);
            }
            if let Entry::Vacant(entry) = below.entry(parent) {
                entry.insert(index);
                queue.push_back(parent);
            }
        }
    }
    None
}

/// Walks from a task to its ancestors; reused, so that a walk allocates nothing but its result.
pub(crate) struct Ancestry<'g> {
    parents: &'g [Vec<usize>],
    /// Per task, the last walk that met it.
    seen_in: Vec<u32>,
    walk: u32,
    /// Tasks met on this walk, in order.
    met: Vec<usize>,
}

impl<'g> Ancestry<'g> {
    pub(crate) fn new(links: &'g Links) -> Self {
        Self { parents: &links.parents, seen_in: vec![0; links.parents.len()], walk: 0, met: Vec::new() }
    }

    /// The wanted ancestors on the nearest level that has one; in no order.
    pub(crate) fn nearest(&mut self, start: usize, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        self.begin(start);
        let mut level = 0..self.met.len();
        while !level.is_empty() {
            let found = self.met[level.clone()].iter().copied().filter(|&index| wanted(index)).collect::<Vec<_>>();
            if !found.is_empty() {
                return found;
            }
            let next = self.met.len();
            for at in level {
                self.meet_parents(self.met[at]);
            }
            level = next..self.met.len();
        }
        Vec::new()
    }

    /// The wanted ancestors that no other wanted one hides on every path; in no order.
    pub(crate) fn frontier(&mut self, start: usize, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        self.begin(start);
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(&index) = self.met.get(at) {
            if wanted(index) {
                found.push(index);
            } else {
                self.meet_parents(index);
            }
            at += 1;
        }
        found
    }

    fn begin(&mut self, start: usize) {
        self.walk += 1;
        self.met.clear();
        self.meet_parents(start);
    }

    fn meet_parents(&mut self, index: usize) {
        for &parent in &self.parents[index] {
            if self.seen_in[parent] != self.walk {
                self.seen_in[parent] = self.walk;
                self.met.push(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(parents: Vec<Vec<usize>>) -> Links {
        Links { doubtful: vec![false; parents.len()], parents }
    }

    #[test]
    fn the_nearest_level_and_the_frontier_differ() {
        // 0 and 1 are wanted: 3 needs 1 and 2, 2 needs 0.
        let links = links(vec![vec![], vec![], vec![0], vec![1, 2]]);
        let mut ancestry = Ancestry::new(&links);
        assert_eq!(ancestry.nearest(3, |index| index < 2), [1]);
        let mut frontier = ancestry.frontier(3, |index| index < 2);
        frontier.sort_unstable();
        assert_eq!(frontier, [0, 1]);
        assert_eq!(ancestry.frontier(3, |index| index == 2), [2], "0 is behind 2");
        assert!(ancestry.nearest(0, |_| true).is_empty());
    }

    #[test]
    fn cycles_are_found_and_what_is_below_them_is_not_one() {
        let parents = vec![vec![2], vec![0], vec![1], vec![2], vec![]];
        let stuck = unordered(&parents);
        assert_eq!(stuck, [true, true, true, true, false]);
        assert_eq!(shortest_cycle(0, &parents, &stuck), Some(vec![0, 1, 2]));
        assert_eq!(shortest_cycle(3, &parents, &stuck), None);
    }

    #[test]
    fn a_long_circle_is_cut_in_the_middle() {
        let names = (0..500).map(|n| n.to_string()).collect::<Vec<_>>();
        let text = circle(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(text.starts_with("0 -> 1 -> ") && text.ends_with("(400 more) ... -> 499 -> 0"), "{text}");
    }
}
