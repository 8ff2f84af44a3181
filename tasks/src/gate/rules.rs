//! The gate's rules, one function each. All are evaluated, whatever the others say.
//!
//! Called by [`super::decide`]. A rule compares only numbers that [`Figure::of`] let through.

use engine::id::Digest;

use crate::evaluate::{ALL, ComparedBy, Evaluation, MetricRow, POOLED, TOTAL, YARDSTICK};
use crate::gate::{Champion, Check, Figure, GateContext, GateThresholds, SameRecipe};
use crate::metrics::Figures;

/// Rounding that a comparison forgives: a ratio of exactly .95 is 5 % better, whatever its last bit.
const ROUNDING: f64 = 1e-12;

/// What all rules see.
struct Case<'a> {
    evaluation: &'a Evaluation,
    thresholds: &'a GateThresholds,
    context: &'a GateContext,
    candidate: Option<&'a str>,
}

/// Every rule's check, in the order in which people read them.
pub(super) fn all(evaluation: &Evaluation, thresholds: &GateThresholds, context: &GateContext) -> Vec<Check> {
    let case = Case { evaluation, thresholds, context, candidate: candidate(evaluation, thresholds, context) };
    vec![
        case.candidate_is_there(),
        case.candidate_can_be_served(),
        case.best_is_no_baseline(),
        case.enough_origins(),
        case.figures_are_complete(),
        case.evaluation_is_sound(),
        case.champion_is_known(),
        case.wape_against_champion(),
        case.wape_against_yardstick(),
        case.bias(),
        case.total(),
        case.slices(),
    ]
}

/// The best model that is no baseline; the best of all, where the policy lets a baseline be the first champion.
pub(super) fn candidate<'a>(
    evaluation: &'a Evaluation,
    thresholds: &GateThresholds,
    context: &GateContext,
) -> Option<&'a str> {
    let any = thresholds.allow_baseline_champion && context.champion == Champion::Absent;
    let first = evaluation.ranking.iter().find(|ranked| ranked.wape.is_some()).map(|ranked| ranked.model.as_str());
    if any { first } else { evaluation.best.as_deref() }
}

/// The champion's pooled figures on a slice.
pub(super) fn champion_figures<'a>(evaluation: &'a Evaluation, slice: &str) -> Option<&'a Figures> {
    pooled(&evaluation.champion.metrics, slice)
}

/// The recipe's digest of a model of this run.
pub(super) fn recipe_digest(evaluation: &Evaluation, model: &str) -> Option<Digest> {
    evaluation.ranking.iter().find(|ranked| ranked.model == model).and_then(|ranked| ranked.recipe_digest)
}

fn pooled<'a>(rows: &'a [MetricRow], slice: &str) -> Option<&'a Figures> {
    rows.iter().find(|row| row.origin == POOLED && row.slice == slice).map(|row| &row.figures)
}

fn check(name: &str, passed: bool, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), passed, figure: None, threshold: None, detail: detail.into() }
}

/// Passes if the figure is there and at most `limit`.
fn at_most(name: &str, figure: Option<f64>, limit: Option<f64>, what: &str) -> Check {
    let (passed, detail) = match (figure, limit) {
        (Some(figure), Some(limit)) if figure <= limit + ROUNDING => {
            (true, format!("{what} {figure:.4} <= {limit:.4}"))
        }
        (Some(figure), Some(limit)) => (false, format!("{what} {figure:.4} is above {limit:.4}")),
        (None, _) => (false, format!("{what} is missing or no number")),
        (_, None) => (false, format!("{what} has nothing to be compared with")),
    };
    Check { name: name.to_owned(), passed, figure, threshold: limit, detail }
}

