//! Exit codes, and how an error is told: what, why, and a hint.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 2 | usage: the command line, the configuration or a parameter is wrong |
//! | 3 | a DAG is invalid |
//! | 4 | a run failed or was canceled |
//! | 5 | the store or the artifact store is unavailable |
//! | 70 | a bug of ours |

use std::process::ExitCode;

use engine::artifact::ArtifactError;
use engine::config::ConfigError;
use engine::dag::Diagnostics;
use engine::executor::ExecutorError;
use engine::launch::LaunchError;
use engine::replay::ReplayError;
use engine::store::StoreError;
use serde_json::json;

use crate::output::Output;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A command that could not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    kind: &'static str,
    message: String,
    chain: Vec<String>,
    hint: Option<String>,
    /// Diagnostics of a DAG, printed with their source.
    diagnostics: Option<Box<Diagnostics>>,
}

impl Failure {
    fn new(code: u8, kind: &'static str, message: impl Into<String>) -> Self {
        Self { code, kind, message: message.into(), chain: Vec::new(), hint: None, diagnostics: None }
    }

    fn because(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            self.chain.push(error.to_string());
            next = error.source();
        }
        self
    }

    fn of(code: u8, kind: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        let failure = Self::new(code, kind, error.to_string());
        match error.source() {
            Some(cause) => failure.because(cause),
            None => failure,
        }
    }

    /// The command line asked for something that can not be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, "usage", message)
    }

    /// A DAG (or a tenant's file) is invalid.
    pub(crate) fn invalid(diagnostics: Diagnostics) -> Self {
        let message = format!("{} is not valid", diagnostics.file);
        Self { diagnostics: Some(Box::new(diagnostics)), ..Self::new(3, "dag_invalid", message) }
    }

    /// A file of the machine can not be read or written.
    pub(crate) fn file(message: impl Into<String>, cause: std::io::Error) -> Self {
        Self::new(2, "file", message).because(&cause)
    }

    /// Something that should not be able to happen.
    pub(crate) fn bug(message: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self::new(70, "bug", message).because(cause.into().as_ref())
    }

    /// What happened and why, on one line.
    pub(crate) fn words(&self) -> String {
        std::iter::once(&self.message).chain(&self.chain).map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            let failure = Self::of(5, "store_unavailable", &error);
            return match error {
                StoreError::SchemaOlder { .. } => failure.hint("run `headworks db migrate`, or `headworks run` once"),
                StoreError::Owned { .. } => {
                    failure.hint("set HEADWORKS_STORE_URL=postgres://... to run several at once")
                }
                _ => failure.hint("check HEADWORKS_STORE_URL, or [store] url in headworks.toml"),
            };
        }
        match &error {
            StoreError::NotFound { .. } => Self::of(2, "not_found", &error)
                .hint("`headworks runs list` and `headworks models list` show what there is"),
            StoreError::NoInstance { run, .. } => Self::of(2, "not_found", &error)
                .hint(format!("`headworks runs show {run}` shows its tasks and how many elements each has")),
            StoreError::RunOpen { run, .. } => Self::of(2, "run_open", &error).hint(format!(
                "wait for its end, or `headworks runs cancel {run}`; if its process is gone, `headworks run --resume {run}`"
            )),
            StoreError::NothingToRerun { .. } => Self::of(2, "nothing_to_rerun", &error)
                .hint("name a task with --task to run it again, however it ended"),
            StoreError::ChampionMoved { .. } => Self::of(4, "champion_moved", &error)
                .hint("somebody else was first: `headworks models show` tells who and why; then ask again"),
            StoreError::NotPromotable { .. } => Self::of(4, "not_promotable", &error)
                .hint("--force --reason WHY overrules the gate, on record"),
            StoreError::NoEarlierChampion { .. } => Self::of(4, "no_earlier_champion", &error)
                .hint("`headworks models promote` names the version to go to"),
            StoreError::Url { .. } => Self::of(2, "usage", &error),
            StoreError::Dag(diagnostics) => Self { diagnostics: Some(diagnostics.clone()), ..Self::of(3, "dag_invalid", &error) }
                .hint("a run keeps the DAG version that it began with: use the binary that made it, or create a new run"),
            _ => Self::of(70, "bug", &error),
        }
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Url { .. } => Self::of(2, "usage", &error),
            ArtifactError::Integrity { .. } | ArtifactError::Missing { .. } => {
                Self::of(4, "artifact_integrity", &error)
                    .hint("the object was changed after it was published; its digest is on record")
            }
            _ => Self::of(5, "artifacts_unavailable", &error).hint("check HEADWORKS_ARTIFACTS_URL and AWS_*"),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::of(2, "config", &error).hint("`headworks config default` prints every key with its meaning")
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        Self::of(2, "usage", &error)
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Store(error) => Self::from(error),
            ReplayError::Artifact(error) => Self::from(error),
            ReplayError::Nothing { .. } => Self::of(2, "nothing_to_replay", &error)
                .hint("--all runs everything again; --task T one task and all below it"),
            ReplayError::Blocked { ref instance, .. } => {
                let task = &instance.task;
                Self::of(4, "replay_blocked", &error)
                    .hint(format!("--plan shows all of them; --task {task} makes it anew, with all below it"))
            }
        }
    }
}

impl From<ExecutorError> for Failure {
    fn from(error: ExecutorError) -> Self {
        match error {
            ExecutorError::Store(error) => Self::from(error),
            ExecutorError::LeaseLost | ExecutorError::Stalled { .. } => {
                Self::of(4, "run_interrupted", &error).hint("`headworks runs show` tells where it stands")
            }
        }
    }
}

/// Prints what clap has to say and returns its code: 0 for help and version, 2 for a mistake.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    if json && error.use_stderr() {
        let message = error.to_string();
        let failure = Failure::usage(message.trim_end().trim_start_matches("error: ")).hint("see `headworks --help`");
        return fail(&Output::new(true), &failure);
    }
    // Nobody left to tell if this fails.
    error.print().ok();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Tells a failure to whoever asked, and returns its code.
pub(crate) fn fail(output: &Output, failure: &Failure) -> ExitCode {
    if output.is_json() {
        let mut error = json!({
            "kind": failure.kind, "message": failure.message, "chain": failure.chain, "hint": failure.hint,
        });
        if let (Some(diagnostics), Some(error)) = (&failure.diagnostics, error.as_object_mut()) {
            error.insert("diagnostics".into(), json!(diagnostics.rows()));
        }
        output.document(&json!({ "error": error }));
        return ExitCode::from(failure.code);
    }
    if let Some(diagnostics) = &failure.diagnostics {
        output.diagnostics(diagnostics);
    }
    output.note(&format!("error: {}", failure.message));
    for cause in &failure.chain {
        output.note(&format!("  because: {cause}"));
    }
    if let Some(hint) = &failure.hint {
        output.note(&format!("hint: {hint}"));
    }
    ExitCode::from(failure.code)
}
