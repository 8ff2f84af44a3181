//! `headworks why`: the chain of blockers of a task, or the cause of its death.

use std::process::ExitCode;

use engine::store::OpenMode;
use serde_json::json;

use super::{Session, instance, shapes, tenant};
use crate::args::WhyArgs;
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &WhyArgs) -> Result<ExitCode, Failure> {
    let (task, index) = instance(&args.task)?;
    if index.is_some() && args.index.is_some() {
        return Err(Failure::usage("the element is named twice").hint("write task[2], or --index 2"));
    }
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(&args.run, tenant(args.tenant.as_deref())?.as_ref()).await?;
    if let Some(reason) = store.queue_reason(&whose, id).await? {
        if session.output.is_json() {
            session.output.document(&json!({
                "run_id": id.to_string(), "task": task, "index": index.or(args.index), "state": "waiting",
                "reasons": [{ "code": "run_queued", "message": format!("its run is queued: {reason}"), "detail": reason }],
            }));
        } else {
            session.output.line(&format!("{task} of run {id}: its run is queued: {reason}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let why = store.why(&whose, id, &task, index.or(args.index)).await?;
    if session.output.is_json() {
        session.output.document(&shapes::why(id, &why));
        return Ok(ExitCode::SUCCESS);
    }
    session.output.line(&format!("{} of run {id}: {}", why.instance, why.state));
    for link in &why.links {
        session.output.line(&format!("  {link}"));
    }
    Ok(ExitCode::SUCCESS)
}
