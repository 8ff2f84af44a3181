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
    /// All ended, none by a skip, and at least one succeeded.
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

    /// What the rule says about a task whose upstreams ended as counted.
    ///
    /// The meaning is that of Apache Airflow 3 (`ti_deps/deps/trigger_rule_dep.py`), whose task
    /// instances have no setups here. A verdict is reached as early as there: one failure settles
    /// `all_success`, one success settles `one_success`. A task without upstreams is ready.
    pub fn judge(self, counts: &UpstreamCounts) -> Verdict {
        let UpstreamCounts { total, succeeded, skipped, .. } = *counts;
        let failures = counts.failed + counts.upstream_failed;
        let all_done = counts.done() >= total;
        if total == 0 {
            return Verdict::Ready;
        }
        match self {
            Self::Always => Verdict::Ready,
            // A failure wins over a skip that is known at the same time.
            Self::AllSuccess if failures > 0 => Verdict::UpstreamFailed,
            Self::AllSuccess if skipped > 0 => Verdict::Skip,
            Self::AllFailed if succeeded + skipped > 0 => Verdict::Skip,
            Self::NoneFailed | Self::NoneFailedMinOneSuccess if failures > 0 => Verdict::UpstreamFailed,
            Self::NoneFailedMinOneSuccess if skipped >= total => Verdict::Skip,
            // For both, a skipped upstream is one that did not do its part.
            Self::NoneSkipped | Self::AllDoneMinOneSuccess if skipped > 0 => Verdict::Skip,
            Self::AllSkipped if succeeded + failures > 0 => Verdict::Skip,
            Self::AllDoneMinOneSuccess if all_done && succeeded == 0 => Verdict::UpstreamFailed,
            Self::OneSuccess if succeeded > 0 => Verdict::Ready,
            Self::OneSuccess if skipped >= total => Verdict::Skip,
            Self::OneSuccess if all_done => Verdict::UpstreamFailed,
            Self::OneFailed if failures > 0 => Verdict::Ready,
            // An upstream that was never started is not "done" for this rule.
            Self::OneDone if succeeded + counts.failed > 0 => Verdict::Ready,
            Self::OneFailed | Self::OneDone if all_done => Verdict::Skip,
            _ if all_done => Verdict::Ready,
            _ => Verdict::Wait,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way in which up to four upstreams may have ended so far.
    fn all_counts() -> Vec<UpstreamCounts> {
        let mut all = Vec::new();
        for total in 0..=4_u32 {
            for succeeded in 0..=total {
                for failed in 0..=total - succeeded {
                    for upstream_failed in 0..=total - succeeded - failed {
                        for skipped in 0..=total - succeeded - failed - upstream_failed {
                            all.push(UpstreamCounts { total, succeeded, failed, upstream_failed, skipped });
                        }
                    }
                }
            }
        }
        all
    }

    /// One upstream, for the oracle.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Up {
        Pending,
        Success,
        Failed,
        UpstreamFailed,
        Skipped,
    }

    fn upstreams(counts: &UpstreamCounts) -> Vec<Up> {
        let mut list = Vec::new();
        list.extend(vec![Up::Success; counts.succeeded as usize]);
        list.extend(vec![Up::Failed; counts.failed as usize]);
        list.extend(vec![Up::UpstreamFailed; counts.upstream_failed as usize]);
        list.extend(vec![Up::Skipped; counts.skipped as usize]);
        list.resize(counts.total as usize, Up::Pending);
        list
    }

    /// Airflow in two steps, as its source has them: may it run? If not, is it settled?
    fn oracle(rule: TriggerRule, ups: &[Up]) -> Verdict {
        let any = |wanted: &[Up]| ups.iter().any(|up| wanted.contains(up));
        let all = |wanted: &[Up]| ups.iter().all(|up| wanted.contains(up));
        let done = !any(&[Up::Pending]);
        let bad = [Up::Failed, Up::UpstreamFailed];
        if ups.is_empty() || rule == TriggerRule::Always {
            return Verdict::Ready;
        }
        let settled = match rule {
            TriggerRule::AllSuccess if any(&bad) => Some(Verdict::UpstreamFailed),
            TriggerRule::AllSuccess if any(&[Up::Skipped]) => Some(Verdict::Skip),
            TriggerRule::AllFailed if any(&[Up::Success, Up::Skipped]) => Some(Verdict::Skip),
            TriggerRule::OneSuccess if all(&[Up::Skipped]) => Some(Verdict::Skip),
            TriggerRule::OneSuccess if done && !any(&[Up::Success]) => Some(Verdict::UpstreamFailed),
            TriggerRule::OneFailed if done && !any(&bad) => Some(Verdict::Skip),
            TriggerRule::OneDone if done && !any(&[Up::Failed, Up::Success]) => Some(Verdict::Skip),
            TriggerRule::NoneFailed if any(&bad) => Some(Verdict::UpstreamFailed),
            TriggerRule::NoneFailedMinOneSuccess if any(&bad) => Some(Verdict::UpstreamFailed),
            TriggerRule::NoneFailedMinOneSuccess if all(&[Up::Skipped]) => Some(Verdict::Skip),
            TriggerRule::NoneSkipped if any(&[Up::Skipped]) => Some(Verdict::Skip),
            TriggerRule::AllSkipped if any(&[Up::Success, Up::Failed, Up::UpstreamFailed]) => Some(Verdict::Skip),
            TriggerRule::AllDoneMinOneSuccess if any(&[Up::Skipped]) => Some(Verdict::Skip),
            TriggerRule::AllDoneMinOneSuccess if done && !any(&[Up::Success]) => Some(Verdict::UpstreamFailed),
            _ => None,
        };
        let met = match rule {
            TriggerRule::AllSuccess => all(&[Up::Success]),
            TriggerRule::AllFailed => all(&bad),
            TriggerRule::AllDone => done,
            TriggerRule::OneSuccess => any(&[Up::Success]),
            TriggerRule::OneFailed => any(&bad),
            TriggerRule::OneDone => any(&[Up::Success, Up::Failed]),
            TriggerRule::NoneFailed => all(&[Up::Success, Up::Skipped]),
            TriggerRule::NoneFailedMinOneSuccess => all(&[Up::Success, Up::Skipped]),
            TriggerRule::NoneSkipped => done && !any(&[Up::Skipped]),
            TriggerRule::AllSkipped => all(&[Up::Skipped]),
            TriggerRule::AllDoneMinOneSuccess => done && !any(&[Up::Skipped]) && any(&[Up::Success]),
            TriggerRule::Always => true,
        };
        settled.unwrap_or(if met { Verdict::Ready } else { Verdict::Wait })
    }

    #[test]
    fn every_rule_agrees_with_airflow_on_every_count() {
        for counts in all_counts() {
            for rule in TriggerRule::ALL {
                assert_eq!(rule.judge(&counts), oracle(rule, &upstreams(&counts)), "{rule:?} {counts:?}");
            }
        }
    }

    #[test]
    fn once_all_ended_nothing_waits() {
        for counts in all_counts().into_iter().filter(|counts| counts.done() == counts.total) {
            for rule in TriggerRule::ALL {
                assert_ne!(rule.judge(&counts), Verdict::Wait, "{rule:?} {counts:?}");
            }
        }
    }

    /// What was decided on part of the upstreams stands when the rest ends, so a decision may be
    /// written as soon as it is known. The one exception is Airflow's too: `all_success` skips at
    /// the first skip, and a failure that is known by then would have said `upstream_failed`.
    #[test]
    fn verdicts_are_stable_as_upstreams_end() {
        for counts in all_counts().into_iter().filter(|counts| counts.done() < counts.total) {
            let later = [
                UpstreamCounts { succeeded: counts.succeeded + 1, ..counts },
                UpstreamCounts { failed: counts.failed + 1, ..counts },
                UpstreamCounts { upstream_failed: counts.upstream_failed + 1, ..counts },
                UpstreamCounts { skipped: counts.skipped + 1, ..counts },
            ];
            for rule in TriggerRule::ALL {
                let now = rule.judge(&counts);
                for after in later.iter().filter(|_| now != Verdict::Wait) {
                    let then = rule.judge(after);
                    let overtaken =
                        rule == TriggerRule::AllSuccess && (now, then) == (Verdict::Skip, Verdict::UpstreamFailed);
                    assert!(now == then || overtaken, "{rule:?}: {counts:?} {now:?}, {after:?} {then:?}");
                }
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for rule in TriggerRule::ALL {
            assert_eq!(TriggerRule::parse(rule.as_str()), Some(rule));
            assert_eq!(serde_json::to_value(rule).expect("a name"), rule.as_str());
        }
        assert_eq!(TriggerRule::parse("all_good"), None);
    }
}
