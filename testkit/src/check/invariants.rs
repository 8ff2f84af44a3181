//! The invariants as functions of what was read; no database, no clock.
//!
//! Called by the checker, and by the tests below, which break each one on purpose: a checker that
//! can not fail proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use engine::id::Digest;

use super::Violation;
use super::read::{Event, Facts, Key, by_key};

const TERMINAL_RUNS: [&str; 3] = ["succeeded", "failed", "canceled"];
const OPEN_TASKS: [&str; 4] = ["waiting", "ready", "running", "retry_wait"];
/// What begins an attempt.
const CLAIMED: &str = "task_claimed";
/// Notes on an attempt that neither begin nor end it.
const NOTES: [&str; 1] = ["late_report_refused"];

fn broken(invariant: &'static str, place: String, what: impl Into<String>) -> Violation {
    Violation { invariant, place, what: what.into() }
}

fn place((run, task, generation): &Key) -> String {
    let task = if task.is_empty() { "the run itself" } else { task };
    format!("run {run}, {task}, generation {generation}")
}

/// I1: every acknowledged run is there and has ended.
pub(super) fn runs_end(facts: &Facts, acknowledged: &[String]) -> Vec<Violation> {
    let states: BTreeMap<&str, &str> = facts.runs.iter().map(|run| (run.run.as_str(), run.state.as_str())).collect();
    let mut found = Vec::new();
    for run in acknowledged {
        match states.get(run.as_str()) {
            None => found.push(broken("I1", format!("run {run}"), "was acknowledged and is not there")),
            Some(state) if !TERMINAL_RUNS.contains(state) => {
                found.push(broken("I1", format!("run {run}"), format!("has not ended: {state}")));
            }
            Some(_) => {}
        }
    }
    found
}

/// I2: attempts are numbered without gaps under growing epochs, and each has one outcome.
pub(super) fn outcomes(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    let attempts = by_key(&facts.attempts, |it| &it.key);
    let events = by_key(&facts.events, |it| &it.key);
    for instance in &facts.instances {
        let mut own = attempts.get(&instance.key).cloned().unwrap_or_default();
        own.sort_by_key(|it| it.attempt);
        let numbers: Vec<_> = own.iter().map(|it| it.attempt).collect();
        if numbers != (1..=instance.attempts).collect::<Vec<_>>() {
            let what = format!("has attempts {numbers:?}, its row says {}", instance.attempts);
            found.push(broken("I2", place(&instance.key), what));
        }
        if !own.is_sorted_by(|a, b| a.epoch < b.epoch) {
            found.push(broken("I2", place(&instance.key), "has a later attempt under an epoch that is not greater"));
        }
        for attempt in own {
            let own = events.get(&instance.key).into_iter().flatten().copied();
            let (begins, others): (Vec<&Event>, Vec<&Event>) = own
                .filter(|it| it.attempt == Some(attempt.attempt) && !NOTES.contains(&it.event.as_str()))
                .partition(|it| it.event == CLAIMED);
            let expected = usize::from(attempt.state != "running");
            let is_other = |it: &&Event| it.epoch != Some(attempt.epoch);
            if (begins.len(), others.len()) != (1, expected) || begins.iter().chain(&others).any(is_other) {
                let words: Vec<_> = others.iter().map(|it| it.event.as_str()).collect();
                let what = format!(
                    "attempt {} ({}) began {} times and ended as {words:?}",
                    attempt.attempt,
                    attempt.state,
                    begins.len()
                );
                found.push(broken("I2", place(&instance.key), what));
            }
        }
    }
    found
}

/// I2: the events of a run and of a task instance are numbered from 1 without gaps.
pub(super) fn events(facts: &Facts) -> Vec<Violation> {
    let events = by_key(&facts.events, |it| &it.key);
    let instances = facts.instances.iter().map(|it| (it.key.clone(), it.version));
    let runs = facts.runs.iter().map(|it| ((it.run.clone(), String::new(), 0), it.version));
    let mut found = Vec::new();
    for (key, version) in instances.chain(runs) {
        let numbers: Vec<_> = events.get(&key).into_iter().flatten().map(|it| it.seq).collect();
        if numbers != (1..=version).collect::<Vec<_>>() {
            found.push(broken("I2", place(&key), format!("its row counts {version} events, there are {numbers:?}")));
        }
    }
    found
}

