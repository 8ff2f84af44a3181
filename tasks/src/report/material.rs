//! Everything that a report shows, gathered; and the few questions that several sections ask of it.
//!
//! Filled by the task, read by the sections. It has no opinion on layout.

use std::collections::BTreeSet;

use indexmap::{IndexMap, IndexSet};

use crate::metrics::{Figures, Tally};
use crate::report::backtest::Backtest;
use crate::report::documents::{
    ALL, Contract, Decision, Evaluation, Features, Importance, MetricRow, Metrics, ModelDocument, Schema, TOTAL,
    Validation,
};
use crate::report::figure::Looks;
use crate::report::page::Gap;
use crate::report::sample::Sample;

/// The model that others are measured against, unless evaluation names another.
const BASELINE: &str = "seasonal_naive";

/// Which run, as pinned: the same for each replay of it but for the id.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct RunLines {
    /// Heading of the page.
    pub(super) title: String,
    /// Whose run.
    pub(super) tenant: String,
    /// The DAG.
    pub(super) dag: String,
    /// The run.
    pub(super) run_id: String,
    /// Digest of the DAG's version.
    pub(super) dag_version: String,
    /// The run's seed.
    pub(super) seed: u64,
    /// Start and end of the data interval, if the run has one.
    pub(super) interval: Option<(String, String)>,
    /// Resolved parameters: name and value.
    pub(super) params: Vec<(String, String)>,
}

/// An artifact that the report was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Its name.
    pub(super) name: String,
    /// The task instance that made it.
    pub(super) producer: String,
    /// blake3.
    pub(super) digest: String,
    /// Size.
    pub(super) bytes: u64,
    /// Rows, for Parquet.
    pub(super) rows: Option<u64>,
}

/// WAPE by how far ahead.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct StepScores {
    /// First and last step of each class.
    pub(super) classes: Vec<(i32, i32)>,
    /// One value per class.
    pub(super) by_model: IndexMap<String, Vec<Option<f64>>>,
}

/// Everything that a report shows. Each part may be missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Material {
    /// Which run.
    pub(super) run: RunLines,
    /// `metrics.json`.
    pub(super) metrics: Option<Metrics>,
    /// `evaluation.json`.
    pub(super) evaluation: Option<Evaluation>,
    /// `promotion_decision.json`.
    pub(super) decision: Option<Decision>,
    /// `model.json` of each model.
    pub(super) model_documents: Vec<ModelDocument>,
    /// `feature_importance.json` of each model, by the model's name.
    pub(super) importances: Vec<(String, Importance)>,
    /// `validation_result.json`.
    pub(super) validation: Option<Validation>,
    /// `contract_validation_report.json`.
    pub(super) contract: Option<Contract>,
    /// `canonical_schema_snapshot.json`.
    pub(super) schema: Option<Schema>,
    /// `features.json`.
    pub(super) features: Option<Features>,
    /// Sums of all `backtest.parquet`.
    pub(super) backtest: Option<Backtest>,
    /// Rows of a few series, and the spread of errors.
    pub(super) sample: Option<Sample>,
    /// What it was made from.
    pub(super) sources: Vec<Source>,
    /// What is missing, and why.
    pub(super) gaps: Vec<Gap>,
    /// The model that the report is about: the candidate, or the best one.
    pub(super) focus: Option<String>,
    /// The model that it is measured against, if it was judged.
    pub(super) baseline: Option<String>,
    /// How models are drawn.
    pub(super) looks: Looks,
}

impl Material {
    /// Decides which model the report is about and gives every model its look; called once, before the sample.
    pub(super) fn settle(&mut self) {
        let models = self.models();
        let known = |name: &Option<String>| name.clone().filter(|name| models.contains(name));
        let evaluation = self.evaluation.as_ref();
        self.baseline =
            evaluation.and_then(|found| known(&found.baseline)).or_else(|| known(&Some(BASELINE.to_owned())));
        self.focus = self
            .decision
            .as_ref()
            .and_then(|decision| known(&decision.candidate))
            .or_else(|| evaluation.and_then(|found| known(&found.best)))
            .or_else(|| self.best_of(&models));
        self.looks = Looks::new(models.iter().map(String::as_str), self.focus.as_deref(), self.baseline.as_deref());
    }

    /// All models that were judged or backtested, in the order of the backtests.
    pub(super) fn models(&self) -> IndexSet<String> {
        let backtested = self.backtest.iter().flat_map(|backtest| backtest.models.iter().cloned());
        let judged = self.metric_rows().map(|row| row.model.clone());
        backtested.chain(judged).filter(|name| !name.is_empty()).collect()
    }

