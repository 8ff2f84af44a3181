//! A drill, as its file says: `docs/runbooks/<id>.toml`, beside the runbook that it rehearses.
//!
//! `read` makes a [`Drill`] or every diagnostic at once; `fault` holds what goes wrong and when. The CLI performs
//! drills, `store` pins the faults of a run, the executor injects them. Nothing here reads a file, and nothing
//! here knows which tasks there are.

mod fault;
mod read;

use std::time::Duration;

use serde_json::{Map, Value};

pub use fault::{Fault, FaultKind, Moment, Operation};
pub use read::parse;

use crate::id::{ArtifactName, InstanceId, ModelName, TaskId};

/// A drill.
#[derive(Debug, Clone, PartialEq)]
pub struct Drill {
    /// The stem of its file.
    pub id: String,
    /// What happens, for people.
    pub title: String,
    /// The runbook that it rehearses: a file beside its own.
    pub runbook: String,
    /// How bad it would be: S1 (all tenants), S2 (one tenant's night), S3 (nobody noticed).
    pub severity: &'static str,
    /// What its runs are.
    pub subject: Subject,
    /// What goes wrong.
    pub faults: Vec<Declared>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What has to hold.
    pub expectations: Vec<Expectation>,
}

/// A run that a fault strikes, and the replays that descend from it: one of them has to end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family<'a> {
    /// The drill tenant.
    pub tenant: &'a str,
    /// The steps that make these runs; first that of the run that is struck.
    pub steps: Vec<&'a str>,
}

impl Drill {
    /// The drill tenants whose runs a fault has to strike.
    pub fn struck_by<'a>(&'a self, fault: &'a Declared) -> Vec<&'a str> {
        let step = self.steps.iter().find(|step| step.name == fault.step);
        match fault.tenant.as_ref().or_else(|| step?.tenant.as_ref()) {
            Some(tenant) => vec![tenant.as_str()],
            None => self.subject.tenants.iter().map(String::as_str).collect(),
        }
    }

    /// The runs that are struck, each with its replays. A run that is made to compare with is in none of them.
    pub fn struck(&self) -> Vec<Family<'_>> {
        let mut families = Vec::new();
        for fault in &self.faults {
            for tenant in self.struck_by(fault) {
                let mut steps = vec![fault.step.as_str()];
                for step in &self.steps {
                    if let Action::Replay { of, .. } = &step.action
                        && step.action.makes_run()
                        && step.tenant.as_ref().is_none_or(|whose| whose == tenant)
                        && steps.contains(&of.as_str())
                    {
                        steps.push(&step.name);
                    }
                }
                families.push(Family { tenant, steps });
            }
        }
        families
    }
}

/// What the runs of a drill are: a DAG, with whose parameters, over which input.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// A DAG's id.
    pub dag: String,
    /// The tenant whose parameters are taken; `None` = none.
    pub like: Option<String>,
    /// An earlier run: the drill's runs are made from what it was pinned to.
    pub clone_of: Option<String>,
    /// The parameter that names the input: each drill tenant gets a copy of what it names.
    pub input: Option<String>,
    /// The seed of the runs.
    pub seed: u64,
    /// The drill tenants, by the names that they have within the drill.
    pub tenants: Vec<String>,
    /// Parameters over those of the tenant.
    pub params: Map<String, Value>,
}

/// The kinds of alerts, as `store::AlertKind` writes them.
pub const ALERTS: [&str; 6] =
    ["deadline_at_risk", "deadline_missed", "launch_failed", "quota_exceeded", "overlap", "fires_dropped"];

/// A fault and where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The step whose run it strikes.
    pub step: String,
    /// The drill tenant; `None` = each.
    pub tenant: Option<String>,
    /// What goes wrong.
    pub what: Trouble,
}

impl Declared {
    /// Whether the two would strike at once, and one of them in vain.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_same =
            self.step == other.step && (self.tenant.is_none() || other.tenant.is_none() || self.tenant == other.tenant);
        is_same
            && match (&self.what, &other.what) {
                (Trouble::Attempt(one), Trouble::Attempt(two)) => one.overlaps(two),
                (Trouble::Input(_), Trouble::Input(_)) | (Trouble::Database { .. }, Trouble::Database { .. }) => true,
                _ => false,
            }
    }
}

/// What goes wrong, and who makes it so.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// Pinned with the run, injected by the executor.
    Attempt(Fault),
    /// The drill tenant's copy of the input, before the run is made.
    Input(Damage),
    /// The database, as soon as the task has started.
    Database {
        /// The task whose start is the signal.
        task: TaskId,
        /// How long it is away, where no command restarts it.
        lasts: Duration,
    },
}

/// What is wrong with an input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Damage {
    /// It has not arrived.
    Missing,
    /// It ends in the middle.
    Truncated,
    /// Two columns have changed places below their headings. CSV only.
    Swapped,
    /// Each number of the last column is so many times what it was. CSV only.
    Scaled(f64),
}

