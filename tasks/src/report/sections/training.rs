//! What was trained: one row per model, its hyperparameters and what it decided by itself.

use serde_json::{Map, Number, Value};

use crate::report::material::Material;
use crate::report::number::{bytes, count, optional_count, plotted};
use crate::report::page::{Cell, Section, Table};

const ID: &str = "training";
const TITLE: &str = "Training";

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    if material.model_documents.is_empty() {
        let why = material.why_missing("model.json");
        return Section::empty(ID, TITLE, format!("Nothing was trained. {why}"));
    }
    let lead = "The final fit of each model, the one that would serve. For the backtests above the same recipe was \
                fitted once per origin, on the data up to it.";
    let mut section = Section::new(ID, TITLE, lead);
    section.table(models(material));
    let choices = choices(material);
    if !choices.rows.is_empty() {
        section.table(choices);
    }
    section
}

fn models(material: &Material) -> Table {
    let horizon = format!("#Horizon, {}s", material.period());
    let columns = ["Model", "Data", "#Series", "#Rows", "#Features", &horizon, "#Size", "Recipe digest"];
    let mut table = Table::new("Models trained in this run", &columns);
    for model in &material.model_documents {
        let data = [&model.first_time, &model.last_time].map(String::as_str).join(" to ");
        table.row_if(
            material.focus.as_ref() == Some(&model.name),
            vec![
                Cell::text(&model.name),
                Cell::text(if model.last_time.is_empty() { String::new() } else { data }),
                Cell::number(optional_count(model.series)),
                Cell::number(optional_count(model.rows)),
                Cell::number(optional_count(model.features)),
                Cell::number(model.recipe.horizon.map(count).unwrap_or_default()),
                Cell::number(model.model_bytes.map_or_else(|| "not kept".to_owned(), bytes)),
                Cell::code(short(&model.recipe_digest)),
            ],
        );
    }
    table
}

fn choices(material: &Material) -> Table {
    let mut table = Table::new("Hyperparameters", &["Parameter", "Model", "Set by", "#Value"]);
    for model in &material.model_documents {
        for (by, values) in [("recipe", &model.recipe.options), ("the fit itself", &model.decisions)] {
            for (name, value) in flattened(values) {
                table.row(vec![Cell::code(name), Cell::text(&model.name), Cell::text(by), Cell::number(value)]);
            }
        }
    }
    table
}

/// Enough digits of a digest to tell two apart by eye; the whole one is in `model.json`.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// Nested keys joined with a dot, values as text.
fn flattened(options: &Map<String, Value>) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (name, value) in options {
        match value {
            Value::Object(inner) => {
                flat.extend(flattened(inner).into_iter().map(|(below, value)| (format!("{name}.{below}"), value)));
            }
            Value::String(text) => flat.push((name.clone(), text.clone())),
            Value::Null => {}
            Value::Number(number) => flat.push((name.clone(), figure(number))),
            other => flat.push((name.clone(), other.to_string())),
        }
    }
    flat
}

/// Whole numbers with their separators, others to six digits; the artifact has them all.
fn figure(number: &Number) -> String {
    let short = || number.as_f64().and_then(plotted).map_or_else(|| number.to_string(), |value| value.to_string());
    number.as_u64().map_or_else(short, count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_options_become_lines() {
        let options = json!({"trees": 4_000, "rate": 40.0, "objective": {"tweedie": {"power": 1.123_456_789}}, "seed": null, "early": false});
        let lines = flattened(options.as_object().expect("an object"));
        let expected = [("trees", "4,000"), ("rate", "40"), ("objective.tweedie.power", "1.12346"), ("early", "false")];
        assert_eq!(lines, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
