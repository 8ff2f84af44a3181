//! `headworks attempt`: one attempt in this process, started by a worker; and what a worker's
//! configuration says about such processes.
//!
//! Hidden: people start `headworks run`. It reads no configuration and no environment: all that it needs
//! comes on standard input.

use std::process::ExitCode;

use engine::config::Config;
use engine::executor::{AttemptError, AttemptSettings, ProcessLimits, run_attempt};
use engine::task::Kinds;

use crate::exit::{Failure, fail};
use crate::output::Output;

/// Runs the command.
pub(crate) fn run(output: &Output) -> ExitCode {
    let mut kinds = Kinds::new();
    tasks::register(&mut kinds);
    super::bench::noop::register(&mut kinds);
    match run_attempt(kinds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (AttemptError::NoSpec | AttemptError::BadSpec(_))) => {
            fail(output, &Failure::usage(error.to_string()).hint("start `headworks run DAG`"))
        }
        Err(error) => fail(output, &Failure::bug("the attempt can not run here", error)),
    }
}

/// How a worker of this configuration starts attempts.
pub(super) fn settings(config: &Config) -> AttemptSettings {
    let attempts = &config.attempts;
    AttemptSettings {
        program: None,
        store_url: config.store.url.clone(),
        limits: ProcessLimits {
            memory_bytes: attempts.memory_mb << 20,
            open_files: attempts.open_files,
            oom_score_adj: attempts.oom_score_adj,
        },
        log_bytes: attempts.log_mb << 20,
        secrets: (!config.secrets.folder.as_os_str().is_empty()).then(|| config.secrets.folder.clone()),
    }
}
