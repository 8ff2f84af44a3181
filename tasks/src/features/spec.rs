//! From parameters and a panel to the list of features: which rule on which column, under which name.
//!
//! Called by the `features` kind before anything is computed. The list, not the code that runs it, is
//! what the spec digest is about.

use engine::id::Digest;
use engine::task::{ErrorClass, TaskError};

use crate::features::panel::{CLOSED, Covariate, Panel, Role};
use crate::features::{FORMAT_VERSION, FeatureColumn, FeatureGroup, FeaturesParams, Frequency, SkippedColumn};

/// Text with more values than this names things (descriptions, item codes); its codes say nothing.
const MAX_CATEGORIES: usize = 64;

/// Periods after which "days since the last promo" says nothing more.
const SINCE_CAP: u32 = 30;

/// How a feature is computed. Sizes are periods; `cov` is the place of a covariate in the panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Demand that many periods back.
    Lag(u32),
    /// A statistic of known demand in that many periods, ending a horizon back.
    Rolling(Statistic, u32),
    /// Mean of the last known values at the same place of the season.
    SameSeason(u32),
    /// Mean of all known values.
    Expanding,
    /// Mean of known values around a year ago: `half` periods to each side.
    YearAgo { year: u32, half: u32 },
    /// Mean of known values in the same state of a flag; the last `count`, or all (0). With `season`,
    /// at the same place of the season too.
    Like { cov: Source, count: u32, season: bool },
    /// A part of the date.
    Calendar(CalendarPart),
    /// A covariate that many periods later (negative: earlier).
    Value { cov: Source, offset: i32 },
    /// Periods since a flag was last set, before this one.
    Since { cov: Source, cap: u32 },
    /// Periods until a flag is next set, after this one.
    Until { cov: Source, cap: u32 },
    /// Periods in which a flag is set, of that many before or after.
    Count { cov: Source, periods: i32 },
    /// A past-only covariate a horizon back.
    PastValue { cov: usize },
    /// Mean of a past-only covariate in that many periods, ending a horizon back.
    PastMean { cov: usize, window: u32 },
    /// A known covariate over its own mean in that many periods, ending a horizon back.
    Relative { cov: usize, window: u32 },
    /// Periods since the series began.
    Age,
}

/// Where a flag or a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The panel's `closed`.
    Closed,
    /// A covariate, by its place.
    Covariate(usize),
}

/// What is taken of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statistic {
    Mean,
    Deviation,
    Minimum,
    Maximum,
    ZeroShare,
}

/// A part of the date, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CalendarPart {
    /// Monday = 0.
    Weekday,
    DayOfMonth,
    Month,
    /// ISO 8601.
    Week,
    DayOfYear,
}

/// A feature: what people read of it, and how it is computed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Feature {
    pub(super) column: FeatureColumn,
    pub(super) rule: Rule,
}

/// All features of a panel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spec {
    pub(super) horizon: u32,
    pub(super) season: u32,
    pub(super) features: Vec<Feature>,
    pub(super) skipped: Vec<SkippedColumn>,
}

impl Spec {
    /// Resolves `params` on `panel`.
    pub(super) fn new(params: &FeaturesParams, panel: &Panel) -> Self {
        let spec = Self {
            horizon: params.horizon,
            season: panel.frequency.season(),
            features: Vec::new(),
            skipped: Vec::new(),
        };
        let mut builder = Builder { params, panel, spec };
        builder.demand();
        if params.calendar {
            builder.calendar();
        }
        if panel.closed.contains(&true) {
            builder.closed();
        }
        for (at, covariate) in panel.covariates.iter().enumerate() {
            builder.covariate(at, covariate);
        }
        builder.spec
    }

    /// Digest of everything that gives the columns their meaning; not of the data.
    ///
    /// # Errors
    /// Permanent, never in practice: the list is plain JSON.
    pub(super) fn digest(&self, frequency: Frequency) -> Result<Digest, TaskError> {
        let columns: Vec<FeatureColumn> =
            self.features.iter().map(|f| FeatureColumn { categories: None, ..f.column.clone() }).collect();
        let meaning = (FORMAT_VERSION, frequency, self.season, self.horizon, columns);
        serde_json::to_vec(&meaning).map(|bytes| Digest::of(&bytes)).map_err(|source| {
            TaskError::permanent_from(ErrorClass::System, "the list of features could not be written as JSON", source)
        })
    }
}