impl<'a> Case<'a> {
    fn figures(&self, origin: &str, slice: &str) -> Option<&'a Figures> {
        self.candidate.and_then(|model| self.evaluation.figures(model, origin, slice))
    }

    fn figure(&self, figure: Figure, origin: &str, slice: &str) -> Option<f64> {
        self.figures(origin, slice).and_then(|figures| figure.of(figures))
    }

    fn yardstick(&self, slice: &str) -> Option<&'a Figures> {
        self.evaluation.figures(YARDSTICK, POOLED, slice)
    }

    /// The champion, or the yardstick while there is none.
    fn reference(&self, slice: &str) -> Option<&'a Figures> {
        match self.context.champion {
            Champion::Absent => self.yardstick(slice),
            Champion::Present(_) | Champion::Unreadable(_) => champion_figures(self.evaluation, slice),
        }
    }

    fn candidate_is_there(&self) -> Check {
        let known = self.candidate.filter(|model| self.evaluation.ranking.iter().any(|ranked| ranked.model == *model));
        match known {
            Some(model) => check("candidate", true, format!("{model} is the best candidate")),
            None => check("candidate", false, "no trained model with a WAPE was evaluated"),
        }
    }

    fn candidate_can_be_served(&self) -> Check {
        let passed = self.context.candidate_artifact.is_some();
        let detail = if passed { "the model is saved" } else { "there is no model.bin of the candidate to serve" };
        check("candidate_saved", passed, detail)
    }

    /// A trained model that loses against a baseline is not worth its upkeep.
    fn best_is_no_baseline(&self) -> Check {
        let own = self.figure(Figure::Wape, POOLED, ALL);
        let rivals = self.evaluation.ranking.iter().filter(|r| r.baseline && Some(r.model.as_str()) != self.candidate);
        let best = rivals
            .filter_map(|ranked| {
                let figures = self.evaluation.figures(&ranked.model, POOLED, ALL)?;
                Some((Figure::Wape.of(figures)?, ranked.model.as_str()))
            })
            .min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((limit, model)) => {
                at_most("best_of_all", own, Some(limit), &format!("WAPE against baseline {model}:"))
            }
            None => check("best_of_all", own.is_some(), "no baseline is better"),
        }
    }

    fn enough_origins(&self) -> Check {
        let mut origins = self.evaluation.origins.clone();
        origins.dedup();
        let (seen, needed) = (origins.len(), self.thresholds.min_origins as usize);
        Check {
            figure: Some(seen as f64),
            threshold: Some(needed as f64),
            ..check("origins", seen >= needed, format!("{seen} origins, at least {needed} are needed"))
        }
    }

    fn figures_are_complete(&self) -> Check {
        let origins = self.evaluation.origins.iter().map(String::as_str).chain([POOLED]);
        let mut missing: Vec<String> = Vec::new();
        for origin in origins {
            let absent = |figure: &&Figure| self.figure(**figure, origin, ALL).is_none();
            let absent = self.thresholds.required_figures.iter().filter(absent);
            missing.extend(absent.map(|figure| format!("{} ({origin})", figure.as_str())));
        }
        let detail = if missing.is_empty() {
            "every required figure is there".to_owned()
        } else {
            format!("missing or no number: {}", missing.join(", "))
        };
        check("figures_complete", missing.is_empty(), detail)
    }

    fn evaluation_is_sound(&self) -> Check {
        let judged = [self.candidate, Some(YARDSTICK)];
        let about = |model: Option<&str>| model.is_none() || judged.contains(&model);
        let checks = &self.evaluation.checks;
        let failed: Vec<&str> =
            checks.iter().filter(|c| !c.passed && about(c.model.as_deref())).map(|c| c.detail.as_str()).collect();
        let known = self.evaluation.format_version == crate::evaluate::FORMAT_VERSION && !checks.is_empty();
        let detail = match (known, failed.is_empty()) {
            (false, _) => "evaluation.json is of another version or without checks".to_owned(),
            (true, true) => "the evaluation's own checks hold".to_owned(),
            (true, false) => failed.join(", "),
        };
        check("evaluation_sound", known && failed.is_empty(), detail)
    }

    /// The champion of the evaluation must be the one that would be replaced.
    fn champion_is_known(&self) -> Check {
        let (compared, name) = (&self.evaluation.champion, "champion_known");
        if compared.name != self.context.name {
            let detail =
                format!("evaluate compared with {}; set registry_name there to {}", compared.name, self.context.name);
            return check(name, false, detail);
        }
        if let Some(why) = &compared.missing {
            return check(name, false, format!("the champion could not be compared: {why}"));
        }
        match (&self.context.champion, compared.present, compared.version) {
            (Champion::Unreadable(why), _, _) => check(name, false, format!("the registry could not be read: {why}")),
            (Champion::Absent, Some(false), None) => check(name, true, "there is no champion yet"),
            (Champion::Present(now), Some(true), Some(then)) if *now == then && compared.how.is_some() => {
                check(name, true, format!("champion version {now} was judged at the same origins"))
            }
            (now, _, then) => {
                let version =
                    |version: Option<u32>| version.map_or_else(|| "none".to_owned(), |v| format!("version {v}"));
                let now = version(if let Champion::Present(version) = now { Some(*version) } else { None });
                let detail = format!("the champion changed since the evaluation: {} then, {now} now", version(then));
                check(name, false, detail)
            }
        }
    }

    fn wape_against_champion(&self) -> Check {
        let name = "wape_vs_champion";
        if self.context.champion == Champion::Absent && self.evaluation.champion.present == Some(false) {
            return check(name, true, "it is the first champion");
        }
        let own = self.figure(Figure::Wape, POOLED, ALL);
        let champion = champion_figures(self.evaluation, ALL).and_then(|figures| Figure::Wape.of(figures));
        let digest = self.candidate.and_then(|model| recipe_digest(self.evaluation, model));
        let same = digest.is_some() && digest == self.evaluation.champion.recipe_digest;
        if same && self.evaluation.champion.how == Some(ComparedBy::SameRecipe) && own.is_some() && champion.is_some() {
            return match self.thresholds.same_recipe {
                SameRecipe::Refresh => check(name, true, "it is the champion's recipe, trained anew"),
                SameRecipe::Keep => check(name, false, "it is the champion's own recipe, so there is nothing to gain"),
            };
        }
        let limit = champion.map(|wape| wape * self.thresholds.wape_ratio_vs_champion);
        at_most(name, own, limit, "WAPE against the champion:")
    }

    fn wape_against_yardstick(&self) -> Check {
        let own = self.figure(Figure::Wape, POOLED, ALL);
        let floor = 1.0 - self.thresholds.min_improvement_vs_seasonal_naive;
        let limit = self.yardstick(ALL).and_then(|figures| Figure::Wape.of(figures)).map(|wape| wape * floor);
        at_most("wape_vs_seasonal_naive", own, limit, "WAPE against seasonal_naive:")
    }

    fn bias(&self) -> Check {
        let bias = self.figure(Figure::Bias, POOLED, ALL).map(f64::abs);
        at_most("bias", bias, Some(self.thresholds.max_abs_bias), "absolute bias")
    }

    fn total(&self) -> Check {
        let own = self.figure(Figure::Wape, POOLED, TOTAL);
        let reference = self.reference(TOTAL).and_then(|figures| Figure::Wape.of(figures));
        let limit = reference.map(|wape| wape * self.thresholds.max_total_wape_ratio);
        at_most("total", own, limit, "WAPE of the total")
    }

    /// Every other slice that a model or the champion has and that matters; the worst is shown.
    fn slices(&self) -> Check {
        let rows = self.evaluation.metrics.iter().chain(&self.evaluation.champion.metrics);
        let mut slices: Vec<&str> = Vec::new();
        for row in rows.filter(|row| row.origin == POOLED && ![ALL, TOTAL].contains(&row.slice.as_str())) {
            if !slices.contains(&row.slice.as_str()) {
                slices.push(&row.slice);
            }
        }
        slices.retain(|slice| !self.is_immaterial(slice));
        let checks: Vec<Check> = slices.iter().map(|slice| self.slice(slice)).collect();
        let failed: Vec<&str> = checks.iter().filter(|c| !c.passed).map(|c| c.detail.as_str()).collect();
        let ratios =
            checks.iter().filter_map(|c| Some((c.figure? / c.threshold?, c))).filter(|(ratio, _)| !ratio.is_nan());
        let worst = ratios.max_by(|a, b| a.0.total_cmp(&b.0));
        let detail = if slices.is_empty() {
            "there are no slices to look at".to_owned()
        } else if failed.is_empty() {
            format!("none of {} slices is worse than allowed", slices.len())
        } else {
            failed.join(", ")
        };
        Check {
            figure: worst.and_then(|(_, c)| c.figure),
            threshold: worst.and_then(|(_, c)| c.threshold),
            ..check("slices", failed.is_empty() && !slices.is_empty(), detail)
        }
    }

    fn slice(&self, slice: &str) -> Check {
        let own = self.figure(Figure::Wape, POOLED, slice);
        let reference = self.reference(slice).and_then(|figures| Figure::Wape.of(figures));
        let limit = reference.map(|wape| wape * self.thresholds.max_slice_wape_ratio);
        at_most(slice, own, limit, &format!("WAPE of slice {slice}"))
    }

    /// Whether the slice has so little of the demand that its figures are noise; unknown demand is judged.
    fn is_immaterial(&self, slice: &str) -> bool {
        let demand = |slice| self.reference(slice).and_then(|figures| figures.demand);
        match (demand(slice), demand(ALL)) {
            (Some(own), Some(all)) => own < all * self.thresholds.min_slice_demand_share,
            _ => false,
        }
    }
}
