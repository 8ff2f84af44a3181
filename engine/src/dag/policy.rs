//! Time limits, retries, pool, priority and isolation: what `[defaults]` and a task may both say.
//!
//! Called by `spec`. A task's keys overlay the defaults one by one, also within `retries`.

use std::time::Duration;

use toml::de::DeValue;

use super::read::{Section, Sink, integer, one_of, read_duration, text, wrong_type};
use super::{Backoff, Isolation, RetryOn, RetryPolicy, Timeouts, spec};
use crate::id::TaskId;

/// Attempts beyond the first; a task that fails a hundred times is not mended by one more.
const MAX_RETRIES: i64 = 100;

/// What `[defaults]` and a task may both say.
#[derive(Debug, Clone)]
pub(crate) struct Policies {
    pub(crate) timeouts: Timeouts,
    pub(crate) retries: RetryPolicy,
    /// Whether someone has thought about retries, be it to say 0.
    pub(crate) retries_given: bool,
    pub(crate) pool: Option<String>,
    pub(crate) priority: i32,
    /// `None`: what the kind says.
    pub(crate) isolation: Option<Isolation>,
}

impl Default for Policies {
    /// No limits, no retries.
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retries: RetryPolicy {
                max: 0,
                backoff: Backoff::Exponential,
                initial: Duration::from_secs(5),
                max_delay: Duration::from_secs(300),
                // Enough to part tasks that failed together, too little to surprise anybody.
                jitter: 0.2,
                retry_on: RetryOn::Transient,
            },
            retries_given: false,
            pool: None,
            priority: 0,
            isolation: None,
        }
    }
}

/// Reads `[defaults]`.
pub(crate) fn read_defaults(root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Policies {
    let Some(section) = root.section("defaults", sink) else {
        return Policies::default();
    };
    section.allow(&["timeout", "retries", "pool", "priority", "isolation"], sink);
    read_task(&section, &Policies::default(), sink)
}

/// Reads a task's policies over `defaults`.
pub(crate) fn read_task(section: &Section<'_, '_>, defaults: &Policies, sink: &mut Sink<'_>) -> Policies {
    let priority = section.integer("priority", -1000..=1000, sink).and_then(|number| i32::try_from(number).ok());
    Policies {
        timeouts: read_timeouts(section, defaults.timeouts, sink),
        retries: read_retries(section, &defaults.retries, sink),
        retries_given: defaults.retries_given || section.get("retries").is_some(),
        pool: read_pool(section, sink).or_else(|| defaults.pool.clone()),
        priority: priority.unwrap_or(defaults.priority),
        isolation: spec::isolation(section, sink).or(defaults.isolation),
    }
}

fn read_pool(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<String> {
    let (name, span) = section.text("pool", sink)?;
    match TaskId::parse(name) {
        Ok(_) => Some(name.to_owned()),
        Err(error) => {
            spec::bad_id(&crate::id::IdError { what: "pool id", ..error }, span, sink);
            None
        }
    }
}

/// `timeout = "30m"`, or `timeout = { queue = "10m", attempt = "30m", total = "2h" }`.
fn read_timeouts(section: &Section<'_, '_>, defaults: Timeouts, sink: &mut Sink<'_>) -> Timeouts {
    let Some(node) = section.get("timeout") else {
        return defaults;
    };
    let path = section.path("timeout");
    match node.get_ref() {
        DeValue::String(_) => Timeouts { attempt: read_duration(&path, node, sink).or(defaults.attempt), ..defaults },
        DeValue::Table(table) => {
            let table = Section { name: path, span: section.key_span("timeout"), table };
            table.allow(&["queue", "attempt", "total"], sink);
            Timeouts {
                queue: table.duration("queue", sink).or(defaults.queue),
                attempt: table.duration("attempt", sink).or(defaults.attempt),
                total: table.duration("total", sink).or(defaults.total),
            }
        }
        other => {
            wrong_type(&path, "a duration in quotes, such as \"30m\"", other, node.span(), sink);
            defaults
        }
    }
}

/// `retries = 2`, or a table with any of the policy's keys.
fn read_retries(section: &Section<'_, '_>, defaults: &RetryPolicy, sink: &mut Sink<'_>) -> RetryPolicy {
    let mut policy = defaults.clone();
    let Some(node) = section.get("retries") else {
        return policy;
    };
    let path = section.path("retries");
    match node.get_ref() {
        DeValue::Integer(_) => {
            if let Some(max) = integer(&path, node, 0..=MAX_RETRIES, sink) {
                policy.max = u32::try_from(max).unwrap_or(policy.max);
            }
        }
        DeValue::Table(table) => {
            let table = Section { name: path, span: section.key_span("retries"), table };
            read_retry_table(&table, &mut policy, sink);
        }
        other => wrong_type(&path, "a whole number, or a table { max = 2, ... }", other, node.span(), sink),
    }
    policy
}

fn read_retry_table(table: &Section<'_, '_>, policy: &mut RetryPolicy, sink: &mut Sink<'_>) {
    table.allow(&["max", "backoff", "initial", "max_delay", "jitter", "retry_on"], sink);
    if let Some(max) = table.integer("max", 0..=MAX_RETRIES, sink) {
        policy.max = u32::try_from(max).unwrap_or(policy.max);
    }
    match table.one_of("backoff", &["constant", "exponential"], sink) {
        Some("constant") => policy.backoff = Backoff::Constant,
        Some(_) => policy.backoff = Backoff::Exponential,
        None => {}
    }
    policy.initial = table.duration("initial", sink).unwrap_or(policy.initial);
    policy.max_delay = table.duration("max_delay", sink).unwrap_or(policy.max_delay.max(policy.initial));
    policy.jitter = table.float("jitter", 0.0..=1.0, sink).unwrap_or(policy.jitter);
    if let Some(node) = table.get("retry_on")
        && let Some((word, span)) = text(&table.path("retry_on"), node, sink)
    {
        match one_of(&table.path("retry_on"), word, &["transient", "any"], span, sink) {
            Some("any") => policy.retry_on = RetryOn::Any,
            Some(_) => policy.retry_on = RetryOn::Transient,
            None => {}
        }
    }
    if policy.max_delay < policy.initial {
        sink.push(
            super::Diagnostic::error(
                "dag::out_of_range",
                table.key_span("max_delay"),
                format!("{} is shorter than the first delay", table.path("max_delay")),
            )
            .label("shorter than `initial`")
            .help("raise max_delay, or lower initial"),
        );
    }
}
