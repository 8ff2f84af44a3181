//! The house rules of docs/architecture.md that a program can check, as plain string checks.
//!
//! Called by `cargo xtask tidy` and by a test, so that CI holds them. Looks at the files that are
//! there, whatever git says. What clippy already holds (sizes of functions, `unwrap`) is not here.

mod documents;
mod modules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use documents::{dead_links, wrong_tree};
use modules::{broken_imports, broken_purity};
use source::Source;

/// Non-test lines of a file at which a reader gives up.
const MAX_LINES: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["core", "common", "utils", "helpers", "manager", "base", "types"];

/// Folders that hold no source of ours.
const NOT_OURS: [&str; 3] = ["target", "artifacts", "node_modules"];

/// What must not stand in any source file, and why. Split, so that this file does not break its own rule.
const FORBIDDEN: [(&str, &str); 6] = [
    (concat!("#[", "ignore"), "a test that is not run is no test"),
    (concat!("to", "do!("), "half-made work does not land"),
    (concat!("unimple", "mented!("), "half-made work does not land"),
    (concat!("TO", "DO"), "half-made work does not land; open an issue"),
    (concat!("#[", "allow("), "use #[expect(lint, reason = \"...\")]"),
    (concat!("#![", "allow("), "use #![expect(lint, reason = \"...\")]"),
];

/// Every place below `root` that breaks a rule: `path:line: what`.
pub fn check(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    let mut broken = Vec::new();
    for file in &files {
        let path = file.strip_prefix(root).unwrap_or(file);
        match fs::read_to_string(file) {
            Ok(text) if path.extension().is_some_and(|extension| extension == "md") => {
                broken.extend(dead_links(root, path, &text));
            }
            Ok(text) => broken.extend(broken_in(&Source::new(path, &text))),
            Err(error) => broken.push(format!("{}:1: not readable: {error}", path.display())),
        }
    }
    if files.is_empty() {
        broken.push(format!("{}:1: no source files here", root.display()));
    }
    broken.extend(wrong_tree(root));
    broken
}

fn broken_in(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    if !source.text().starts_with("//!") {
        broken.push(source.at(1, "does not open with //! (its purpose, who calls it, what it does not do)"));
    }
    let lines = source.production().count();
    if lines > MAX_LINES {
        broken.push(source.at(MAX_LINES, &format!("{lines} non-test lines; at most {MAX_LINES}")));
    }
    if let Some(name) = source.names().find(|name| EMPTY_NAMES.contains(name)) {
        broken.push(source.at(1, &format!("a folder or module called {name:?} says nothing about what is inside")));
    }
    for (number, line) in source.lines() {
        for (token, why) in FORBIDDEN {
            if line.contains(token) {
                broken.push(source.at(number, &format!("{token} is not allowed: {why}")));
            }
        }
    }
    broken.extend(broken_imports(source));
    broken.extend(broken_purity(source));
    broken
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        // A link may lead anywhere, and what it leads to is checked where it lies.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !name.starts_with('.') && !NOT_OURS.contains(&name.as_ref()) {
            collect(&path, files);
        } else if kind.is_file() && [".rs", ".md"].iter().any(|ending| name.ends_with(ending)) {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_the_house_rules() {
        let broken = check(&crate::root());
        assert!(broken.is_empty(), "{} places break a house rule:\n{}", broken.len(), broken.join("\n"));
    }

    fn broken(path: &str, text: &str) -> String {
        broken_in(&Source::new(Path::new(path), text)).join("\n")
    }

    #[test]
    fn a_file_that_keeps_the_rules_passes() {
        assert_eq!(broken("engine/src/dag/mod.rs", "//! Doc.\n\nuse crate::id::TaskId;\n"), "");
    }

    #[test]
    fn every_rule_finds_what_breaks_it() {
        let long = format!("//! Doc.\n{}", "fn f() {}\n".repeat(MAX_LINES));
        for (path, text, message) in [
            ("a/src/x.rs", "fn f() {}\n", "a/src/x.rs:1: does not open with //!"),
            ("a/src/x.rs", long.as_str(), "601 non-test lines"),
            ("a/src/utils/x.rs", "//! Doc.\n", "\"utils\""),
            ("a/src/types.rs", "//! Doc.\n", "\"types\""),
            ("a/src/x.rs", concat!("//! Doc.\n// TO", "DO: later\n"), "a/src/x.rs:2: "),
            ("a/src/x.rs", concat!("//! Doc.\n#[", "ignore]\n"), "a test that is not run"),
            ("a/src/x.rs", concat!("//! Doc.\n#[", "allow(dead_code)]\n"), "expect"),
        ] {
            let found = broken(path, text);
            assert!(found.contains(message), "{path}: {message:?} is not in {found:?}");
        }
    }

    #[test]
    fn tests_do_not_count_as_lines() {
        let text = format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// a line\n".repeat(MAX_LINES));
        assert_eq!(broken("a/src/x.rs", &text), "");
    }

    #[test]
    fn a_folder_without_sources_does_not_pass_by_chance() {
        assert_eq!(check(Path::new("/nowhere")).len(), 1);
    }
}
