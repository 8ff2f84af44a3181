//! Parameters of the `features` kind, with defaults good enough that most DAGs name the horizon alone.

use engine::dag::ParamProblem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which features are made. A size of `[]` or 0 leaves that kind of feature out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturesParams {
    /// Periods ahead that models will forecast. No feature of a row reads demand newer than this many
    /// periods before it.
    #[schemars(range(min = 1, max = 366))]
    pub horizon: u32,
    /// Past demand, in periods back; each at least the horizon. Default: the four nearest multiples of
    /// the season (28, 35, 42, 49 days for a horizon of 28) and 52 weeks.
    #[serde(default)]
    pub lags: Option<Vec<u32>>,
    /// Windows of the rolling mean, in periods, ending a horizon back.
    #[serde(default = "default_rolling")]
    pub rolling: Vec<u32>,
    /// Windows of the rolling standard deviation, minimum, maximum and share of zeros.
    #[serde(default = "default_spread")]
    pub spread: Vec<u32>,
    /// How many past values of the same weekday are averaged.
    #[serde(default = "default_same_weekday")]
    pub same_weekday: Vec<u32>,
    /// Past values of the same weekday in the same state of a flag (promo or not) that are averaged;
    /// beside the mean of all of them.
    #[serde(default = "default_like")]
    pub like: u32,
    /// Periods after a row up to which known_future covariates are read (days until the next promo),
    /// within its window of one horizon: never beyond what a forecast has. 0 looks at the row alone.
    #[serde(default = "default_lookahead")]
    #[schemars(range(min = 0, max = 60))]
    pub lookahead: u32,
    /// Date features: weekday, day of month, month, week and day of year.
    #[serde(default = "default_calendar")]
    pub calendar: bool,
}

fn default_rolling() -> Vec<u32> {
    vec![7, 28, 91]
}

fn default_spread() -> Vec<u32> {
    vec![28]
}

fn default_same_weekday() -> Vec<u32> {
    vec![4, 8]
}

fn default_like() -> u32 {
    12
}

fn default_lookahead() -> u32 {
    7
}

fn default_calendar() -> bool {
    true
}

impl FeaturesParams {
    /// Everything at its default.
    pub fn new(horizon: u32) -> Self {
        Self {
            horizon,
            lags: None,
            rolling: default_rolling(),
            spread: default_spread(),
            same_weekday: default_same_weekday(),
            like: default_like(),
            lookahead: default_lookahead(),
            calendar: default_calendar(),
        }
    }

    /// What is wrong with the values, beyond their types.
    pub(super) fn problems(&self) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        if !(1..=366).contains(&self.horizon) {
            problems.push(problem(
                &["horizon"],
                "must be between 1 and 366".to_owned(),
                "use the number of periods to forecast",
            ));
        }
        for (at, lag) in self.lags.iter().flatten().enumerate() {
            if *lag < self.horizon {
                problems.push(problem(
                    &["lags", &at.to_string()],
                    format!("a lag of {lag} reads demand that is unknown {} periods ahead", self.horizon),
                    "use lags of at least the horizon, or leave `lags` out",
                ));
            }
        }
        let sizes = [("rolling", &self.rolling), ("spread", &self.spread), ("same_weekday", &self.same_weekday)];
        for (name, values) in sizes {
            for (at, value) in values.iter().enumerate().filter(|(_, value)| !(1..=MAX_WINDOW).contains(*value)) {
                problems.push(problem(
                    &[name, &at.to_string()],
                    format!("a window of {value} periods is out of range"),
                    "use between 1 and 1096 periods",
                ));
            }
        }
        problems
    }
}

/// Three years of days: longer windows are what the expanding mean is for.
const MAX_WINDOW: u32 = 1_096;

fn problem(path: &[&str], message: String, help: &str) -> ParamProblem {
    ParamProblem { path: path.iter().map(|key| (*key).to_owned()).collect(), message, help: Some(help.to_owned()) }
}
