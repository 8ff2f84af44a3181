//! What must hold for the figures to mean what they say; recorded in `evaluation.json`.
//!
//! `evaluate` fails where models can not be compared at all. The checks here are about figures that
//! exist but may not be trusted: the gate refuses on any that fails.

use crate::evaluate::RecipeOf;
use crate::evaluate::backtest::{Backtests, date};
use crate::evaluate::document::{ALL, EvaluationCheck, MetricRow, POOLED};
use crate::features::FeaturesDocument;
use crate::model::Origin;

/// All checks, in a fixed order.
pub(crate) fn checks(
    backtests: &Backtests,
    document: &FeaturesDocument,
    metrics: &[MetricRow],
    recipes: &[RecipeOf],
) -> Vec<EvaluationCheck> {
    let mut checks = vec![same_rows(backtests), windows(backtests, document)];
    let pooled = metrics.iter().filter(|row| row.origin == POOLED && row.slice == ALL);
    checks.extend(pooled.map(finite_forecasts));
    checks.extend(recipes.iter().map(|recipe| same_features(recipe, document)));
    checks
}

fn check(name: &str, model: Option<&str>, passed: bool, detail: String) -> EvaluationCheck {
    EvaluationCheck { name: name.to_owned(), model: model.map(str::to_owned), passed, detail }
}

/// Holds once the backtests could be put side by side; the count is for people.
fn same_rows(backtests: &Backtests) -> EvaluationCheck {
    let (models, rows) = (backtests.models().len(), backtests.rows());
    check("same_rows", None, true, format!("{models} models were judged on the same {rows} rows"))
}

/// Windows of one horizon that follow each other and end where the known demand ends.
fn windows(backtests: &Backtests, document: &FeaturesDocument) -> EvaluationCheck {
    let origins = backtests.origins();
    let horizon = backtests.steps().values().iter().max().copied().unwrap_or(0);
    let span = horizon * document.frequency.step_days();
    let ends = origins.iter().map(|origin| origin + span);
    let starts = origins.iter().skip(1).copied().chain([Origin(document.last_time).days()]);
    let gap = ends.zip(starts).find(|(end, start)| end != start);
    let detail = match gap {
        None => format!("{} windows of {horizon} periods end at {}", origins.len(), document.last_time),
        Some((end, start)) => format!("a window ends at {} and is not followed at {}", date(end), date(start)),
    };
    check("windows", None, gap.is_none(), detail)
}

fn finite_forecasts(row: &MetricRow) -> EvaluationCheck {
    let bad = row.figures.non_finite;
    let detail =
        format!("{} forecasts, {bad} of {} are no numbers", row.figures.rows + row.figures.left_out, row.model);
    check("finite_forecasts", Some(&row.model), bad == 0, detail)
}

fn same_features(of: &RecipeOf, document: &FeaturesDocument) -> EvaluationCheck {
    let model = of.recipe.spec.kind().as_str();
    let same = of.recipe.features_digest == document.spec_digest;
    let was = if same { "on the features of this run" } else { "on features of other rules" };
    check("same_features", Some(model), same, format!("{model} was trained {was}"))
}
