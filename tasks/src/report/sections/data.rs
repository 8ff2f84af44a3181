//! Whether the data could be trusted: what was read and kept, and every expectation.

use serde_json::Value;

use crate::report::documents::{Contract, Expectation, Validation};
use crate::report::material::Material;
use crate::report::number::{count, optional_count, percent};
use crate::report::page::{Cell, Fact, Section, Table, Tone};

const ID: &str = "data";
const TITLE: &str = "Data quality";

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    if material.contract.is_none() && material.validation.is_none() && material.schema.is_none() {
        let why = material.why_missing("contract_validation_report.json");
        return Section::empty(ID, TITLE, format!("Nothing is known about the data. {why}"));
    }
    let lead = "What came in, what the contract made of it, and what the validation suite expected.";
    let mut section = Section::new(ID, TITLE, lead);
    section.facts(facts(material));
    if let Some(contract) = &material.contract {
        if let Some(reason) = &contract.reason {
            section.heading(format!("Contract: {}", contract.status.replace('_', " ")), reason);
        }
        section.table(account(contract));
        let decisions = decisions(contract);
        if !decisions.rows.is_empty() {
            section.table(decisions);
        }
        contract.notes.iter().for_each(|note| section.heading("Note", note));
    }
    match &material.validation {
        Some(validation) if !validation.results.is_empty() => section.table(expectations(validation)),
        Some(_) => section.heading("Validation", "The suite has no expectation."),
        None => section.heading("Validation", material.why_missing("validation_result.json")),
    }
    section
}

fn facts(material: &Material) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(contract) = &material.contract {
        let rows = &contract.rows;
        facts.extend(rows.read.map(|read| Fact::new("Source rows read", count(read))));
        facts.extend(rows.kept.map(|kept| Fact::new("Source rows kept", count(kept))));
        let rejected = rows.read.zip(rows.kept).map(|(read, kept)| read.saturating_sub(kept));
        facts.extend(rejected.map(|rejected| Fact::new("Source rows rejected", count(rejected))));
    }
    let quarantined = material.validation.as_ref().and_then(|validation| validation.quarantined_rows);
    facts.extend(quarantined.map(|rows| Fact::new("Panel rows quarantined", count(rows))));
    if let Some(schema) = &material.schema {
        facts.push(Fact::new("Series", optional_count(schema.series)));
        facts.push(Fact::new(&format!("Series-{}s", material.period()), optional_count(schema.rows)));
        if let (Some(first), Some(last)) = (&schema.first_time, &schema.last_time) {
            facts.push(Fact::new("Period", format!("{first} to {last}")));
        }
        if !schema.grain.is_empty() {
            facts.push(Fact::new("One series per", schema.grain.join(", ")));
        }
    }
    facts
}

/// Each row of the source is in exactly one line, so that the lines add up.
fn account(contract: &Contract) -> Table {
    let rows = &contract.rows;
    let mut table = Table::new("From the source to the panel", &["Rows", "#Count", "#Share of the source"]);
    let mut line = |strong: bool, what: String, number: Option<u64>| {
        let share = match (number, rows.read) {
            (Some(number), Some(read)) if read > 0 => Some(number as f64 / read as f64),
            _ => None,
        };
        table
            .row_if(strong, vec![Cell::text(what), Cell::number(optional_count(number)), Cell::number(percent(share))]);
    };
    let files = contract.source.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ");
    line(
        false,
        if files.is_empty() { "In the source".to_owned() } else { format!("In the source: {files}") },
        rows.read,
    );
    if contract.bad_rows.is_empty() {
        line(false, "Not readable".to_owned(), rows.bad);
    }
    for (code, problem) in &contract.bad_rows {
        line(false, format!("Not readable: {}", code.replace('_', " ")), Some(problem.count));
    }
    for (filter, number) in &rows.filtered {
        line(false, format!("Left out by filter {}", filter.replace('_', " ")), Some(*number));
    }
    line(false, "Left out as exact duplicates".to_owned(), rows.exact_duplicates);
    line(true, "Kept".to_owned(), rows.kept);
    table
}

/// What the contract's policies decided about periods of demand.
fn decisions(contract: &Contract) -> Table {
    let mut table = Table::new("What the contract's policies decided", &["Periods", "#Count"]);
    for (name, number) in contract.decisions.iter().filter(|(_, number)| **number > 0) {
        let what = match name.as_str() {
            "missing" => "Demand missing in the source",
            "missing_filled" => "\u{2026} given a value",
            "gaps" => "Without a row, between a series' first and last",
            "after_last" => "Without a row, after a series' last",
            "negative" => "Demand below zero",
            "outliers" => "Demand above the outlier bound",
            "closed" => "Closed",
            "closed_with_demand" => "\u{2026} with demand, now unknown",
            "aggregated" => "Made of several rows",
            "duplicates" => "Several rows where one is allowed",
            // It stands among the rows above.
            "exact_duplicates" => continue,
            other => other,
        };
        table.row(vec![Cell::text(what), Cell::number(count(*number))]);
    }
    if let Some(excluded) = contract.panel.series_excluded.filter(|excluded| *excluded > 0) {
        table.row(vec![Cell::text("Series left out by the contract's rule"), Cell::number(count(excluded))]);
    }
    table
}

fn expectations(validation: &Validation) -> Table {
    let results = &validation.results;
    let met = results.iter().filter(|result| result.success == Some(true)).count();
    let caption = format!("Expectations of suite {}: {met} of {} met", validation.suite, results.len());
    let columns =
        ["Expectation", "Column", "Verdict", "Severity", "#Rows checked", "#Rows that broke it", "#Share", "Observed"];
    let mut table = Table::new(caption, &columns);
    for result in results {
        let verdict = match (result.success, result.severity.as_str()) {
            (Some(true), _) => Cell::pill("met", Tone::Good),
            (Some(false), "warning") => Cell::pill("not met", Tone::Warn),
            (Some(false), _) => Cell::pill("not met", Tone::Bad),
            (None, _) => Cell::pill("not known", Tone::Warn),
        };
        let found = &result.result;
        let exception = result.exception_info.as_ref().map(|exception| exception.exception_message.clone());
        table.row(vec![
            Cell::text(in_words(result)),
            Cell::code(result.kwargs.get("column").and_then(Value::as_str).unwrap_or_default()),
            verdict,
            Cell::text(&result.severity),
            Cell::number(found.element_count.map(count).unwrap_or_default()),
            Cell::number(found.unexpected_count.map(count).unwrap_or_default()),
            Cell::number(found.unexpected_percent.map(|share| percent(Some(share / 100.0))).unwrap_or_default()),
            Cell::text(exception.unwrap_or_else(|| shown(&found.observed_value))),
        ]);
    }
    table
}

/// `expect_column_values_to_be_between` with its bounds: "column values to be between (min_value 0)".
fn in_words(expectation: &Expectation) -> String {
    let name = &expectation.expectation_type;
    let words = name.strip_prefix("expect_").unwrap_or(name).replace('_', " ");
    let kwargs = expectation.kwargs.iter().filter(|(key, value)| key.as_str() != "column" && !value.is_null());
    let kwargs: Vec<String> =
        kwargs.map(|(key, value)| format!("{} {}", key.replace('_', " "), shown(value))).collect();
    if kwargs.is_empty() { words } else { format!("{words} ({})", kwargs.join(", ")) }
}

/// A value of any type in a table; a whole number gets its separators.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), count),
        other => other.to_string(),
    }
}
