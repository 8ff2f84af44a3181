//! What people came for: the verdict, the big numbers and the ranking of models.

use crate::metrics::Figures;
use crate::report::documents::{Champion, TOTAL};
use crate::report::material::Material;
use crate::report::number::{count, percent, quantity, signed_percent};
use crate::report::page::{Card, Cell, Fact, Section, Table, Tone, Verdict};

const ID: &str = "models";
const TITLE: &str = "Models";

/// Tenant, DAG, run.
pub(in crate::report) fn facts(material: &Material) -> Vec<Fact> {
    let run = &material.run;
    let mut facts = vec![Fact::new("Tenant", &run.tenant), Fact::new("DAG", &run.dag), Fact::new("Run", &run.run_id)];
    if let Some((start, end)) = &run.interval {
        facts.push(Fact::new("Data interval", format!("{start} to {end}")));
    }
    facts
}

/// Promoted or not, and why.
pub(in crate::report) fn verdict(material: &Material) -> Verdict {
    let focus = material.focus.as_deref();
    let decision = material.decision.as_ref();
    let reason = decision.map(|decision| decision.reason.clone()).filter(|reason| !reason.is_empty());
    let (tone, word, headline) = match decision.and_then(|decision| decision.promoted) {
        Some(true) => (Tone::Good, "Promoted", format!("{} is the new champion", focus.unwrap_or("The candidate"))),
        Some(false) => {
            (Tone::Bad, "Not promoted", format!("{} was refused by the gate", focus.unwrap_or("The candidate")))
        }
        None => (Tone::Warn, "No decision", "Nothing was promoted; the champion stays what it was".to_owned()),
    };
    let reason = reason.unwrap_or_else(|| match decision {
        Some(_) => "The decision gives no reason.".to_owned(),
        None => material.why_missing("promotion_decision.json"),
    });
    Verdict { tone, word: word.to_owned(), headline, reason }
}

/// The big numbers.
pub(in crate::report) fn cards(material: &Material) -> Vec<Card> {
    let figures = |name: &Option<String>| name.as_deref().and_then(|model| material.figures(model, None));
    let Some(focus) = figures(&material.focus) else { return Vec::new() };
    let model = material.focus.clone().unwrap_or_default();
    let baseline = figures(&material.baseline).filter(|_| material.baseline != material.focus);
    let promoted = material.decision.as_ref().is_some_and(|decision| decision.promoted == Some(true));
    let label = if promoted { "New champion" } else { "Candidate" };
    let mut cards = vec![card(label, percent(focus.wape), format!("WAPE, {model}"))];
    if let Some((champion, figures)) = champion(material) {
        let label = if promoted { "Old champion" } else { "Champion" };
        cards.push(card(label, percent(figures.wape), format!("WAPE, {}", champion.name())));
    }
    if let (Some(baseline), Some(name)) = (&baseline, &material.baseline) {
        cards.push(card("Baseline", percent(baseline.wape), format!("WAPE, {name}")));
        cards.extend(improvement(&focus, baseline));
    }
    let bias_of = baseline.as_ref().map(|baseline| format!("{} for the baseline", signed_percent(baseline.bias)));
    let note = bias_of.unwrap_or_else(|| "above 0: too much was forecast".to_owned());
    cards.push(card("Bias", signed_percent(focus.bias), note));
    let series = material.backtest.as_ref().map(|backtest| backtest.series.len() as u64);
    let series = series.or_else(|| material.schema.as_ref().and_then(|schema| schema.series));
    let origins = format!("{} origins", material.origins().len());
    let note = series.map_or_else(|| origins.clone(), |series| format!("{origins}, {} series", count(series)));
    cards.push(card("Forecasts judged", count(focus.rows), note));
    cards
}

/// The model that serves, if it was judged on the same rows.
fn champion(material: &Material) -> Option<(&Champion, Figures)> {
    let champion = &material.evaluation.as_ref()?.champion;
    Some((champion, champion.figures()?))
}

fn card(label: &str, value: String, note: String) -> Card {
    Card { label: label.to_owned(), value, note, tone: Tone::Plain }
}

fn improvement(focus: &Figures, baseline: &Figures) -> Option<Card> {
    let (focus, baseline) = (focus.wape?, baseline.wape.filter(|wape| *wape > 0.0)?);
    let gain = 1.0 - focus / baseline;
    let (label, tone) = if gain > 0.0 { ("Less error", Tone::Good) } else { ("More error", Tone::Bad) };
    let note = format!("than the baseline, by {:.1} points", ((baseline - focus) * 100.0).abs());
    Some(Card { tone, ..card(label, percent(Some(gain.abs())), note) })
}

/// The ranking.
pub(in crate::report) fn section(material: &Material) -> Section {
    let models = material.models();
    if models.is_empty() {
        let why = material.why_missing("metrics.json");
        return Section::empty(ID, TITLE, format!("No model was trained or judged. {why}"));
    }
    let from = if material.metrics.is_some() {
        ""
    } else {
        " Evaluation left no figures: these are computed from the backtests."
    };
    let lead = format!(
        "All models over all origins, best first; the highlighted one is what this report is about. \
         The WAPE of the total adds all series up before it compares: errors that cancel out do not count there.{from}"
    );
    let mut section = Section::new(ID, TITLE, lead);
    let mut ranked: Vec<(&String, Figures)> =
        models.iter().map(|model| (model, material.figures(model, None).unwrap_or_default())).collect();
    // A model without a figure comes last: it won nothing.
    ranked.sort_by(|(_, a), (_, b)| a.wape.unwrap_or(f64::INFINITY).total_cmp(&b.wape.unwrap_or(f64::INFINITY)));
    let mut table = Table::new(
        "Models by WAPE, all origins",
        &[
            "Model",
            "Role",
            "#WAPE",
            "#WAPE of the total",
            "#Bias",
            "#MASE",
            "#sMAPE",
            "#MAE, units",
            "#RMSE, units",
            "#Forecasts",
        ],
    );
    for (model, figures) in ranked {
        let total = material.row(model, None, TOTAL).and_then(|row| row.wape);
        let is_focus = material.focus.as_ref() == Some(model);
        table.row_if(is_focus, cells(model, role(material, model), &figures, total));
    }
    if let Some((champion, figures)) = champion(material) {
        let how = champion.how.as_deref().unwrap_or("judged on the same rows");
        table.row(cells(&champion.name(), &format!("champion until now ({how})"), &figures, None));
    }
    section.table(table);
    section
}

fn cells(model: &str, role: &str, figures: &Figures, total: Option<f64>) -> Vec<Cell> {
    vec![
        Cell::text(model),
        Cell::text(role),
        Cell::number(percent(figures.wape)),
        Cell::number(percent(total)),
        Cell::number(signed_percent(figures.bias)),
        Cell::number(quantity(figures.mase)),
        Cell::number(percent(figures.smape)),
        Cell::number(quantity(figures.mae)),
        Cell::number(quantity(figures.rmse)),
        Cell::number(count(figures.rows)),
    ]
}

fn role(material: &Material, model: &String) -> &'static str {
    let promoted = material.decision.as_ref().and_then(|decision| decision.promoted);
    let ranking = material.evaluation.iter().flat_map(|evaluation| &evaluation.ranking);
    let is_baseline = ranking.filter(|ranked| ranked.baseline).any(|ranked| ranked.model == *model);
    match (material.focus.as_ref() == Some(model), promoted) {
        (true, Some(true)) => "new champion",
        (true, _) => "candidate",
        (false, _) if is_baseline || material.baseline.as_ref() == Some(model) => "baseline",
        _ => "runner-up",
    }
}
