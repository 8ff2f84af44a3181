//! What a file may be before it is parsed: its size and its nesting.
//!
//! `read::parse` asks here first. A nested value is built, walked and dropped recursively, so depth is refused on the
//! tokens, where it costs nothing.

use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::Diagnostic;

/// Bytes of TOML.
pub const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Tasks of a DAG.
pub const MAX_TASKS: usize = 10_000;
/// Edges of a DAG.
pub const MAX_EDGES: usize = 100_000;
/// Elements of all matrices of a DAG together.
pub const MAX_MATRIX_ELEMENTS: usize = 10_000;
/// Nesting of tables and arrays: half of what the JSON readers downstream allow.
pub const MAX_DEPTH: usize = 60;

/// The part of an oversized file that is kept for its report.
pub(crate) fn head(source: &str) -> &str {
    let mut end = source.len().min(4096);
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    &source[..end]
}

/// Refuses a file by its size.
pub(crate) fn check_size(bytes: usize) -> Option<Diagnostic> {
    (bytes > MAX_SOURCE_BYTES).then(|| {
        Diagnostic::error("dag::too_large", 0..0, format!("the file has {bytes} bytes"))
            .label("the file begins here")
            .help(format!("at most {MAX_SOURCE_BYTES} bytes (1 MiB); split it, or generate data as artifacts"))
    })
}

/// Refuses a file by the nesting of its brackets and dotted keys.
pub(crate) fn check_depth(source: &str) -> Option<Diagnostic> {
    // Dots are counted per key, and each open bracket remembers those around it: `a.b = [{ c.d = 1 }]`.
    let mut around: Vec<usize> = Vec::new();
    let mut dots = 0;
    for token in Source::new(source).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                around.push(dots);
                dots = 0;
            }
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => dots = around.pop().unwrap_or(0),
            // A key never goes on after a comma or on the next line.
            TokenKind::Comma | TokenKind::Newline => dots = 0,
            _ => {}
        }
        if around.len().max(dots) > MAX_DEPTH || around.len() + around.iter().sum::<usize>() + dots > MAX_DEPTH {
            let span = token.span();
            return Some(
                Diagnostic::error("dag::too_deep", span.start()..span.end(), "tables and arrays are nested too deep")
                    .label(format!("more than {MAX_DEPTH} levels"))
                    .help(format!("at most {MAX_DEPTH} levels of brackets and dotted keys")),
            );
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_refused_however_it_is_written() {
        let deep = [
            format!("a = {}{}", "[".repeat(10_000), "]".repeat(10_000)),
            "[".repeat(10_000),
            format!("a = {}", "{a=".repeat(10_000)),
            vec!["a"; 10_000].join("."),
            format!("[{}]", vec!["a"; 10_000].join(" . ")),
            format!("a = {}", "{a.a.a=".repeat(1_000)),
        ];
        for source in deep {
            assert!(check_depth(&source).is_some(), "{}", &source[..40]);
        }
    }

    #[test]
    fn ordinary_files_pass() {
        let source = "a.b.c = [1.5, 2.5, { d.e = 1 }]\n".repeat(1_000);
        assert!(check_depth(&source).is_none());
        assert!(check_depth(&format!("a = {}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))).is_none());
        let floats = format!("a = [{}]", vec!["1.5"; 1_000].join("\n,"));
        assert!(check_depth(&floats).is_none());
        let quoted = format!("a = \"{}\" # {}", "[.".repeat(1_000), "{.".repeat(1_000));
        assert!(check_depth(&quoted).is_none());
    }
}
