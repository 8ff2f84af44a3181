//! Who may import whom in `engine`, and what the pure layer must not touch.
//!
//! Called by the other rules. The tables are those of docs/architecture.md; a test compares them.

use super::source::Source;

/// Each module of `engine/src` and the modules that it may name beside itself, in reading order.
pub const MAY_IMPORT: [(&str, &[&str]); 20] = [
    ("id", &[]),
    ("template", &["id"]),
    ("schedule", &["id"]),
    ("dag", &["id", "template", "schedule"]),
    ("run", &["id", "dag"]),
    ("plan", &["id", "dag", "run"]),
    ("tenant", &["id", "dag"]),
    ("registry", &["id", "artifact"]),
    ("secret", &[]),
    ("drill", &["id", "dag"]),
    ("clock", &[]),
    ("failpoint", &[]),
    ("task", &["id", "dag", "artifact", "registry", "secret"]),
    ("artifact", &["id", "failpoint"]),
    (
        "store",
        &[
            "id",
            "dag",
            "run",
            "plan",
            "template",
            "tenant",
            "registry",
            "drill",
            "task",
            "artifact",
            "clock",
            "failpoint",
        ],
    ),
    ("launch", &["id", "dag", "plan", "template", "store"]),
    ("replay", &["id", "dag", "run", "plan", "template", "store", "artifact"]),
    (
        "executor",
        &["id", "dag", "run", "plan", "template", "registry", "secret", "drill", "task", "artifact", "store", "clock"],
    ),
    ("scheduler", &["id", "dag", "plan", "run", "schedule", "tenant", "store", "launch", "artifact", "clock"]),
    ("config", &[]),
];

/// No async, no I/O, no clock, no randomness, no globals.
const PURE: [&str; 10] = ["id", "dag", "schedule", "run", "plan", "template", "tenant", "registry", "secret", "drill"];

/// What would break that, and may stand in no line of a pure module.
const IMPURE: [&str; 14] = [
    "async fn",
    "async move",
    ".await",
    "tokio::",
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "SystemTime",
    "Instant::now",
    "Utc::now",
    "Local::now",
    "rand::",
    "println!",
];

/// (module, token, reason): the exceptions, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("registry", "async fn", "declares the port through which tasks read the registry; implements nothing")];

/// Imports of `engine` against the table, and the walls between crates.
pub fn broken_imports(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    if let Some(module) = source.engine_module() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            return vec![source.at(1, &format!("engine::{module} is not in the table of docs/architecture.md"))];
        };
        for (number, line) in source.code() {
            if line.trim_end().ends_with("crate::{") {
                broken.push(source.at(number, "write one `use crate::<module>::...` per module"));
            }
            for import in imported(line) {
                if import != module && !allowed.contains(&import) {
                    broken.push(source.at(number, &format!("engine::{module} must not import engine::{import}")));
                }
            }
        }
    }
    if source.is_below("tasks/src") {
        for (number, line) in source.code() {
            if ["engine::store", "engine::executor", "engine::scheduler"].iter().any(|name| line.contains(name)) {
                broken
                    .push(source.at(number, "tasks see engine::{task, dag, artifact, registry, id}, never the store"));
            }
        }
    }
    if source.is_below("engine/src") {
        for (number, line) in source.code().filter(|(_, line)| line.contains("tasks::")) {
            broken.push(source.at(number, &format!("the engine names no concrete task: {}", line.trim())));
        }
    }
    broken
}

/// Tokens of effects in the pure layer.
pub fn broken_purity(source: &Source) -> Vec<String> {
    let Some(module) = source.engine_module().filter(|module| PURE.contains(module)) else { return Vec::new() };
    let mut broken = Vec::new();
    for (number, line) in source.code() {
        for token in IMPURE.iter().filter(|token| line.contains(**token)) {
            if !EXCEPTIONS.iter().any(|(name, exception, _)| *name == module && exception == token) {
                broken.push(source.at(number, &format!("{token} in engine::{module}, which is pure")));
            }
        }
    }
    broken
}

/// The modules that a line names: `crate::a::b`, `crate::{a, b::c}`.
fn imported(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            // Nested braces hold names of one module; only what stands at the first level is one.
            Some(group) => found.extend(top_level(group)),
            None => found.push(word(rest)),
        }
    }
    found.retain(|name| name.starts_with(|first: char| first.is_ascii_lowercase()));
    found
}

fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0_i32, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' | b',' if depth == 0 => {
                names.push(word(group[start..at].trim()));
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn broken(path: &str, line: &str) -> String {
        let text = format!("//! Doc.\n{line}\n");
        let source = Source::new(Path::new(path), &text);
        [broken_imports(&source), broken_purity(&source)].concat().join("\n")
    }

    #[test]
    fn imports_against_the_table_are_found() {
        assert_eq!(broken("engine/src/plan/mod.rs", "use crate::{dag::Dag, run::{Run, State}};"), "");
        assert_eq!(broken("engine/src/executor/mod.rs", "use crate::store::Store;"), "");
        for (path, line) in [
            ("engine/src/dag/mod.rs", "use crate::run::RunState;"),
            ("engine/src/plan/mod.rs", "use crate::{dag::Dag, store::{Store, Row}};"),
            ("engine/src/run.rs", "    let x = crate::clock::now();"),
            ("engine/src/executor/mod.rs", "use crate::scheduler::Tick;"),
            ("engine/src/scheduler/mod.rs", "use crate::executor::Executor;"),
            ("engine/src/dag/mod.rs", "use crate::{"),
            ("engine/src/mystery/mod.rs", ""),
            ("engine/src/executor/mod.rs", "use headworks_tasks::train;"),
            ("tasks/src/train/mod.rs", "use engine::store::Store;"),
        ] {
            assert!(!broken(path, line).is_empty(), "{path}: {line}");
        }
    }

    #[test]
    fn effects_in_the_pure_layer_are_found() {
        for token in IMPURE {
            assert!(broken("engine/src/plan/mod.rs", token).contains(token), "{token}");
            assert_eq!(broken("engine/src/plan/mod.rs", &format!("// {token}")), "", "comments may name it");
            assert_eq!(broken("engine/src/plan/tests.rs", token), "", "so may tests");
        }
        for (module, token, _) in EXCEPTIONS {
            assert_eq!(broken(&format!("engine/src/{module}.rs"), token), "");
        }
    }

    #[test]
    fn the_table_is_the_one_that_people_read() {
        let document = std::fs::read_to_string(crate::root().join("docs/architecture.md")).expect("the document");
        for (module, allowed) in MAY_IMPORT {
            let imports = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
            let row = document.lines().find(|line| line.starts_with(&format!("| `{module}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/architecture.md has no row for {module}"));
            assert!(
                row.ends_with(&format!("| {imports} |")),
                "docs/architecture.md says {row:?}, the rule {imports:?}"
            );
        }
    }
}
