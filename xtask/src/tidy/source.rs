//! A source file as the rules see it: its place, its lines, where its tests begin.
//!
//! Called by the rules. No parser: the house's format (rustfmt, tests in a last module) is what
//! makes lines enough.

use std::path::Path;

/// One `.rs` file.
pub struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    is_test: bool,
    tests_begin: usize,
}

impl<'a> Source<'a> {
    /// A file at `path`, relative to the workspace.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        let in_tests = path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches")));
        let is_test = in_tests || path.file_stem().is_some_and(|stem| stem == "tests");
        let tests_begin = text
            .match_indices("#[cfg(test)]\n")
            .find(|(at, found)| text[at + found.len()..].starts_with("mod ") && !outlined(&text[at + found.len()..]))
            .map_or(text.len(), |(at, _)| at);
        Self { path, text, is_test, tests_begin: if is_test { 0 } else { tests_begin } }
    }

    pub fn text(&self) -> &str {
        self.text
    }

    /// All lines with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The lines that go into the product, comments included.
    pub fn production(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.text[..self.tests_begin].lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The product's lines without comments: what is compiled.
    pub fn code(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.production().map(|(number, line)| (number, line.split("//").next().unwrap_or(line)))
    }

    /// Names of folders and of the module, from the crate's folder on.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let folders = self.path.parent().into_iter().flat_map(Path::components);
        folders.filter_map(|part| part.as_os_str().to_str()).chain(self.path.file_stem().and_then(|stem| stem.to_str()))
    }

    /// The module below `engine/src` that the file belongs to; `None` elsewhere, and for `lib.rs`.
    pub fn engine_module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("engine/src").ok()?;
        let first = below.components().next()?.as_os_str().to_str()?;
        let module = first.strip_suffix(".rs").unwrap_or(first);
        (module != "lib" && !self.is_test).then_some(module)
    }

    /// Whether the file lies in that folder, given relative to the workspace.
    pub fn is_below(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// `path:line: message`
    pub fn at(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.path.display())
    }
}

/// `mod tests;`: the tests are in a file of their own, and what follows is not tests.
fn outlined(text: &str) -> bool {
    text.lines().next().is_some_and(|line| line.ends_with(';'))
}
