//! When a run will end, by its history: the longest path through what is left of it.
//!
//! Called for runs with a deadline. A path through tasks that never succeeded before counts for what is
//! known of it: the forecast is a lower bound, and warns late rather than for nothing. Waiting for slots
//! is not counted.

use std::collections::BTreeMap;

use petgraph::Direction;
use petgraph::algo::toposort;

use super::Micros;
use crate::dag::Dag;
use crate::id::TaskId;

/// How far a task of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// None of its instances began.
    Waiting,
    /// One began then, and one has not ended.
    Began(Micros),
    /// All of its instances have ended.
    Ended,
}

/// When the run should end, in microseconds since 1970; `None` = nothing is known of what is left.
pub fn forecast_end(
    dag: &Dag,
    progress: &BTreeMap<TaskId, Progress>,
    durations: &BTreeMap<TaskId, Micros>,
    now: Micros,
) -> Option<Micros> {
    let order = toposort(&dag.graph, None).ok()?;
    let mut ends: BTreeMap<&TaskId, Micros> = BTreeMap::new();
    let mut is_known = false;
    for node in order {
        let task = &dag.graph[node];
        let upstreams = dag.graph.neighbors_directed(node, Direction::Incoming);
        let from = upstreams.filter_map(|node| ends.get(&dag.graph[node].id)).copied().fold(now, Micros::max);
        let took = durations.get(&task.id).copied();
        let end = match progress.get(&task.id).copied().unwrap_or(Progress::Waiting) {
            Progress::Ended => now,
            // Whatever takes longer than ever may end any moment.
            Progress::Began(at) => at.saturating_add(took.unwrap_or(0)).max(now),
            Progress::Waiting => from.saturating_add(took.unwrap_or(0)),
        };
        is_known |= took.is_some() && end > now;
        ends.insert(&task.id, end);
    }
    ends.into_values().max().filter(|_| is_known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::{AnyKind, lower};

    fn diamond() -> Dag {
        let toml = "[dag]\nid = \"x\"\n[tasks.a]\nkind = \"any\"\n[tasks.b]\nkind = \"any\"\nneeds = [\"a\"]\n\
                    [tasks.c]\nkind = \"any\"\nneeds = [\"a\"]\n[tasks.d]\nkind = \"any\"\nneeds = [\"b\", \"c\"]\n";
        lower("x.toml", toml, &AnyKind::new()).expect("good").0
    }

    fn id(text: &str) -> TaskId {
        TaskId::parse(text).expect("an id")
    }

    #[test]
    fn the_longest_path_of_what_is_left_counts() {
        let took = [("a", 10), ("b", 100), ("c", 30), ("d", 5)].map(|(task, took)| (id(task), took)).into();
        let at = |progress: &[(&str, Progress)]| {
            let progress = progress.iter().map(|(task, it)| (id(task), *it)).collect();
            forecast_end(&diamond(), &progress, &took, 1_000)
        };
        assert_eq!(at(&[]), Some(1_115));
        assert_eq!(at(&[("a", Progress::Ended), ("b", Progress::Began(950))]), Some(1_055));
        assert_eq!(
            at(&[("a", Progress::Ended), ("b", Progress::Began(100))]),
            Some(1_035),
            "b ends any moment; c is left"
        );
        let ended = ["a", "b", "c", "d"].map(|task| (task, Progress::Ended));
        assert_eq!(at(&ended), None, "nothing is left");
        assert_eq!(forecast_end(&diamond(), &BTreeMap::new(), &BTreeMap::new(), 0), None, "nothing is known");
    }
}
