//! Documents against the tree: links lead somewhere, and the tree in docs/architecture.md is this one.
//!
//! Called by the other rules. Whether prose is true, only a reader can tell; that what it points at
//! is there, a program can.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where the tree is described: in the first fenced block.
const ARCHITECTURE: &str = "docs/architecture.md";

/// Relative links of `text` (a document at `path` below `root`) that lead to nothing.
pub fn dead_links(root: &Path, path: &Path, text: &str) -> Vec<String> {
    let folder = root.join(path).parent().map_or_else(|| root.to_owned(), Path::to_owned);
    let mut broken = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for target in links(line).filter(|target| !folder.join(target).exists()) {
            broken.push(format!("{}:{}: the link to {target} leads to nothing", path.display(), index + 1));
        }
    }
    broken
}

/// Folders that docs/architecture.md does not describe, and folders that it describes and are not there.
pub fn wrong_tree(root: &Path) -> Vec<String> {
    let described = fs::read_to_string(root.join(ARCHITECTURE)).map(|text| described_folders(&text));
    let described = described.unwrap_or_default();
    let there = folders(root);
    let missing = there.difference(&described).map(|name| format!("{ARCHITECTURE}:1: does not describe {name}/"));
    let invented = described.difference(&there).map(|name| format!("{ARCHITECTURE}:1: {name}/ is not there"));
    missing.chain(invented).collect()
}

/// Targets of `[text](target)` that are paths of ours, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let target = rest[..rest.find(')')?].split('#').next()?;
        let ours = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
        ours.then_some(target)
    })
}

fn described_folders(text: &str) -> BTreeSet<String> {
    let block = text.split("```").nth(1).unwrap_or_default();
    let first_words = block.lines().filter_map(|line| line.split_whitespace().next());
    first_words.filter_map(|word| word.strip_suffix('/')).map(str::to_owned).collect()
}

fn folders(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_nothing_are_found() {
        let text = "[a](docs/architecture.md#tree) [b](https://x.y/z) [c](#here)\n[d](no/such.md)\n";
        let broken = dead_links(&crate::root(), Path::new("README.md"), text);
        assert_eq!(broken, ["README.md:2: the link to no/such.md leads to nothing"]);
    }

    #[test]
    fn the_described_tree_is_read_from_its_block() {
        let text = "Some `x/`.\n```\nCargo.toml  a file\nengine/  b\n  inner  c\n```\n```\nother/\n```\n";
        assert_eq!(described_folders(text), BTreeSet::from(["engine".to_owned()]));
        assert!(folders(&crate::root()).contains("xtask"));
    }
}
