//! The promotion gate: from an evaluation and thresholds to a decision with all its reasons.
//!
//! Called by `promote`. Pure, and closed by default: a rule passes only on figures that are there and
//! are numbers. It changes nothing; what follows from a decision is the task's.

mod rules;
mod thresholds;

use engine::id::Digest;
use serde::{Deserialize, Serialize};

pub use thresholds::{Figure, GateDocumentError, GateThresholds, SameRecipe};

use crate::evaluate::{ALL, Evaluation, POOLED, YARDSTICK};
use crate::metrics::Figures;

/// Of `promotion_decision.json`.
pub const FORMAT_VERSION: u32 = 1;

/// The registry's champion at the moment of the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Champion {
    /// There is none.
    Absent,
    /// There is one, of this version.
    Present(u32),
    /// The registry did not say; why.
    Unreadable(String),
}

/// What the gate knows beside the evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateContext {
    /// The model's name in the registry.
    pub name: String,
    /// The champion that a promotion would replace.
    pub champion: Champion,
    /// The candidate's bytes; `None`: there are none to serve.
    pub candidate_artifact: Option<Digest>,
}

/// One rule of the gate and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The rule.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// What was held against the threshold; `None`: missing, no number, or not one number.
    pub figure: Option<f64>,
    /// The threshold; `None`: the rule has none.
    pub threshold: Option<f64>,
    /// One clause for people.
    pub detail: String,
}

/// Pooled figures on slice "all", side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DecisionFigures {
    /// The candidate's.
    pub candidate: Option<Figures>,
    /// The champion's at the same origins.
    pub champion: Option<Figures>,
    /// Those of seasonal naive.
    pub seasonal_naive: Option<Figures>,
}

/// What a promotion leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The model (`gbdt`).
    pub model: String,
    /// Its recipe's digest.
    pub recipe_digest: Option<Digest>,
    /// The digest of its bytes. The registry numbers the version as the decision is stored.
    pub artifact: Option<Digest>,
}

/// `promotion_decision.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The model's name in the registry.
    pub name: String,
    /// Whether the candidate becomes the champion.
    pub promoted: bool,
    /// `promoted` or `refused`.
    pub verdict: String,
    /// One sentence.
    pub reason: String,
    /// The model that was judged.
    pub candidate: Option<String>,
    /// The champion's version before; the registry stores it beside the decision.
    pub from_version: Option<u32>,
    /// What becomes the champion; `None` if refused.
    pub to: Option<Target>,
    /// What the figures are over, `YYYY-MM-DD`.
    pub origins: Vec<String>,
    /// Pooled figures.
    pub figures: DecisionFigures,
    /// The gate as it stood.
    pub thresholds: GateThresholds,
    /// Every rule, also after one failed.
    pub checks: Vec<Check>,
}

/// Decides. The same arguments give the same decision; a figure of the candidate that gets worse or
/// goes missing never turns a refusal into a promotion.
pub fn decide(evaluation: &Evaluation, thresholds: &GateThresholds, context: &GateContext) -> Decision {
    let checks = rules::all(evaluation, thresholds, context);
    let promoted = checks.iter().all(|check| check.passed);
    let candidate = rules::candidate(evaluation, thresholds, context);
    let figures = DecisionFigures {
        candidate: candidate.and_then(|model| evaluation.figures(model, POOLED, ALL)).copied(),
        champion: rules::champion_figures(evaluation, ALL).copied(),
        seasonal_naive: evaluation.figures(YARDSTICK, POOLED, ALL).copied(),
    };
    let target = candidate.map(|model| Target {
        model: model.to_owned(),
        recipe_digest: rules::recipe_digest(evaluation, model),
        artifact: context.candidate_artifact,
    });
    Decision {
        format_version: FORMAT_VERSION,
        name: context.name.clone(),
        promoted,
        verdict: if promoted { "promoted" } else { "refused" }.to_owned(),
        reason: reason(candidate, &checks, context),
        candidate: candidate.map(str::to_owned),
        from_version: match context.champion {
            Champion::Present(version) => Some(version),
            Champion::Absent | Champion::Unreadable(_) => None,
        },
        to: target.filter(|_| promoted),
        origins: evaluation.origins.clone(),
        figures,
        thresholds: thresholds.clone(),
        checks,
    }
}