/// I3: every start in the ledger has its claim and happened once; what was committed is the last claim's.
pub(super) fn claims(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    let claimed: BTreeMap<(&Key, i64), i64> =
        facts.attempts.iter().map(|it| ((&it.key, it.attempt), it.epoch)).collect();
    let mut seen = BTreeSet::new();
    for start in facts.ledger.iter().filter(|entry| entry.phase == "start") {
        let key = (start.run.clone(), start.task.clone(), start.generation);
        if claimed.get(&(&key, start.attempt)) != Some(&start.epoch) {
            let what = format!("attempt {} ran under epoch {} without such a claim", start.attempt, start.epoch);
            found.push(broken("I3", place(&key), what));
        }
        if !seen.insert((key.clone(), start.attempt)) {
            found.push(broken("I3", place(&key), format!("attempt {} was started twice", start.attempt)));
        }
    }
    let attempts = by_key(&facts.attempts, |it| &it.key);
    for instance in &facts.instances {
        let own = attempts.get(&instance.key).into_iter().flatten();
        let good: Vec<_> = own.filter(|it| it.state == "succeeded").map(|it| it.epoch).collect();
        let expected: &[i64] = if instance.state == "succeeded" { &[instance.epoch] } else { &[] };
        if good != expected {
            let what = format!("is {} under epoch {}, and succeeded under {good:?}", instance.state, instance.epoch);
            found.push(broken("I3", place(&instance.key), what));
        }
    }
    found
}

/// I4: a child starts after each of its parents has ended well; by the order of the ledger.
pub(super) fn order(facts: &Facts, edges: &BTreeMap<String, Vec<(String, String)>>) -> Vec<Violation> {
    let mut found = Vec::new();
    for run in &facts.runs {
        for (parent, child) in edges.get(&run.dag).into_iter().flatten() {
            let lines = || facts.ledger.iter().enumerate().filter(|(_, it)| it.run == run.run);
            let parents = facts.instances.iter().filter(|it| it.key.0 == run.run && task_of(&it.key.1) == parent);
            let mut ready_after = None;
            for instance in parents {
                let end = lines()
                    .find(|(_, it)| it.phase == "end" && it.task == instance.key.1 && it.epoch == instance.epoch);
                ready_after = ready_after.max(end.map(|(line, _)| line));
            }
            let Some(ready_after) = ready_after else { continue };
            for (line, start) in lines().filter(|(_, it)| it.phase == "start" && task_of(&it.task) == child) {
                if line < ready_after {
                    let key = (start.run.clone(), start.task.clone(), start.generation);
                    found.push(broken("I4", place(&key), format!("started before {parent} had ended")));
                }
            }
        }
    }
    found
}

fn task_of(instance: &str) -> &str {
    instance.split('[').next().unwrap_or(instance)
}

/// I6: every object that a row names is there, with its size and digest, from an attempt that ended.
pub(super) fn objects(facts: &Facts, object: &dyn Fn(&str) -> PathBuf) -> Vec<Violation> {
    let mut found = Vec::new();
    let open: BTreeSet<(&Key, i64)> =
        facts.attempts.iter().filter(|it| it.state == "running").map(|it| (&it.key, it.epoch)).collect();
    for artifact in &facts.artifacts {
        let place = format!("object {}", artifact.object);
        if open.contains(&(&artifact.key, artifact.epoch)) {
            found.push(broken("I6", place.clone(), "is visible, and its attempt has not ended"));
        }
        match std::fs::read(object(&artifact.object)) {
            Err(error) => found.push(broken("I6", place, format!("is named by a row and can not be read: {error}"))),
            Ok(bytes) => {
                let digest = Digest::of(&bytes).to_string();
                if digest != artifact.digest || bytes.len() as i64 != artifact.bytes {
                    let what = format!("has {} bytes with digest {digest}, its row says otherwise", bytes.len());
                    found.push(broken("I6", place, what));
                }
            }
        }
    }
    found
}

/// I7: one run per logical time of a schedule.
pub(super) fn schedules(facts: &Facts) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for run in facts.runs.iter().filter(|run| run.kind == "scheduled") {
        if !seen.insert((&run.tenant, &run.dag, run.logical_time)) {
            let what = format!("is one of two for {} at {}", run.dag, run.logical_time);
            found.push(broken("I7", format!("run {}", run.run), what));
        }
    }
    found
}

/// I8: nothing waits, is ready or runs any more.
pub(super) fn nothing_is_left(facts: &Facts) -> Vec<Violation> {
    let instances = facts.instances.iter().filter(|it| OPEN_TASKS.contains(&it.state.as_str()));
    let mut found: Vec<_> =
        instances.map(|it| broken("I8", place(&it.key), format!("is {} for ever", it.state))).collect();
    for attempt in facts.attempts.iter().filter(|it| it.state == "running") {
        found.push(broken("I8", place(&attempt.key), format!("attempt {} runs for ever", attempt.attempt)));
    }
    found
}

