//! Trigger rules: when the outcomes of a task's upstreams let it start, with Airflow's names and meaning.
//!
//! `plan` asks here each time an upstream ends. Rules are judged on counts, so the cost does not
//! grow with the fan-in. Skips propagate: a rule that a skip makes impossible skips the task too.

use serde::{Deserialize, Serialize};

/// When a task may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerRule {
    /// All upstreams succeeded.
    #[default]
    AllSuccess,
    /// All upstreams failed or could not run for a failure above them.
    AllFailed,
    /// All upstreams ended, however.
    AllDone,
    /// At least one succeeded; does not wait for the rest.
    OneSuccess,
    /// At least one failed; does not wait for the rest.
    OneFailed,
    /// At least one succeeded or failed; does not wait for the rest.
    OneDone,
    /// None failed: all succeeded or were skipped.
    NoneFailed,
    /// None failed, and at least one succeeded.
    NoneFailedMinOneSuccess,
    /// None was skipped: all succeeded or failed.
    NoneSkipped,
    /// All were skipped.
    AllSkipped,
    /// All ended, and at least one succeeded.
    AllDoneMinOneSuccess,
    /// Starts at once, whatever its upstreams do.
    Always,
}

impl TriggerRule {
    /// All rules, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::AllSuccess,
        Self::AllFailed,
        Self::AllDone,
        Self::OneSuccess,
        Self::OneFailed,
        Self::OneDone,
        Self::NoneFailed,
        Self::NoneFailedMinOneSuccess,
        Self::NoneSkipped,
        Self::AllSkipped,
        Self::AllDoneMinOneSuccess,
        Self::Always,
    ];

    /// The name in TOML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllSuccess => "all_success",
            Self::AllFailed => "all_failed",
            Self::AllDone => "all_done",
            Self::OneSuccess => "one_success",
            Self::OneFailed => "one_failed",
            Self::OneDone => "one_done",
            Self::NoneFailed => "none_failed",
            Self::NoneFailedMinOneSuccess => "none_failed_min_one_success",
            Self::NoneSkipped => "none_skipped",
            Self::AllSkipped => "all_skipped",
            Self::AllDoneMinOneSuccess => "all_done_min_one_success",
            Self::Always => "always",
        }
    }

    /// The rule of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }
}

/// How many upstream instances a task has, and how those that ended did so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UpstreamCounts {
    /// All upstream instances (each element of a matrix counts).
    pub total: u32,
    /// Ended `succeeded`.
    pub succeeded: u32,
    /// Ended `failed`, `quarantined` or `canceled`.
    pub failed: u32,
    /// Ended `upstream_failed`.
    pub upstream_failed: u32,
    /// Ended `skipped`.
    pub skipped: u32,
}

impl UpstreamCounts {
    /// How many ended.
    pub fn done(&self) -> u32 {
        self.succeeded + self.failed + self.upstream_failed + self.skipped
    }
}

/// What a rule says about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may start.
    Ready,
    /// More upstreams have to end first.
    Wait,
    /// It will never start: skipped.
    Skip,
    /// It will never start, because something above it failed.
    UpstreamFailed,
}
