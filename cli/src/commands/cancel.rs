//! `headworks runs cancel`: a durable request, and a report of what ended at once and what still runs.
//!
//! What waits is canceled in the transaction of the request. What runs is told by its own process,
//! with its next heartbeat. Where that process is known to be gone, nobody could be told: its attempts
//! are given up here, by the same function that `run --resume` uses.

use engine::id::{RunId, TenantId};
use engine::run::{TaskState, is_terminal};
use engine::store::{OpenMode, RunningView, Store};
use serde_json::{Value, json};

use super::{Session, tenant};
use crate::exit::Failure;

/// Running attempts that are named.
const NAMED: u64 = 20;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, run: &str, whose: Option<&str>) -> Result<(), Failure> {
    let store = session.store(OpenMode::Ask).await?;
    let (whose, id) = store.find_run(run, tenant(whose)?.as_ref()).await?;
    let before = store.run_summary(&whose, id).await?.state;
    if is_terminal(before) {
        session.output.note(&format!("run {id} has ended already: {before}"));
    }
    let waiting = canceled(&store, &whose, id).await?;
    store.cancel(&whose, id).await?;
    let canceled = canceled(&store, &whose, id).await?.saturating_sub(waiting);
    let given_up = give_up(session, &store, (&whose, id)).await?;
    let state = store.run_summary(&whose, id).await?.state;
    let (running, still) = store.running(&whose, id, NAMED).await?;
    if session.output.is_json() {
        session.output.document(&json!({
            "run_id": id.to_string(), "state": state, "canceled": canceled, "given_up": given_up,
            "still_running": still, "running": running.iter().map(shape).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    session.output.line(&format!("run {id}: {state}"));
    session.output.line(&format!("  {canceled} task instance(s) were canceled at once"));
    if given_up > 0 {
        session.output.line(&format!("  {given_up} attempt(s) were given up: their process is gone"));
    }
    for it in &running {
        session.output.line(&format!("  still running: {}", words(it)));
    }
    if still > NAMED {
        session.output.line(&format!("  and {} more", still - NAMED));
    }
    Ok(())
}

async fn canceled(store: &Store, whose: &TenantId, id: RunId) -> Result<u64, Failure> {
    let groups = store.task_groups(whose, id).await?;
    Ok(groups.iter().filter(|it| it.state == TaskState::Canceled).map(|it| it.instances).sum())
}

/// Gives up the attempts of a process that is gone, so that the run can end; returns how many.
async fn give_up(session: &Session<'_>, store: &Store, (whose, id): (&TenantId, RunId)) -> Result<usize, Failure> {
    if is_terminal(store.run_summary(whose, id).await?.state) {
        return Ok(0);
    }
    let holders = store.holders(whose, id).await?;
    if holders.iter().all(|(_, expires, now)| expires <= now) {
        return Ok(store.reclaim(whose, id).await?);
    }
    // Whoever can own an SQLite file knows that all others are gone, whatever their leases say.
    match session.store(OpenMode::Own).await {
        Ok(owner) if owner.is_owned() => Ok(owner.reclaim(whose, id).await?),
        _ => Ok(0),
    }
}

fn shape(it: &RunningView) -> Value {
    json!({
        "task": it.instance.task, "index": it.instance.index, "attempt": it.attempt,
        "session": it.session.to_string(), "kind": it.kind, "heartbeat_at": it.heartbeat.at, "alive": it.alive,
    })
}

fn words(it: &RunningView) -> String {
    let (attempt, session, kind) = (it.attempt, it.session, &it.kind);
    let heard = match it.alive {
        true => "its process is told with its next heartbeat",
        false => "its lease has ended",
    };
    format!(
        "{}, attempt {attempt}, in session {session} ({kind}), last heartbeat {}; {heard}",
        it.instance, it.heartbeat
    )
}
