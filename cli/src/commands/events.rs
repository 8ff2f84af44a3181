//! `headworks runs events`: what happened in a run, as a timeline.

use engine::plan::Reason;
use engine::store::{EventFilter, EventView, OpenMode};
use serde_json::{Value, json};

use super::{Session, instance, shapes, tenant};
use crate::exit::Failure;

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) run: &'a str,
    pub(super) task: Option<&'a str>,
    pub(super) limit: u64,
    pub(super) offset: u64,
}

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, asked: &Asked<'_>, whose: Option<&str>) -> Result<(), Failure> {
    let (task, index) = asked.task.map(instance).transpose()?.map_or((None, None), |(task, index)| (Some(task), index));
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(asked.run, tenant(whose)?.as_ref()).await?;
    let filter = EventFilter { task, index, offset: asked.offset, limit: asked.limit };
    let page = store.event_page(&whose, id, &filter).await?;
    if session.output.is_json() {
        let events: Vec<_> = page.events.iter().map(shapes::event).collect();
        let document =
            json!({ "run_id": id.to_string(), "total": page.total, "offset": asked.offset, "events": events });
        session.output.document(&document);
        return Ok(());
    }
    let lines = page.events.iter().map(line).collect();
    session.output.table(&["at", "task", "event", "state", "attempt", "detail"], lines);
    let shown = u64::try_from(page.events.len()).unwrap_or(u64::MAX);
    let last = asked.offset.saturating_add(shown);
    if last < page.total {
        session.output.note(&format!("{shown} of {} events; --offset {last} goes on", page.total));
    }
    Ok(())
}

fn line(it: &EventView) -> Vec<String> {
    let name = it.instance.as_ref().map_or_else(|| "run".to_owned(), ToString::to_string);
    // Most tasks have one generation; the number would be noise.
    let name = if it.generation > 1 { format!("{name} (generation {})", it.generation) } else { name };
    let session = it.session.as_deref().and_then(|session| session.get(..8));
    let attempt = it.attempt.map(|attempt| match session {
        Some(session) => format!("{attempt} in {session}"),
        None => attempt.to_string(),
    });
    let detail = it.detail.as_deref().map(detail).unwrap_or_default();
    vec![it.at.clone(), name, it.event.clone(), it.state.clone(), attempt.unwrap_or_default(), detail]
}

/// A reason in its words; a rerun's request as a sentence; anything else as it is.
fn detail(text: &str) -> String {
    if let Ok(reason) = serde_json::from_str::<Reason>(text) {
        return reason.to_string();
    }
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    match (value["actor"].as_str(), value["reason"].as_str()) {
        (Some(actor), Some(reason)) => format!("by {actor}: {reason}"),
        (Some(actor), None) => format!("by {actor}"),
        _ => text.to_owned(),
    }
}
