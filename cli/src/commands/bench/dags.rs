//! The benchmarks' DAGs, as TOML like any other.

use std::fmt::Write as _;

/// `tasks` no-ops, one after the other.
pub(super) fn chain(tasks: usize) -> String {
    let mut toml = header();
    for task in 0..tasks {
        let needs = if task == 0 { String::new() } else { format!("needs = [\"t{}\"]\n", task - 1) };
        push(&mut toml, &format!("t{task}"), &needs, 0);
    }
    toml
}

/// One, then `width` at once, then one.
pub(super) fn fan(width: usize) -> String {
    let mut toml = header();
    push(&mut toml, "first", "", 0);
    push(&mut toml, "middle", &format!("needs = [\"first\"]\n{}", matrix(width)), 0);
    push(&mut toml, "last", "needs = [\"middle\"]\n", 0);
    toml
}

/// `layers` of `width` tasks, each needing all of the layer before.
pub(super) fn layers(layers: usize, width: usize) -> String {
    let mut toml = header();
    for layer in 0..layers {
        let before: Vec<_> = (0..width).map(|at| format!("\"l{}_{at}\"", layer.wrapping_sub(1))).collect();
        let needs = if layer == 0 { String::new() } else { format!("needs = [{}]\n", before.join(", ")) };
        for at in 0..width {
            push(&mut toml, &format!("l{layer}_{at}"), &needs, 0);
        }
    }
    toml
}

/// `width` independent tasks that wait.
pub(super) fn wide(width: usize, wait_ms: u64) -> String {
    let mut toml = header();
    push(&mut toml, "task", &matrix(width), wait_ms);
    toml
}

/// One, then one per element of a list of `width`, 64 at once, then one.
pub(super) fn for_each(width: usize) -> String {
    let mut toml = header();
    writeln!(toml, "[params]\nitems = {{ type = \"array\", description = \"{width} elements\" }}").ok();
    push(&mut toml, "first", "", 0);
    let each = "needs = [\"first\"]\nfor_each = \"{{params.items}}\"\nmax_in_flight = 64\n";
    push(&mut toml, "each", each, 0);
    push(&mut toml, "last", "needs = [\"each\"]\n", 0);
    toml
}

fn header() -> String {
    "[dag]\nid = \"bench\"\n".to_owned()
}

fn matrix(width: usize) -> String {
    let elements: Vec<_> = (0..width).map(|at| at.to_string()).collect();
    format!("matrix = {{ n = [{}] }}\n", elements.join(", "))
}

fn push(toml: &mut String, id: &str, more: &str, wait_ms: u64) {
    // Writing to a String does not fail.
    write!(toml, "[tasks.{id}]\nkind = \"noop\"\n{more}").ok();
    if wait_ms > 0 {
        writeln!(toml, "with = {{ wait_ms = {wait_ms} }}").ok();
    }
}