/// The model that the gate judges: its bytes are what a promotion registers.
pub fn candidate<'a>(evaluation: &'a Evaluation, thresholds: &GateThresholds, champion: &Champion) -> Option<&'a str> {
    let context = GateContext { name: String::new(), champion: champion.clone(), candidate_artifact: None };
    rules::candidate(evaluation, thresholds, &context)
}

/// One sentence: what happened, and the clauses that decided.
fn reason(candidate: Option<&str>, checks: &[Check], context: &GateContext) -> String {
    let subject = candidate.unwrap_or("no candidate");
    let name = &context.name;
    let failed: Vec<&str> = checks.iter().filter(|c| !c.passed).map(|c| c.detail.as_str()).collect();
    if !failed.is_empty() {
        return format!("{subject} is not promoted to {name}: {}", failed.join("; "));
    }
    let decisive = ["wape_vs_champion", "wape_vs_seasonal_naive", "bias"];
    let passed: Vec<&str> =
        checks.iter().filter(|c| decisive.contains(&c.name.as_str())).map(|c| c.detail.as_str()).collect();
    format!("{subject} is promoted to {name}: {}", passed.join("; "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evaluate::{ChampionComparison, ComparedBy, EvaluationCheck, MetricRow, TOTAL, rank};

    const ORIGINS: [&str; 3] = ["2020-01-01", "2020-01-15", "2020-01-29"];
    const SLICES: [&str; 4] = [ALL, TOTAL, "h1-7", "h8-14"];
    const CANDIDATE: &str = "gbdt";

    fn gate() -> GateThresholds {
        thresholds::tests::shipped().1
    }

    fn figures(wape: f64) -> Figures {
        Figures {
            wape: Some(wape),
            smape: Some(wape),
            mae: Some(wape * 10.0),
            rmse: Some(wape * 20.0),
            mase: Some(wape * 2.0),
            bias: Some(0.01),
            rows: 100,
            demand: Some(1000.0),
            ..Figures::default()
        }
    }

    fn rows(model: &str, wape: f64) -> Vec<MetricRow> {
        let origins = ORIGINS.into_iter().chain([POOLED]);
        let keys = origins.flat_map(|origin| SLICES.map(|slice| (origin, slice)));
        keys.map(|(origin, slice)| MetricRow {
            model: model.into(),
            origin: origin.into(),
            slice: slice.into(),
            figures: figures(wape),
        })
        .collect()
    }

    /// gbdt .20 against seasonal_naive .30, no champion: promoted as it stands.
    fn first() -> (Evaluation, GateContext) {
        let metrics = [rows(CANDIDATE, 0.20), rows(YARDSTICK, 0.30)].concat();
        let mut ranking = rank(&metrics);
        for ranked in &mut ranking {
            ranked.recipe_digest = Some(Digest::of(ranked.model.as_bytes()));
        }
        let check = EvaluationCheck { name: "same_rows".into(), model: None, passed: true, detail: "same".into() };
        let evaluation = Evaluation {
            format_version: crate::evaluate::FORMAT_VERSION,
            horizon: 14,
            origins: ORIGINS.map(str::to_owned).to_vec(),
            ranking,
            best: Some(CANDIDATE.into()),
            baseline: Some(YARDSTICK.into()),
            champion: ChampionComparison::absent("demand"),
            checks: vec![check],
            metrics,
        };
        let context = GateContext {
            name: "demand".into(),
            champion: Champion::Absent,
            candidate_artifact: Some(Digest::of(b"model")),
        };
        (evaluation, context)
    }

    /// The same against a champion with WAPE .25: promoted as it stands.
    fn against_champion() -> (Evaluation, GateContext) {
        let (mut evaluation, mut context) = first();
        evaluation.champion = ChampionComparison {
            present: Some(true),
            version: Some(4),
            model: Some("gbdt".into()),
            recipe_digest: Some(Digest::of(b"old recipe")),
            how: Some(ComparedBy::Refitted),
            metrics: rows("champion", 0.25),
            ..ChampionComparison::absent("demand")
        };
        context.champion = Champion::Present(4);
        (evaluation, context)
    }

    fn own<'a>(evaluation: &'a mut Evaluation, origin: &str, slice: &str) -> &'a mut Figures {
        row(&mut evaluation.metrics, CANDIDATE, origin, slice)
    }

    fn row<'a>(rows: &'a mut [MetricRow], model: &str, origin: &str, slice: &str) -> &'a mut Figures {
        let mut rows = rows.iter_mut();
        let found = rows.find(|row| row.model == model && row.origin == origin && row.slice == slice);
        &mut found.expect("the row is there").figures
    }

    fn set(figures: &mut Figures, figure: Figure, value: Option<f64>) {
        let field = match figure {
            Figure::Wape => &mut figures.wape,
            Figure::Smape => &mut figures.smape,
            Figure::Mae => &mut figures.mae,
            Figure::Rmse => &mut figures.rmse,
            Figure::Mase => &mut figures.mase,
            Figure::Bias => &mut figures.bias,
        };
        *field = value;
    }

    fn failed(decision: &Decision) -> Vec<&str> {
        decision.checks.iter().filter(|check| !check.passed).map(|check| check.name.as_str()).collect()
    }

    /// A change to a case that is promoted as it stands.
    type Change = fn(&mut Evaluation, &mut GateContext);

    /// Asserts that the change alone turns the promotion into a refusal by this very rule.
    fn refused_by(case: fn() -> (Evaluation, GateContext), rule: &str, change: Change) {
        let (mut evaluation, mut context) = case();
        assert!(decide(&evaluation, &gate(), &context).promoted, "the case is promoted before the change");
        change(&mut evaluation, &mut context);
        let decision = decide(&evaluation, &gate(), &context);
        assert!(!decision.promoted && decision.to.is_none() && decision.verdict == "refused", "{rule}");
        assert!(failed(&decision).contains(&rule), "{rule} is not among {:?}", failed(&decision));
        assert_eq!(decision.checks.len(), 12, "every rule is evaluated");
        let detail = decision.checks.iter().find(|check| check.name == rule).map(|check| check.detail.as_str());
        assert!(detail.is_some_and(|detail| decision.reason.contains(detail)), "{}", decision.reason);
    }

    #[test]
    fn a_good_candidate_is_promoted_first_and_against_a_champion() {
        let (evaluation, context) = first();
        let decision = decide(&evaluation, &gate(), &context);
        assert!(decision.promoted, "{}", decision.reason);
        assert_eq!((decision.from_version, decision.candidate.as_deref()), (None, Some(CANDIDATE)));
        assert_eq!(decision.to.and_then(|to| to.artifact), Some(Digest::of(b"model")));
        let (evaluation, context) = against_champion();
        let decision = decide(&evaluation, &gate(), &context);
        assert!(decision.promoted, "{}", decision.reason);
        assert_eq!(decision.from_version, Some(4));
        assert_eq!(decision.figures.champion.and_then(|figures| figures.wape), Some(0.25));
    }

    #[test]
    fn each_rule_refuses_on_its_own() {
        refused_by(first, "candidate", |evaluation, _| evaluation.best = None);
        refused_by(first, "candidate", |evaluation, _| evaluation.best = Some("unknown".into()));
        refused_by(first, "candidate_saved", |_, context| context.candidate_artifact = None);
        refused_by(first, "origins", |evaluation, _| evaluation.origins.truncate(2));
        refused_by(first, "origins", |evaluation, _| evaluation.origins = vec![ORIGINS[0].into(); 3]);
        refused_by(first, "evaluation_sound", |evaluation, _| evaluation.checks[0].passed = false);
        refused_by(first, "evaluation_sound", |evaluation, _| evaluation.checks.clear());
        refused_by(first, "evaluation_sound", |evaluation, _| evaluation.format_version += 1);
        refused_by(first, "wape_vs_seasonal_naive", |evaluation, _| {
            own(evaluation, POOLED, ALL).wape = Some(0.30 * 0.95 + 1e-6);
        });
        refused_by(first, "wape_vs_seasonal_naive", |e, _| e.metrics.retain(|row| row.model != YARDSTICK));
        refused_by(first, "bias", |evaluation, _| own(evaluation, POOLED, ALL).bias = Some(-0.11));
        refused_by(first, "bias", |evaluation, _| own(evaluation, POOLED, ALL).bias = Some(0.11));
        refused_by(first, "total", |evaluation, _| own(evaluation, POOLED, TOTAL).wape = Some(0.301));
        refused_by(first, "slices", |evaluation, _| own(evaluation, POOLED, "h8-14").wape = Some(0.316));
        refused_by(first, "slices", |e, _| e.metrics.retain(|r| r.model != CANDIDATE || r.slice != "h8-14"));
        refused_by(first, "slices", |e, _| e.metrics.retain(|row| [ALL, TOTAL].contains(&row.slice.as_str())));
        refused_by(first, "best_of_all", |evaluation, _| {
            let better = rows("weekday_mean", 0.19);
            evaluation.metrics.extend(better);
            evaluation.ranking = rank(&evaluation.metrics);
        });
    }

    #[test]
    fn a_champion_sets_the_bar() {
        refused_by(against_champion, "wape_vs_champion", |evaluation, _| {
            own(evaluation, POOLED, ALL).wape = Some(0.25 * 0.95 + 1e-6);
        });
        refused_by(against_champion, "total", |evaluation, _| own(evaluation, POOLED, TOTAL).wape = Some(0.2501));
        refused_by(against_champion, "slices", |evaluation, _| own(evaluation, POOLED, "h1-7").wape = Some(0.27));
        refused_by(against_champion, "slices", |evaluation, _| {
            evaluation.champion.metrics.retain(|row| row.slice != "h1-7");
        });
        for lost in [None, Some(f64::NAN), Some(f64::INFINITY), Some(-0.1)] {
            let (mut evaluation, context) = against_champion();
            row(&mut evaluation.champion.metrics, "champion", POOLED, ALL).wape = lost;
            assert_eq!(failed(&decide(&evaluation, &gate(), &context)), ["wape_vs_champion"], "{lost:?}");
        }
    }

    #[test]
    fn a_champion_that_is_not_certain_refuses() {
        refused_by(first, "champion_known", |_, context| context.champion = Champion::Unreadable("gone".into()));
        refused_by(first, "champion_known", |_, context| context.champion = Champion::Present(1));
        refused_by(first, "champion_known", |_, context| context.name = "other".into());
        refused_by(first, "champion_known", |evaluation, _| evaluation.champion.present = None);
        refused_by(against_champion, "champion_known", |_, context| context.champion = Champion::Absent);
        refused_by(against_champion, "champion_known", |_, context| context.champion = Champion::Present(5));
        refused_by(against_champion, "champion_known", |evaluation, _| evaluation.champion.how = None);
        refused_by(against_champion, "champion_known", |evaluation, _| {
            evaluation.champion.missing = Some("its recipe names an unknown model".into());
        });
        refused_by(first, "champion_known", |evaluation, _| {
            evaluation.champion = ChampionComparison::unreadable("demand", "timeout".into());
        });
    }

    #[test]
    fn each_required_figure_refuses_when_it_is_gone_or_no_number() {
        for case in [first, against_champion] {
            for origin in ORIGINS.into_iter().chain([POOLED]) {
                for figure in gate().required_figures {
                    for lost in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
                        let (mut evaluation, context) = case();
                        set(own(&mut evaluation, origin, ALL), figure, lost);
                        let decision = decide(&evaluation, &gate(), &context);
                        assert!(!decision.promoted, "{figure:?} {lost:?} at {origin}");
                        assert!(failed(&decision).contains(&"figures_complete"));
                    }
                }
            }
        }
    }

    #[test]
    fn each_row_of_the_candidate_is_needed() {
        let (whole, context) = against_champion();
        let count = whole.metrics.len();
        for at in (0..count).filter(|at| whole.metrics[*at].model == CANDIDATE) {
            let mut evaluation = whole.clone();
            let gone = evaluation.metrics.remove(at);
            let judged = gone.origin == POOLED || gone.slice == ALL;
            assert_eq!(decide(&evaluation, &gate(), &context).promoted, !judged, "{gone:?}");
        }
    }

    #[test]
    fn exactly_the_threshold_passes() {
        let (mut evaluation, context) = against_champion();
        own(&mut evaluation, POOLED, ALL).wape = Some(0.25 * 0.95);
        own(&mut evaluation, POOLED, ALL).bias = Some(-0.10);
        own(&mut evaluation, POOLED, TOTAL).wape = Some(0.25);
        own(&mut evaluation, POOLED, "h1-7").wape = Some(0.25 * 1.05);
        let decision = decide(&evaluation, &gate(), &context);
        assert!(decision.promoted, "{}", decision.reason);
    }

    #[test]
    fn the_champions_own_recipe_is_kept_or_refreshed_by_policy() {
        let (mut evaluation, context) = against_champion();
        evaluation.champion.recipe_digest = Some(Digest::of(CANDIDATE.as_bytes()));
        evaluation.champion.how = Some(ComparedBy::SameRecipe);
        evaluation.champion.metrics = rows(CANDIDATE, 0.20);
        let keep = decide(&evaluation, &gate(), &context);
        assert_eq!(failed(&keep), ["wape_vs_champion"]);
        let refresh = GateThresholds { same_recipe: SameRecipe::Refresh, ..gate() };
        assert!(decide(&evaluation, &refresh, &context).promoted);
        own(&mut evaluation, POOLED, ALL).bias = Some(0.2);
        assert_eq!(failed(&decide(&evaluation, &refresh, &context)), ["bias"], "a refresh passes every other rule");
    }

    #[test]
    fn a_baseline_is_a_first_champion_only_by_policy() {
        let (mut evaluation, mut context) = first();
        evaluation.metrics.extend(rows("weekday_mean", 0.15));
        evaluation.ranking = rank(&evaluation.metrics);
        assert_eq!(failed(&decide(&evaluation, &gate(), &context)), ["best_of_all"]);
        let open = GateThresholds { allow_baseline_champion: true, ..gate() };
        let decision = decide(&evaluation, &open, &context);
        assert_eq!((decision.promoted, decision.candidate.as_deref()), (true, Some("weekday_mean")));
        context.champion = Champion::Present(1);
        let decision = decide(&evaluation, &open, &context);
        assert_eq!((decision.promoted, decision.candidate.as_deref()), (false, Some(CANDIDATE)), "never later");
    }

    #[test]
    fn a_slice_with_next_to_no_demand_is_not_judged() {
        let (mut evaluation, context) = first();
        let worse = own(&mut evaluation, POOLED, "h1-7");
        worse.wape = Some(0.9);
        for (demand, passes) in [(Some(9.9), true), (Some(10.0), false), (None, false)] {
            row(&mut evaluation.metrics, YARDSTICK, POOLED, "h1-7").demand = demand;
            let decision = decide(&evaluation, &gate(), &context);
            assert_eq!(decision.promoted, passes, "{demand:?} of 1000: {}", decision.reason);
        }
    }

    #[test]
    fn a_decision_survives_json() {
        let (evaluation, context) = against_champion();
        let decision = decide(&evaluation, &gate(), &context);
        let text = serde_json::to_string(&decision).expect("JSON");
        assert_eq!(serde_json::from_str::<Decision>(&text).expect("the same shape"), decision);
    }

    fn any_figure() -> impl Strategy<Value = Option<f64>> {
        // Around every threshold; below 0 only a bias is a figure at all.
        let figure = prop_oneof![(0.15..0.4), (0.05..0.15), (-0.15..-0.05)];
        prop_oneof![8 => figure.prop_map(Some), 1 => Just(None), 1 => Just(Some(f64::NAN))]
    }

    /// How much worse a figure becomes: by a factor, or lost.
    fn worsening() -> impl Strategy<Value = Option<f64>> {
        prop_oneof![3 => (1.0..2.0).prop_map(Some), 1 => Just(None)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn worse_figures_never_open_the_gate(
            champion in any::<bool>(),
            start in proptest::collection::vec((0usize..16, 0usize..6, any_figure()), 0..3),
            worse in proptest::collection::vec((0usize..16, 0usize..6, worsening()), 1..4),
        ) {
            let (mut evaluation, context) = if champion { against_champion() } else { first() };
            let kinds = [Figure::Wape, Figure::Smape, Figure::Mae, Figure::Rmse, Figure::Mase, Figure::Bias];
            // The candidate's 16 rows come first.
            for (at, kind, value) in start {
                set(&mut evaluation.metrics[at].figures, kinds[kind], value);
            }
            let before = decide(&evaluation, &gate(), &context);
            for (at, kind, factor) in worse {
                let figures = &mut evaluation.metrics[at].figures;
                let old = kinds[kind].of(figures);
                set(figures, kinds[kind], old.and_then(|old| factor.map(|factor| old * factor)));
            }
            let after = decide(&evaluation, &gate(), &context);
            prop_assert!(before.promoted || !after.promoted, "{} -> {}", before.reason, after.reason);
        }
    }
}
