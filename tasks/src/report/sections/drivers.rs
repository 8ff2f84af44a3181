//! What the models looked at: the most important features.

use plotly::layout::HoverMode;

use crate::report::documents::Importance;
use crate::report::figure::{axis, layout, plot_json, ranking};
use crate::report::material::Material;
use crate::report::number::{count, optional_count, percent};
use crate::report::page::{Cell, Figure, Section, Table};

const ID: &str = "drivers";
const TITLE: &str = "Feature importance";

/// More bars than this are noise to a reader.
const TOP: usize = 20;

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    let shown: Vec<&(String, Importance)> =
        material.importances.iter().filter(|(_, found)| !found.features.is_empty()).collect();
    if shown.is_empty() {
        let why = material.why_missing("feature_importance.json");
        return Section::empty(ID, TITLE, format!("No model here tells which features it used. {why}"));
    }
    let lead = "How much of a model's gain in fit came from each feature. It says what the model used, not what causes demand.";
    let mut section = Section::new(ID, TITLE, lead);
    section.figures(shown.iter().enumerate().map(|(nth, (model, found))| figure(nth, model, found)).collect());
    section
}

fn figure(nth: usize, model: &str, importance: &Importance) -> Figure {
    let mut features = importance.features.clone();
    features.sort_by(|a, b| b.gain.total_cmp(&a.gain).then_with(|| a.name.cmp(&b.name)));
    let sum: f64 = features.iter().map(|feature| feature.gain).filter(|gain| gain.is_finite()).sum();
    let share = |gain: f64| (sum > 0.0).then(|| gain / sum);
    let top = &features[..features.len().min(TOP)];
    let labels: Vec<String> = top.iter().map(|feature| feature.name.clone()).collect();
    let shares: Vec<Option<f64>> = top.iter().map(|feature| share(feature.gain)).collect();
    let mut table = Table::new(format!("Features of {} by gain", model), &["Feature", "#Share of gain", "#Splits"]);
    for feature in &features {
        table.row(vec![
            Cell::code(&feature.name),
            Cell::number(percent(share(feature.gain))),
            Cell::number(optional_count(feature.splits)),
        ]);
    }
    let x = axis("Share of gain, %").tick_format(",.0%");
    // Feature names are long and say what they are: the axis needs no title.
    let layout = layout(x, axis("")).show_legend(false).hover_mode(HoverMode::Closest);
    Figure {
        id: format!("figure-importance-{}", nth + 1),
        title: format!("Features of {}", model),
        note: format!("The top {} of {} features.", top.len(), count(features.len() as u64)),
        alt: format!("Bars: share of gain of the top {} features of {}.", top.len(), model),
        height: 120 + 24 * top.len(),
        plot: plot_json(vec![ranking(&labels, &shares)], layout),
        table,
    }
}