/// I10: transactions wait for rows in one order. Postgres mends what does not, after a second in which nobody who
/// wants one of the rows gets on.
pub(super) fn waits(facts: &Facts) -> Vec<Violation> {
    match facts.deadlocks {
        0 => Vec::new(),
        count => vec![broken("I10", "the database".to_owned(), format!("ended {count} deadlocks"))],
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::{Artifact, Attempt, Instance, Run};
    use super::*;
    use crate::ledger::Entry;

    fn key(task: &str) -> Key {
        ("r".to_owned(), task.to_owned(), 1)
    }

    fn entry(task: &str, attempt: i64, phase: &str) -> Entry {
        let (run, task, phase) = ("r".to_owned(), task.to_owned(), phase.to_owned());
        Entry { run, task, generation: 1, attempt, epoch: attempt, pid: 1, phase }
    }

    fn event(key: Key, seq: i64, word: &str, attempt: Option<i64>) -> Event {
        Event { key, seq, event: word.to_owned(), attempt, epoch: attempt }
    }

    /// One run of `a` (lost once) and then `b`, as it should be.
    fn sound() -> Facts {
        let attempt = |task: &str, attempt, state: &str| Attempt {
            key: key(task),
            attempt,
            epoch: attempt,
            state: state.to_owned(),
        };
        let instance = |task: &str, version, attempts| Instance {
            key: key(task),
            state: "succeeded".to_owned(),
            version,
            epoch: attempts,
            attempts,
        };
        let mut events: Vec<Event> = Vec::new();
        for (seq, (word, attempt)) in [
            ("task_became_ready", None),
            (CLAIMED, Some(1)),
            ("task_orphaned", Some(1)),
            (CLAIMED, Some(2)),
            ("task_succeeded", Some(2)),
        ]
        .into_iter()
        .enumerate()
        {
            events.push(event(key("a"), seq as i64 + 1, word, attempt));
        }
        for (seq, (word, attempt)) in
            [("task_became_ready", None), (CLAIMED, Some(1)), ("task_succeeded", Some(1))].into_iter().enumerate()
        {
            events.push(event(key("b"), seq as i64 + 1, word, attempt));
        }
        events.push(event(("r".to_owned(), String::new(), 0), 1, "run_started", None));
        Facts {
            runs: vec![Run {
                run: "r".into(),
                dag: "d".into(),
                state: "succeeded".into(),
                version: 1,
                ..Run::default()
            }],
            instances: vec![instance("a", 5, 2), instance("b", 3, 1)],
            attempts: vec![attempt("a", 1, "lost"), attempt("a", 2, "succeeded"), attempt("b", 1, "succeeded")],
            events,
            artifacts: Vec::new(),
            ledger: [("a", 1, "start"), ("a", 2, "start"), ("a", 2, "end"), ("b", 1, "start"), ("b", 1, "end")]
                .map(|(task, attempt, phase)| entry(task, attempt, phase))
                .to_vec(),
            deadlocks: 0,
        }
    }

    fn all(facts: &Facts) -> Vec<&'static str> {
        let edges = BTreeMap::from([("d".to_owned(), vec![("a".to_owned(), "b".to_owned())])]);
        let file = |_: &str| PathBuf::from("/nowhere/at/all");
        let parts = [
            runs_end(facts, &["r".to_owned()]),
            outcomes(facts),
            events(facts),
            claims(facts),
            order(facts, &edges),
            objects(facts, &file),
            schedules(facts),
            nothing_is_left(facts),
            waits(facts),
        ];
        let mut names: Vec<_> = parts.concat().iter().map(|it| it.invariant).collect();
        names.dedup();
        names
    }

    #[test]
    fn what_is_sound_has_no_violation() {
        assert_eq!(all(&sound()), [""; 0]);
    }

    #[test]
    fn each_invariant_can_be_broken() {
        type Break = fn(&mut Facts);
        let breaks: [(&str, Break); 14] = [
            ("I1", |it| it.runs[0].state = "running".into()),
            ("I1", |it| it.runs.clear()),
            ("I2", |it| it.instances[0].attempts = 3),
            ("I2", |it| it.events[2].seq = 9),
            ("I2", |it| it.events[2].event = CLAIMED.into()),
            ("I2", |it| it.attempts[1].epoch = 1),
            ("I3", |it| it.ledger[0].epoch = 7),
            ("I3", |it| it.ledger[1].attempt = 1),
            ("I3", |it| it.instances[0].epoch = 3),
            ("I4", |it| it.ledger.swap(2, 3)),
            ("I6", |it| it.artifacts = vec![Artifact { key: key("a"), object: "x".into(), ..Artifact::default() }]),
            ("I7", |it| {
                it.runs[0].kind = "scheduled".into();
                it.runs.push(Run { run: "s".into(), ..it.runs[0].clone() });
            }),
            ("I8", |it| it.attempts[2].state = "running".into()),
            ("I10", |it| it.deadlocks = 1),
        ];
        for (at, (name, hurt)) in breaks.into_iter().enumerate() {
            let mut facts = sound();
            hurt(&mut facts);
            assert!(all(&facts).contains(&name), "break {at} of {name} was not seen: {:?}", all(&facts));
        }
    }

    #[test]
    fn a_run_that_was_acknowledged_and_is_gone_is_named() {
        let found = runs_end(&sound(), &["other".to_owned()]);
        assert_eq!(found[0].place, "run other");
    }
}
