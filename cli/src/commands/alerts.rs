//! `headworks alerts`: what people have to know.

use std::process::ExitCode;

use engine::clock::rfc3339;
use engine::store::OpenMode;
use serde_json::json;

use super::{Session, tenant};
use crate::exit::Failure;
use crate::plan_args::AlertsArgs;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &AlertsArgs) -> Result<ExitCode, Failure> {
    let store = session.store(OpenMode::Read).await?;
    let found = store.alerts(tenant(args.tenant.as_deref())?.as_ref(), args.all, args.limit).await?;
    if session.output.is_json() {
        let rows: Vec<_> = found
            .iter()
            .map(|it| {
                json!({
                    "kind": it.kind.as_str(), "tenant": it.tenant, "dag": it.dag, "subject": it.subject,
                    "run_id": it.run.map(|run| run.to_string()), "message": it.message, "detail": it.detail,
                    "raised_at": rfc3339(it.raised_at), "resolved_at": it.resolved_at.map(rfc3339),
                })
            })
            .collect();
        session.output.document(&json!({ "alerts": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        session.output.line("nothing to tell");
    }
    for it in &found {
        let resolved = it.resolved_at.map(|at| format!(" (resolved {})", rfc3339(at))).unwrap_or_default();
        session.output.line(&format!("{} {}: {}{resolved}", rfc3339(it.raised_at), it.kind.as_str(), it.message));
    }
    Ok(ExitCode::SUCCESS)
}
