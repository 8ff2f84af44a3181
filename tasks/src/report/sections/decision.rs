//! The gate: every rule with its figure, its threshold and its verdict.

use crate::report::documents::{Check, Decision};
use crate::report::material::Material;
use crate::report::number::{percent, quantity};
use crate::report::page::{Cell, Fact, Section, Table, Tone};

const ID: &str = "decision";
const TITLE: &str = "Promotion decision";

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    let mut section = match &material.decision {
        Some(decision) => decided(decision),
        None => {
            let why = material.why_missing("promotion_decision.json");
            Section::empty(ID, TITLE, format!("Nothing was decided. {why}"))
        }
    };
    if let Some(evaluation) = material.evaluation.as_ref().filter(|evaluation| !evaluation.checks.is_empty()) {
        section.table(preconditions(&evaluation.checks));
    }
    section
}

fn decided(decision: &Decision) -> Section {
    let passed = decision.checks.iter().filter(|check| check.passed == Some(true)).count();
    let lead = format!(
        "The gate promotes only if every rule passes and every figure is there. {passed} of {} rules passed.",
        decision.checks.len()
    );
    let mut section = Section::new(ID, TITLE, lead);
    let version = decision.from.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
    section.facts(vec![
        Fact::new("Registry name", &decision.name),
        Fact::new("Candidate", decision.candidate.as_deref().unwrap_or("none")),
        Fact::new("Champion before", version),
        Fact::new("Rules passed", format!("{passed} of {}", decision.checks.len())),
    ]);
    let mut table = Table::new("Rules of the gate", &["Rule", "Verdict", "#Figure", "#Threshold", "In words"]);
    for check in &decision.checks {
        let (title, as_text) = rule(&check.name);
        let number = |value: Option<f64>| Cell::number(value.map(|value| as_text(Some(value))).unwrap_or_default());
        let cells = vec![
            Cell::text(title),
            verdict(check),
            number(check.figure),
            number(check.threshold),
            Cell::text(&check.detail),
        ];
        table.row(cells);
    }
    section.table(table);
    section
}

/// How a rule is called and its numbers are read; a rule that this list does not know keeps its name.
fn rule(name: &str) -> (String, fn(Option<f64>) -> String) {
    let (title, text): (&str, fn(Option<f64>) -> String) = match name {
        "candidate" => ("There is a candidate", quantity),
        "candidate_saved" => ("The candidate can be served", quantity),
        "best_of_all" => ("WAPE at most the best baseline's", percent),
        "origins" => ("Judged at enough origins", quantity),
        "figures_complete" => ("No figure is missing", quantity),
        "evaluation_sound" => ("The evaluation is sound", quantity),
        "champion_known" => ("The champion is known", quantity),
        "wape_vs_champion" => ("WAPE against the champion", percent),
        "wape_vs_seasonal_naive" => ("WAPE against seasonal naive", percent),
        "bias" => ("Bias, whatever its sign", percent),
        "total" => ("WAPE of the total", percent),
        "slices" => ("No slice is worse", percent),
        other => return (other.replace('_', " "), quantity),
    };
    (title.to_owned(), text)
}

/// What must hold for the figures to mean what they say.
fn preconditions(checks: &[Check]) -> Table {
    let mut table = Table::new("Checks of the evaluation itself", &["Check", "Verdict", "In words"]);
    for check in checks {
        let unnamed = check.model.as_ref().filter(|model| !check.detail.contains(model.as_str()));
        let about = unnamed.map(|model| format!("{model}: ")).unwrap_or_default();
        let detail = format!("{about}{}", check.detail);
        table.row(vec![Cell::text(check.name.replace('_', " ")), verdict(check), Cell::text(detail)]);
    }
    table
}

fn verdict(check: &Check) -> Cell {
    match check.passed {
        Some(true) => Cell::pill("passed", Tone::Good),
        Some(false) => Cell::pill("failed", Tone::Bad),
        None => Cell::pill("not known", Tone::Warn),
    }
}