    /// All origins, oldest first.
    pub(super) fn origins(&self) -> Vec<String> {
        let judged = self.metric_rows().filter(|row| row.slice() == ALL).filter_map(|row| row.single_origin());
        let mut origins: BTreeSet<String> = judged.map(str::to_owned).collect();
        if let Some(backtest) = &self.backtest {
            origins.extend(backtest.origins.iter().map(|origin| origin.text()));
        }
        origins.into_iter().collect()
    }

    /// Figures of a model at an origin, or over all of them: those of record, or those of the backtest
    /// where evaluation left none.
    pub(super) fn figures(&self, model: &str, origin: Option<&str>) -> Option<Figures> {
        let row = self.row(model, origin, ALL);
        row.map(MetricRow::figures).or_else(|| self.backtest_figures(model, origin))
    }

    /// Names of the segments that evaluation made, in its order: neither classes of steps nor the total.
    pub(super) fn segments(&self) -> Vec<String> {
        let segments: IndexSet<&str> = self
            .metric_rows()
            .filter(|row| row.steps().is_none())
            .map(MetricRow::slice)
            .filter(|slice| !matches!(*slice, ALL | TOTAL))
            .collect();
        segments.into_iter().map(str::to_owned).collect()
    }

    /// WAPE by classes of steps ahead, all origins: those of record, or those of the backtest.
    pub(super) fn by_steps(&self) -> StepScores {
        let judged: BTreeSet<(i32, i32)> = self.metric_rows().filter_map(MetricRow::steps).collect();
        if !judged.is_empty() {
            let wape = |model: &str, (first, last)| self.row(model, None, &format!("h{first}-{last}"))?.wape;
            let values = |model: &String| judged.iter().map(|steps| wape(model, *steps)).collect();
            let by_model = self.models().into_iter().map(|model| (model.clone(), values(&model))).collect();
            return StepScores { classes: judged.iter().copied().collect(), by_model };
        }
        let (Some(backtest), Some(sample)) = (&self.backtest, &self.sample) else { return StepScores::default() };
        let values = |tallies: &Vec<Tally>| tallies.iter().map(|tally| tally.figures().wape).collect();
        let by_model = backtest.models.iter().cloned().zip(sample.steps.iter().map(values)).collect();
        StepScores { classes: sample.buckets.clone(), by_model }
    }

    /// The row of record of a model at an origin, or over all of them, on a slice.
    pub(super) fn row(&self, model: &str, origin: Option<&str>, slice: &str) -> Option<&MetricRow> {
        self.metric_rows().find(|row| row.model == model && row.slice() == slice && row.single_origin() == origin)
    }

    /// "day", "week" ... from the schema.
    pub(super) fn period(&self) -> &'static str {
        let of_schema = self.schema.as_ref().and_then(|schema| schema.frequency.as_deref());
        let of_features = || self.features.as_ref().and_then(|features| features.frequency.as_deref());
        match of_schema.or_else(of_features) {
            Some("D") => "day",
            Some("W") => "week",
            Some("H") => "hour",
            Some("M") => "month",
            _ => "period",
        }
    }

    /// Why an artifact is not here, as a sentence.
    pub(super) fn why_missing(&self, artifact: &str) -> String {
        let gap = self.gaps.iter().find(|gap| gap.artifact == artifact);
        let reason = gap.map_or("holds nothing that can be shown.", |gap| gap.reason.as_str());
        format!("{artifact} {reason}")
    }

    fn metric_rows(&self) -> impl Iterator<Item = &MetricRow> {
        self.metrics.iter().flat_map(|metrics| &metrics.metrics)
    }

    fn backtest_figures(&self, model: &str, origin: Option<&str>) -> Option<Figures> {
        let backtest = self.backtest.as_ref()?;
        let at = backtest.models.get_index_of(model)?;
        let Some(origin) = origin else { return Some(backtest.overall(at).figures()) };
        let found = backtest.by_origin.iter().find(|((of, moment), _)| *of == at && moment.text() == origin);
        found.map(|(_, tally)| tally.figures())
    }

    /// The lowest WAPE over all origins; the earlier model of equals.
    fn best_of(&self, models: &IndexSet<String>) -> Option<String> {
        let ranked: IndexMap<&String, f64> = models
            .iter()
            .filter_map(|model| Some((model, self.figures(model, None)?.wape.filter(|wape| wape.is_finite())?)))
            .collect();
        let best = ranked.iter().reduce(|best, next| if next.1 < best.1 { next } else { best });
        best.map(|(model, _)| (*model).clone()).or_else(|| models.first().cloned())
    }
}
