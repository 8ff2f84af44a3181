//! The documents that `evaluate` writes: `evaluation.json` and `metrics.json`.
//!
//! Written by the task, read by the gate, the report and people. Only shapes and look-ups are here.

use engine::id::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::Figures;

/// Of `evaluation.json` and `metrics.json`.
pub const FORMAT_VERSION: u32 = 1;

/// The `origin` of figures over the rows of all origins together.
pub const POOLED: &str = "pooled";

/// The slice of all rows, each series for itself.
pub const ALL: &str = "all";

/// The slice in which all series are added up per period before they are judged.
pub const TOTAL: &str = "total";

/// The model that every candidate has to beat.
pub const YARDSTICK: &str = "seasonal_naive";

/// Models that learn nothing: a floor and a fallback, no candidates unless the gate's policy says so.
pub const BASELINES: [&str; 3] = ["naive", "seasonal_naive", "weekday_mean"];

/// The figures of one model on one slice of one origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    /// The model.
    pub model: String,
    /// The last period that it saw, `YYYY-MM-DD`, or [`POOLED`].
    pub origin: String,
    /// [`ALL`], [`TOTAL`], a horizon bucket (`h1-7`: steps 1 to 7) or a segment (`abc-a`, `demand-lumpy`).
    pub slice: String,
    /// The metrics and what they are over.
    #[serde(flatten)]
    pub figures: Figures,
}

/// `metrics.json`, and the task's outputs in the same shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsDocument {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// By model, origin (pooled last), slice.
    pub metrics: Vec<MetricRow>,
}

/// A model's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// From 1; models without a WAPE come last.
    pub rank: u32,
    /// The model.
    pub model: String,
    /// Whether it is one of [`BASELINES`].
    pub baseline: bool,
    /// Over all rows of all origins.
    pub wape: Option<f64>,
    /// Over all rows of all origins.
    pub bias: Option<f64>,
    /// Identifies model, hyperparameters, horizon and feature rules, if `model.json` names them.
    pub recipe_digest: Option<Digest>,
    /// The recipe itself.
    pub recipe: Option<Value>,
}

/// How the champion's figures at these origins came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComparedBy {
    /// A model of this run has the champion's recipe: its backtest is the champion's.
    #[serde(rename = "same recipe in this run")]
    SameRecipe,
    /// The champion's recipe was fitted again at the same origins.
    #[serde(rename = "recipe refitted")]
    Refitted,
}

/// What the candidates have to be better than.
///
/// A champion is compared by its recipe: its stored bytes were trained on all data of their day and
/// have seen windows on which they would be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChampionComparison {
    /// The model's name in the registry.
    pub name: String,
    /// Whether there is a champion; `None`: the registry could not be read.
    pub present: Option<bool>,
    /// Its version.
    pub version: Option<u32>,
    /// Its model (`gbdt`).
    pub model: Option<String>,
    /// Its recipe's digest.
    pub recipe_digest: Option<Digest>,
    /// How its figures came about; `None` if there are none.
    pub how: Option<ComparedBy>,
    /// Why there are no figures though there may be a champion; the gate refuses then.
    pub missing: Option<String>,
    /// Its figures at the same origins, on the same rows.
    pub metrics: Vec<MetricRow>,
}

impl ChampionComparison {
    /// There is no champion yet.
    pub fn absent(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            present: Some(false),
            version: None,
            model: None,
            recipe_digest: None,
            how: None,
            missing: None,
            metrics: Vec::new(),
        }
    }

    /// The registry could not be read.
    pub fn unreadable(name: &str, why: String) -> Self {
        Self { present: None, missing: Some(why), ..Self::absent(name) }
    }
}

/// Something that must hold for figures to mean what they say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationCheck {
    /// Its name.
    pub name: String,
    /// The model it is about; `None`: all.
    pub model: Option<String>,
    /// Whether it holds.
    pub passed: bool,
    /// One sentence with the numbers.
    pub detail: String,
}

/// `evaluation.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Periods ahead.
    pub horizon: u32,
    /// Last periods that the models saw, `YYYY-MM-DD`, ascending.
    pub origins: Vec<String>,
    /// All models by pooled WAPE, ties by name.
    pub ranking: Vec<Ranked>,
    /// The candidate: the first of `ranking` that is no baseline and has a WAPE.
    pub best: Option<String>,
    /// [`YARDSTICK`], if it was among the models.
    pub baseline: Option<String>,
    /// What the candidate has to be better than.
    pub champion: ChampionComparison,
    /// What must hold for the figures to mean what they say.
    pub checks: Vec<EvaluationCheck>,
    /// All figures of all models.
    pub metrics: Vec<MetricRow>,
}

impl Evaluation {
    /// The figures of a model of this run.
    pub fn figures(&self, model: &str, origin: &str, slice: &str) -> Option<&Figures> {
        let mut rows = self.metrics.iter();
        rows.find(|row| row.model == model && row.origin == origin && row.slice == slice).map(|row| &row.figures)
    }
}

/// Orders models by their pooled figures: WAPE, then name; those without a WAPE last.
pub fn rank(metrics: &[MetricRow]) -> Vec<Ranked> {
    let mut ranking: Vec<Ranked> = metrics
        .iter()
        .filter(|row| row.origin == POOLED && row.slice == ALL)
        .map(|row| Ranked {
            rank: 0,
            baseline: BASELINES.contains(&row.model.as_str()),
            model: row.model.clone(),
            wape: row.figures.wape,
            bias: row.figures.bias,
            recipe_digest: None,
            recipe: None,
        })
        .collect();
    let key = |ranked: &Ranked| ranked.wape.unwrap_or(f64::INFINITY);
    ranking.sort_by(|a, b| key(a).total_cmp(&key(b)).then_with(|| a.model.cmp(&b.model)));
    for (rank, ranked) in (1..).zip(&mut ranking) {
        ranked.rank = rank;
    }
    ranking
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(model: &str, wape: Option<f64>) -> MetricRow {
        let figures = Figures { wape, ..Figures::default() };
        MetricRow { model: model.into(), origin: POOLED.into(), slice: ALL.into(), figures }
    }

    #[test]
    fn ties_go_by_name_and_models_without_figure_come_last() {
        let rows = [pooled("a", None), pooled("z", Some(0.2)), pooled("naive", Some(0.3)), pooled("g", Some(0.2))];
        let ranking = rank(&rows);
        let order: Vec<(u32, &str, bool)> = ranking.iter().map(|r| (r.rank, r.model.as_str(), r.baseline)).collect();
        assert_eq!(order, [(1, "g", false), (2, "z", false), (3, "naive", true), (4, "a", false)]);
    }

    #[test]
    fn rows_are_flat_in_json() {
        let json = serde_json::to_value(pooled("g", Some(0.5))).expect("a row is JSON");
        assert_eq!((&json["model"], &json["wape"], &json["mase"]), (&"g".into(), &0.5.into(), &Value::Null));
    }
}