struct Builder<'a> {
    params: &'a FeaturesParams,
    panel: &'a Panel,
    spec: Spec,
}

impl Builder<'_> {
    fn push(&mut self, name: String, source: &str, group: FeatureGroup, rule: Rule) {
        let column = FeatureColumn {
            name,
            source: source.to_owned(),
            group,
            rule: describe(rule),
            lag: self.lag(rule),
            categories: None,
        };
        self.spec.features.push(Feature { column, rule });
    }

    /// Periods between a row and the newest unknown-in-advance value that the rule reads.
    fn lag(&self, rule: Rule) -> Option<u32> {
        let horizon = self.params.horizon;
        match rule {
            Rule::Lag(lag) => Some(lag),
            Rule::YearAgo { year, half } => Some(year - half),
            Rule::SameSeason(_) | Rule::Like { season: true, .. } => Some(horizon.next_multiple_of(self.spec.season)),
            Rule::Rolling(..)
            | Rule::Expanding
            | Rule::Like { .. }
            | Rule::PastValue { .. }
            | Rule::PastMean { .. } => Some(horizon),
            _ => None,
        }
    }

    fn demand(&mut self) {
        let (params, season, year) = (self.params, self.spec.season, self.panel.frequency.year());
        let nearest = params.horizon.next_multiple_of(season);
        let default_lags = || {
            let mut lags: Vec<u32> = (0..4).map(|k| nearest + k * season).collect();
            lags.extend((year > nearest + 3 * season).then_some(year));
            lags
        };
        let mut push = |name: String, rule| self.push(name, "demand", FeatureGroup::Demand, rule);
        for lag in params.lags.clone().unwrap_or_else(default_lags) {
            push(format!("lag_{lag}"), Rule::Lag(lag));
        }
        for window in &params.rolling {
            push(format!("mean_{window}"), Rule::Rolling(Statistic::Mean, *window));
        }
        for window in &params.spread {
            push(format!("std_{window}"), Rule::Rolling(Statistic::Deviation, *window));
            push(format!("min_{window}"), Rule::Rolling(Statistic::Minimum, *window));
            push(format!("max_{window}"), Rule::Rolling(Statistic::Maximum, *window));
            push(format!("zero_share_{window}"), Rule::Rolling(Statistic::ZeroShare, *window));
        }
        for count in &params.same_weekday {
            push(format!("same_weekday_{count}"), Rule::SameSeason(*count));
        }
        push("expanding_mean".to_owned(), Rule::Expanding);
        if params.horizon + 3 <= year {
            push("year_ago_mean".to_owned(), Rule::YearAgo { year, half: 3 });
        }
        push("age".to_owned(), Rule::Age);
    }

    fn calendar(&mut self) {
        let parts: &[(&str, CalendarPart)] = match self.panel.frequency {
            Frequency::Daily => &[
                ("weekday", CalendarPart::Weekday),
                ("day_of_month", CalendarPart::DayOfMonth),
                ("month", CalendarPart::Month),
                ("week", CalendarPart::Week),
                ("day_of_year", CalendarPart::DayOfYear),
            ],
            Frequency::Weekly => &[("month", CalendarPart::Month), ("week", CalendarPart::Week)],
        };
        for (name, part) in parts {
            self.push((*name).to_owned(), "time", FeatureGroup::Calendar, Rule::Calendar(*part));
        }
    }

    fn closed(&mut self) {
        self.neighbors(CLOSED, Source::Closed);
        self.distances(CLOSED, Source::Closed);
        let season = self.spec.season.cast_signed();
        self.known(format!("closed_before_{season}"), CLOSED, Rule::Count { cov: Source::Closed, periods: -season });
        if self.params.lookahead >= self.spec.season {
            self.known(format!("closed_after_{season}"), CLOSED, Rule::Count { cov: Source::Closed, periods: season });
        }
    }

    fn covariate(&mut self, at: usize, covariate: &Covariate) {
        let name = &covariate.name;
        if let Some(categories) = covariate.categories.as_ref().filter(|c| c.len() > MAX_CATEGORIES) {
            let reason = format!("{} different texts (at most {MAX_CATEGORIES} are used as codes)", categories.len());
            self.spec.skipped.push(SkippedColumn { column: name.clone(), reason });
            return;
        }
        let first = self.spec.features.len();
        match covariate.role {
            Role::Static => {
                let rule = Rule::Value { cov: Source::Covariate(at), offset: 0 };
                self.push(name.clone(), name, FeatureGroup::Static, rule);
            }
            Role::KnownFuture => self.known_future(at, covariate),
            Role::PastOnly => self.past_only(at, covariate),
            Role::Series | Role::Time | Role::Demand => {}
        }
        for feature in &mut self.spec.features[first..] {
            if matches!(feature.rule, Rule::Value { .. } | Rule::PastValue { .. }) {
                feature.column.categories.clone_from(&covariate.categories);
            }
        }
    }

    fn known(&mut self, name: String, source: &str, rule: Rule) {
        self.push(name, source, FeatureGroup::KnownFuture, rule);
    }

    fn known_future(&mut self, at: usize, covariate: &Covariate) {
        let (name, source) = (&covariate.name, Source::Covariate(at));
        self.known(name.clone(), name, Rule::Value { cov: source, offset: 0 });
        if covariate.is_flag() || covariate.categories.is_some() {
            self.neighbors(name, source);
            self.distances(name, source);
        } else {
            let rule = Rule::Relative { cov: at, window: RELATIVE_WINDOW };
            self.known(format!("{name}_relative"), name, rule);
        }
        if covariate.is_flag() && self.params.like > 0 {
            let count = self.params.like;
            for (suffix, count, season) in [("", 0, false), ("_weekday", 0, true), ("_weekday_recent", count, true)] {
                let rule = Rule::Like { cov: source, count, season };
                self.push(format!("like_{name}{suffix}"), "demand", FeatureGroup::Demand, rule);
            }
        }
    }

    fn neighbors(&mut self, name: &str, cov: Source) {
        self.known(format!("{name}_before"), name, Rule::Value { cov, offset: -1 });
        if self.params.lookahead > 0 {
            self.known(format!("{name}_next"), name, Rule::Value { cov, offset: 1 });
        }
    }

    fn distances(&mut self, name: &str, cov: Source) {
        self.known(format!("since_{name}"), name, Rule::Since { cov, cap: SINCE_CAP });
        if self.params.lookahead > 0 {
            self.known(format!("until_{name}"), name, Rule::Until { cov, cap: self.params.lookahead });
        }
    }

    fn past_only(&mut self, at: usize, covariate: &Covariate) {
        let name = &covariate.name;
        let mut push = |suffix: &str, rule| self.push(format!("{name}_{suffix}"), name, FeatureGroup::PastOnly, rule);
        push("past", Rule::PastValue { cov: at });
        if covariate.categories.is_none() {
            push("past_mean", Rule::PastMean { cov: at, window: RELATIVE_WINDOW });
        }
    }
}