impl Damage {
    /// For the record.
    pub fn words(self) -> String {
        match self {
            Self::Missing => "it has not arrived".to_owned(),
            Self::Truncated => "it ends in the middle of a row".to_owned(),
            Self::Swapped => "two columns have changed places below their headings".to_owned(),
            Self::Scaled(factor) => format!("the numbers of its last column are {factor} times what they were"),
        }
    }
}

/// A step of the runbook.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its name within the drill; of a step that makes a run, that run's name, too.
    pub name: String,
    /// The drill tenant; `None` = each, one after the other.
    pub tenant: Option<String>,
    /// What is done.
    pub action: Action,
    /// How its command has to end.
    pub exit: Exit,
}

/// How a step's command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By SIGKILL.
    Killed,
}

/// What a step does. Each is a command that people give, too, but for `Run`, which makes a drill run first.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Makes a run and executes it.
    Run {
        /// Parameters of this run alone.
        params: Map<String, Value>,
    },
    /// `run --resume`
    Resume {
        /// The step that made the run.
        of: String,
    },
    /// `retry`
    Retry {
        /// The step that made the run.
        of: String,
    },
    /// `replay`: the new run has the step's name.
    Replay {
        /// The step that made the run.
        of: String,
        /// What runs again.
        which: Which,
    },
    /// Puts the good input back.
    RestoreInput,
    /// `models promote --force`
    Promote {
        /// The model.
        model: ModelName,
        /// The version.
        version: u32,
    },
    /// `models rollback`
    Rollback {
        /// The model.
        model: ModelName,
    },
    /// `dag pause` of the subject's DAG.
    Pause,
    /// `dag resume` of the subject's DAG.
    Unpause,
}

impl Action {
    /// The word in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Run { .. } => "run",
            Self::Resume { .. } => "resume",
            Self::Retry { .. } => "retry",
            Self::Replay { .. } => "replay",
            Self::RestoreInput => "restore_input",
            Self::Promote { .. } => "promote",
            Self::Rollback { .. } => "rollback",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
        }
    }

    /// Whether it makes a run that later steps and expectations name.
    pub fn makes_run(&self) -> bool {
        matches!(self, Self::Run { .. } | Self::Replay { which: Which::Failed | Which::All | Which::Task(_), .. })
    }
}

/// What a replay runs again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// `--from failed`
    Failed,
    /// `--from failed --plan`
    Plan,
    /// `--task`
    Task(TaskId),
    /// `--all`
    All,
    /// `--all --verify`
    Verify,
}

/// Something that has to hold after a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// For people.
    pub name: String,
    /// The step after which it has to hold; `None` = at the end.
    pub after: Option<String>,
    /// Of which drill tenant; `None` = of each.
    pub tenant: Option<String>,
    /// What.
    pub check: Check,
}

/// What has to hold. `run` is the name of the step that made it.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// The run has this state.
    State {
        /// The run.
        run: String,
        /// `succeeded`, `failed` ...
        state: String,
    },
    /// The task instances have these marks.
    Task {
        /// The run.
        run: String,
        /// The task; all its elements, unless one is named.
        instance: InstanceId,
        /// Its state.
        state: Option<String>,
        /// How many attempts its generation took.
        attempts: Option<i64>,
        /// Its generation: 1 until somebody asks for it again.
        generation: Option<i64>,
        /// A part of why it is where it is.
        reason: Option<String>,
    },
    /// Each task instance of the run took this many attempts, and nobody asked for another generation.
    Attempts {
        /// The run.
        run: String,
        /// How many.
        attempts: i64,
    },
    /// These tasks were taken over, their artifacts those of the other run by digest; the rest was executed.
    Reused {
        /// The run.
        run: String,
        /// The earlier run.
        from: String,
        /// The tasks that were taken over.
        tasks: Vec<TaskId>,
    },
    /// Artifacts of the name have the same digests in both runs.
    SameArtifacts {
        /// The run.
        run: String,
        /// The other run.
        other: String,
        /// Names of artifacts.
        names: Vec<ArtifactName>,
    },
    /// No artifact is there twice, and each object is what was published.
    Whole {
        /// The run.
        run: String,
    },
    /// A task's output has a value, or a text in it.
    Output {
        /// The run.
        run: String,
        /// `task.field`
        path: String,
        /// What it has to be; a text has to be a part of it.
        value: Value,
    },
    /// The champion's version; 0 = there is none.
    Champion {
        /// The model.
        model: ModelName,
        /// Its version.
        version: u32,
    },
    /// Runs, artifacts and champion of the tenant are what they were after a step.
    Unchanged {
        /// That step.
        since: String,
    },
    /// What the step's command printed has a text in it.
    Said {
        /// The step.
        step: String,
        /// The text.
        text: String,
    },
    /// An alert of the tenant was raised, or none was; whether it is resolved does not matter.
    Alert {
        /// One of [`ALERTS`].
        kind: &'static str,
        /// Whether it has to be there.
        is_raised: bool,
    },
    /// From the first fault to its first trace in a run's record.
    DetectedWithin(Duration),
    /// From the first fault to the success of the last run that was struck, or of what came in its place.
    RecoveredWithin(Duration),
}
