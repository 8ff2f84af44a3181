//! Why a template can not be parsed or evaluated.
//!
//! Made by `parse` and `evaluate`; `dag` shows them as diagnostics, the executor as a task's failure.

/// Why a template can not be parsed or evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not an expression.
    #[error("{template:?} is no template: {reason}")]
    Syntax {
        /// The string, cut to 120 characters.
        template: String,
        /// What the grammar says.
        reason: String,
    },
    /// Valid handlebars, but more than an expression.
    #[error("{template:?} uses {what}; only expressions such as {{{{params.horizon}}}} are rendered")]
    Unsupported {
        /// The string, cut to 120 characters.
        template: String,
        /// Blocks, partials, hash arguments ...
        what: &'static str,
    },
    /// A call of something that is no helper.
    #[error("{helper:?} is no helper; there are: {known}")]
    UnknownHelper {
        /// The name as written.
        helper: String,
        /// All names.
        known: String,
    },
    /// A helper that can not work on what it was given.
    #[error("{helper} in {{{{{expression}}}}}: {message}")]
    BadArguments {
        /// The helper.
        helper: &'static str,
        /// The call as written.
        expression: String,
        /// What does not fit.
        message: String,
    },
    /// A name that is not there.
    #[error("{{{{{expression}}}}}: there is no {missing:?}; {available}")]
    Missing {
        /// The reference as written.
        expression: String,
        /// The segment that was not found.
        missing: String,
        /// What there is instead.
        available: String,
    },
    /// A condition that is neither true nor false.
    #[error("{expression:?} yields {found}, not true or false")]
    NotBoolean {
        /// The condition as written.
        expression: String,
        /// The type and value that it yields.
        found: String,
    },
    /// A template in a key.
    #[error("the key {key:?} contains a template; only values are rendered")]
    InKey {
        /// The key.
        key: String,
    },
    /// The result is too large.
    #[error("the rendered parameters are larger than {limit} bytes; hand large values over as artifacts")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

/// `text` for a message: at most 120 characters.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
