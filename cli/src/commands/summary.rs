//! `headworks runs summary`: how a night went, one line per tenant and DAG.

use std::collections::BTreeMap;

use engine::clock::{Clock, SystemClock, parse_rfc3339};
use engine::id::DagId;
use engine::store::{OpenMode, SummaryLine, SummaryReason};
use serde_json::json;

use super::Session;
use crate::exit::Failure;

/// Without `--since`: the last night, and the day after it.
const DAY: i64 = 86_400_000_000;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, dag: Option<&str>, since: Option<&str>) -> Result<(), Failure> {
    let dag = dag.map(DagId::parse).transpose().map_err(|error| Failure::usage(error.to_string()))?;
    let since = match since {
        None => SystemClock.now() - DAY,
        Some(text) => parse_rfc3339(text).map_err(|error| {
            Failure::usage(format!("--since {text:?}: {error}")).hint("write an instant such as 2026-11-01T00:00:00Z")
        })?,
    };
    let lines = session.store(OpenMode::Read).await?.summary(dag.as_ref(), since).await?;
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &lines {
        *counts.entry(outcome(line)).or_default() += 1;
    }
    if session.output.is_json() {
        let rows: Vec<_> = lines
            .iter()
            .map(|line| {
                json!({
                    "tenant": line.tenant, "dag": line.dag, "outcome": outcome(line),
                    "run_id": line.run.map(|(run, _)| run.to_string()), "reason": words(line),
                })
            })
            .collect();
        session.output.document(&json!({ "counts": counts, "lines": rows }));
        return Ok(());
    }
    let total: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let rows = lines.iter().map(|line| {
        let run = line.run.map(|(run, _)| run.to_string()).unwrap_or_default();
        vec![
            line.dag.to_string(),
            line.tenant.to_string(),
            outcome(line).to_owned(),
            run,
            words(line).unwrap_or_default(),
        ]
    });
    session.output.table(&["dag", "tenant", "outcome", "run", "why"], rows.collect());
    session.output.line(&total.join(", "));
    Ok(())
}

/// One word per line: the state of its run, or that there is none.
fn outcome(line: &SummaryLine) -> &'static str {
    match (&line.run, &line.why) {
        (Some((_, state)), _) => state.as_str(),
        (None, Some(SummaryReason::Suspended)) => "suspended",
        (None, Some(SummaryReason::Paused)) => "paused",
        (None, Some(SummaryReason::NotMade(_))) => "not made",
        (None, _) => "not due",
    }
}

fn words(line: &SummaryLine) -> Option<String> {
    match line.why.as_ref()? {
        SummaryReason::Suspended => Some("the tenant is suspended".to_owned()),
        SummaryReason::Paused => Some("the DAG or the tenant is paused".to_owned()),
        SummaryReason::NotMade(message) => Some(message.clone()),
        SummaryReason::NotDue => Some("nothing came due".to_owned()),
        SummaryReason::Queued(None) => Some("starts with the next tick".to_owned()),
        SummaryReason::Queued(Some(reason)) => Some(reason.to_string()),
        SummaryReason::Failed(instance, None) => Some(format!("{instance} failed")),
        SummaryReason::Failed(instance, Some(reason)) => Some(format!("{instance}: {reason}")),
    }
}
