//! `features.json`: what each column of `features.parquet` is, and the digest of that meaning.
//!
//! Written by the `features` kind, read by `train`, `evaluate` and people. It holds no values.

use chrono::NaiveDate;
use engine::id::Digest;
use serde::{Deserialize, Serialize};

/// The version of `features.json` and `features.parquet` that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// How far apart the periods of a panel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frequency {
    /// Every day.
    #[serde(rename = "D")]
    Daily,
    /// Every seventh day.
    #[serde(rename = "W")]
    Weekly,
}

impl Frequency {
    /// Days from one period to the next.
    pub fn step_days(self) -> i32 {
        match self {
            Self::Daily => 1,
            Self::Weekly => 7,
        }
    }

    /// Periods of the season that a naive forecast repeats: the week of days, the year of weeks.
    pub fn season(self) -> u32 {
        match self {
            Self::Daily => 7,
            Self::Weekly => 52,
        }
    }

    /// Periods of (about) a year that keep the weekday: 52 weeks.
    pub fn year(self) -> u32 {
        match self {
            Self::Daily => 364,
            Self::Weekly => 52,
        }
    }
}

/// What a feature is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureGroup {
    /// From the series' own past demand.
    Demand,
    /// From the date alone.
    Calendar,
    /// From a covariate that is known for the future too.
    KnownFuture,
    /// From the past of a covariate that is not.
    PastOnly,
    /// From what never changes about a series.
    Static,
}

/// One column of `features.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureColumn {
    /// Its name.
    pub name: String,
    /// The panel's column that it is made from; `time` for the calendar.
    pub source: String,
    /// What it is made of.
    pub group: FeatureGroup,
    /// How it is computed, as one word with its sizes: `lag(28)`, `rolling_mean(7)`.
    pub rule: String,
    /// Periods between the row and the newest demand or past-only value that it reads; `None` if it
    /// reads neither.
    pub lag: Option<u32>,
    /// Text values behind the codes 0, 1, 2 ...; `None` for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub categories: Option<Vec<String>>,
}

/// A panel's column that no feature is made of, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkippedColumn {
    /// Its name.
    pub column: String,
    /// Why.
    pub reason: String,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeaturesDocument {
    /// Of both files.
    pub format_version: u32,
    /// Of everything that gives the columns their meaning: rules, sources, horizon, frequency; not of
    /// the data, so that tomorrow's features of the same DAG have the same digest.
    pub spec_digest: Digest,
    /// Of the panel that the features were computed from.
    pub panel_digest: Digest,
    /// How far apart the periods are.
    pub frequency: Frequency,
    /// Periods of the season.
    pub season: u32,
    /// Periods ahead that a model may be asked for.
    pub horizon: u32,
    /// Rows of the table.
    pub rows: u64,
    /// Series in it.
    pub series: u64,
    /// First period of the panel, `YYYY-MM-DD`.
    pub first_time: NaiveDate,
    /// Last period with known demand, `YYYY-MM-DD`; later rows are the future.
    pub last_time: NaiveDate,
    /// The features, in the table's order.
    pub columns: Vec<FeatureColumn>,
    /// Columns of the panel that no feature is made of.
    pub skipped: Vec<SkippedColumn>,
}