/// Four weeks: long enough to average out a promotion, short enough to follow a change of price.
const RELATIVE_WINDOW: u32 = 28;

/// The rule as people read it in `features.json`.
fn describe(rule: Rule) -> String {
    match rule {
        Rule::Lag(lag) => format!("lag({lag})"),
        Rule::Rolling(statistic, window) => {
            let name = match statistic {
                Statistic::Mean => "mean",
                Statistic::Deviation => "std",
                Statistic::Minimum => "min",
                Statistic::Maximum => "max",
                Statistic::ZeroShare => "zero_share",
            };
            format!("rolling_{name}({window})")
        }
        Rule::SameSeason(count) => format!("same_season_mean({count})"),
        Rule::Expanding => "expanding_mean".to_owned(),
        Rule::YearAgo { year, half } => format!("centered_mean({year} +- {half})"),
        Rule::Like { count: 0, season, .. } => format!("same_state_mean(all, season = {season})"),
        Rule::Like { count, season, .. } => format!("same_state_mean({count}, season = {season})"),
        Rule::Calendar(_) => "calendar".to_owned(),
        Rule::Value { offset, .. } => format!("value({offset:+})"),
        Rule::Since { cap, .. } => format!("periods_since({cap})"),
        Rule::Until { cap, .. } => format!("periods_until({cap})"),
        Rule::Count { periods, .. } => format!("count({periods:+})"),
        Rule::PastValue { .. } => "value(-horizon)".to_owned(),
        Rule::PastMean { window, .. } => format!("rolling_mean({window})"),
        Rule::Relative { window, .. } => format!("value / rolling_mean({window})"),
        Rule::Age => "age".to_owned(),
    }
}
