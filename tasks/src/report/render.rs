//! From a page to one HTML file that needs nothing else: template, style, plotly.js, all inside.
//!
//! Called by the task. The file asks the network for nothing, and its content security policy forbids
//! it to; whatever comes from data is escaped here and nowhere else.

use handlebars::Handlebars;
use plotly::Plot;
use serde::Serialize;

use crate::report::figure::FONTS;
use crate::report::page::Page;

/// Embedded, so that the binary needs no folder beside it.
const TEMPLATE: &str = include_str!("../../../templates/report.html.hbs");

/// Why a page could not become HTML.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    /// The template and the page do not fit: a bug.
    #[error("templates/report.html.hbs can not be compiled")]
    Template(#[source] Box<handlebars::TemplateError>),
    /// The template asks for what the page has not: a bug.
    #[error("templates/report.html.hbs does not fit the page")]
    Render(#[source] Box<handlebars::RenderError>),
    /// The plotly crate no longer embeds its script as its first `<script>` element.
    #[error("the plotly crate embeds no script; build it with its feature plotly_embed_js")]
    Script,
}

/// What the template sees.
#[derive(Serialize)]
struct View<'a> {
    page: &'a Page,
    fonts: &'a str,
    plotly: &'a str,
    has_figures: bool,
}

/// The HTML of `page`; equal pages give equal bytes.
///
/// # Errors
/// Bugs of ours only: see [`RenderError`].
pub(super) fn html(page: &Page) -> Result<String, RenderError> {
    let mut handlebars = Handlebars::new();
    handlebars.set_strict_mode(true);
    handlebars.register_escape_fn(escape);
    handlebars
        .register_template_string("report", TEMPLATE)
        .map_err(|source| RenderError::Template(Box::new(source)))?;
    let has_figures = page.sections.iter().flat_map(|section| &section.blocks).any(|block| !block.figures.is_empty());
    let sources = if has_figures { Plot::offline_js_sources() } else { String::new() };
    let plotly = if has_figures { first_script(&sources).ok_or(RenderError::Script)? } else { "" };
    let view = View { page, fonts: FONTS, plotly, has_figures };
    handlebars.render("report", &view).map_err(|source| RenderError::Render(Box::new(source)))
}

/// The body of the first `<script>`: plotly itself. The second is MathJax, which no report needs.
fn first_script(sources: &str) -> Option<&str> {
    let (_, rest) = sources.split_once("<script type=\"text/javascript\">")?;
    let (script, _) = rest.split_once("</script>")?;
    script.contains("plotly.js").then_some(script)
}

/// Escapes for text and for quoted attributes, and shows what would otherwise work unseen.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '`' => safe.push_str("&#96;"),
            other => safe.push(visible(other)),
        }
    }
    safe
}

/// Control characters and those that turn the direction of text become U+FFFD: a name from data must
/// not reorder the sentence around it.
pub(super) fn visible(character: char) -> char {
    match character {
        '\n' | '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => char::REPLACEMENT_CHARACTER,
        control if control.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_embeds_plotly_and_we_take_nothing_else() {
        let sources = Plot::offline_js_sources();
        let script = first_script(&sources).expect("plotly_embed_js is on");
        assert!(script.len() > 1_000_000 && script.len() < 5_000_000, "{}", script.len());
        assert!(!script.contains("<!--") && !script.contains("</script"), "it would end its own element");
        assert_eq!(first_script("<script type=\"text/javascript\">other</script>"), None);
    }

    #[test]
    fn texts_are_escaped_and_unseen_characters_shown() {
        assert_eq!(escape("<a href=\"x\">'`&"), "&lt;a href=&quot;x&quot;&gt;&#39;&#96;&amp;");
        assert_eq!(escape("a\u{202e}b\0c\nd"), "a\u{fffd}b\u{fffd}c d");
    }
}
