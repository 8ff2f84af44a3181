//! The shape of `[schedule]`: known keys of the right types, kept as JSON.
//!
//! Called by `spec`. What a schedule means, whether its time zone exists and when it fires is the
//! business of the scheduler's own module, which reads the JSON.

use serde_json::Value;

use super::Diagnostic;
use super::json::to_json;
use super::read::{Section, Sink, brief};
use crate::id::TaskId;

const KEYS: [&str; 9] =
    ["cron", "every", "timezone", "dst", "catchup", "catchup_window", "calendars", "jitter", "tenants"];

/// Names that cron knows for common rules.
const NAMED: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Checks the section and yields it as JSON.
pub(crate) fn read(section: &Section<'_, '_>, root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Value {
    section.allow(&KEYS, sink);
    read_rule(section, sink);
    read_timezone(section, sink);
    if let Some(dst) = section.section("dst", sink) {
        dst.allow(&["gap", "overlap"], sink);
        dst.one_of("gap", &["shift", "skip"], sink);
        dst.one_of("overlap", &["first", "last", "both"], sink);
    }
    section.one_of("catchup", &["none", "latest", "all"], sink);
    section.duration("catchup_window", sink);
    section.duration("jitter", sink);
    if let Some(calendars) = section.section("calendars", sink) {
        calendars.allow(&["exclude", "policy"], sink);
        calendars.one_of("policy", &["skip", "delay"], sink);
        for (name, span) in calendars.texts("exclude", sink) {
            if let Err(error) = TaskId::parse(name) {
                super::spec::bad_id(&crate::id::IdError { what: "calendar id", ..error }, span, sink);
            }
        }
    }
    if let Some(tenants) = section.section("tenants", sink) {
        tenants.allow(&["status"], sink);
        for (word, span) in tenants.texts("status", sink) {
            super::read::one_of(&tenants.path("status"), word, &["trial", "active", "suspended"], span, sink);
        }
    }
    root.get("schedule").map_or(Value::Null, |node| to_json("schedule", node, sink))
}

fn read_rule(section: &Section<'_, '_>, sink: &mut Sink<'_>) {
    let cron = section.text("cron", sink);
    section.duration("every", sink);
    match (section.get("cron").is_some(), section.get("every").is_some()) {
        (true, true) => sink.push(
            Diagnostic::error("dag::bad_schedule", section.key_span("every"), "a schedule has both cron and every")
                .label("and `cron` is there too")
                .help("keep one of the two"),
        ),
        (false, false) => sink.push(
            Diagnostic::error("dag::bad_schedule", section.span.clone(), "a schedule has neither cron nor every")
                .label("when?")
                .help("add cron = \"15 2 * * *\" or every = \"1h\", or leave [schedule] out"),
        ),
        _ => {}
    }
    if let Some((text, span)) = cron
        && let Err(reason) = check_cron(text)
    {
        sink.push(
            Diagnostic::error("dag::bad_schedule", span, format!("schedule.cron = {:?}: {reason}", brief(text)))
                .label("not a cron rule")
                .help("minute hour day month weekday, such as \"15 2 * * *\"; six fields begin with seconds, seven end with a year"),
        );
    }
}

fn check_cron(text: &str) -> Result<(), String> {
    if text.starts_with('@') {
        return if NAMED.contains(&text) { Ok(()) } else { Err(format!("the names are {}", NAMED.join(", "))) };
    }
    let fields = text.split_whitespace().count();
    if !(5..=7).contains(&fields) {
        return Err(format!("it has {fields} fields, not 5 to 7"));
    }
    match text.chars().find(|&c| !(c.is_ascii_alphanumeric() || " \t*/,-?#".contains(c))) {
        Some(odd) => Err(format!("{odd:?} means nothing in cron")),
        None => Ok(()),
    }
}

fn read_timezone(section: &Section<'_, '_>, sink: &mut Sink<'_>) {
    let Some((name, span)) = section.text("timezone", sink) else {
        return;
    };
    let well_formed = !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'));
    if !well_formed {
        sink.push(
            Diagnostic::error("dag::bad_schedule", span, format!("{:?} is no time zone", brief(name)))
                .label("not a time zone's name")
                .help("use a name of the IANA database, such as \"America/Chicago\" or \"UTC\""),
        );
    }
}
