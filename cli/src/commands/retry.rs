//! `headworks retry`: new generations of what failed and of all that depends on it, executed here to
//! the end of the run.
//!
//! The store makes the generations in one transaction; what follows is what `run --resume` does.

use std::process::ExitCode;

use engine::id::{RunId, TenantId};
use engine::run::is_terminal;
use engine::store::{OpenMode, Rerun, RerunRequest, Store};

use super::{Session, actor, instance, run as execute, tenant};
use crate::args::RetryArgs;
use crate::exit::Failure;

/// Attempts of other processes that a refusal names.
const NAMED: u64 = 3;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &RetryArgs) -> Result<ExitCode, Failure> {
    let (task, index) = args.task.as_deref().map(instance).transpose()?.map_or((None, None), |it| (Some(it.0), it.1));
    let whose = tenant(args.tenant.as_deref())?;
    let store = session.store(OpenMode::Own).await?;
    let (whose, id) = store.find_run(&args.run, whose.as_ref()).await?;
    refuse_open(&store, &whose, id).await?;
    let request = RerunRequest { task, index, actor: actor(), reason: args.reason.clone() };
    session.apply_limits(&store).await?;
    let made = store.rerun(&whose, id, &request).await?;
    session.output.note(&format!("run {id} for {whose}: {}", words(&made)));
    execute::conclude(session, &store, (&whose, id)).await
}

/// A run that goes on is refused with who is at it; the store refuses it, too, if it began just now.
async fn refuse_open(store: &Store, whose: &TenantId, id: RunId) -> Result<(), Failure> {
    let state = store.run_summary(whose, id).await?.state;
    if is_terminal(state) {
        return Ok(());
    }
    let (running, all) = store.running(whose, id, NAMED).await?;
    let names: Vec<_> = running.iter().map(|it| format!("{} in session {}", it.instance, it.session)).collect();
    let what = format!("run {id} is {state}; only a run that has ended can be retried");
    // Whoever owns an SQLite file knows that all others are gone, whatever their leases say.
    if !store.is_owned() && running.iter().any(|it| it.alive) {
        return Err(Failure::usage(format!("{what}: {all} attempt(s) run, {}", names.join(", ")))
            .hint(format!("wait for its end, or `headworks runs cancel {id}` first")));
    }
    let hint = format!("nobody is at it: `headworks run --resume {id}` goes on, then retry what failed");
    Err(Failure::usage(what).hint(hint))
}

fn words(made: &Rerun) -> String {
    let names: Vec<_> = made
        .instances
        .iter()
        .map(|(task, count)| if *count == 1 { task.to_string() } else { format!("{task} ({count})") })
        .collect();
    format!("new generations of {}", names.join(", "))
}
