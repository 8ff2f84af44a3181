//! The evidence as people read it: one HTML file that needs nothing else, and an incident log to go on from.
//!
//! Both are templates over the JSON document; whatever comes from data is escaped, for HTML by handlebars.

use handlebars::Handlebars;
use serde_json::{Value, json};

use crate::exit::Failure;

const PAGE: &str = include_str!("../../../../templates/drill.html.hbs");
const INCIDENT: &str = include_str!("../../../../templates/incident.md.hbs");

/// The page.
pub(super) fn html(document: &Value) -> Result<String, Failure> {
    render(Handlebars::new(), PAGE, document)
}

/// The incident log, filled in as far as a drill knows.
pub(super) fn incident(document: &Value) -> Result<String, Failure> {
    let mut handlebars = Handlebars::new();
    handlebars.register_escape_fn(one_cell);
    render(handlebars, INCIDENT, document)
}

/// Text that stays in its cell or its line of Markdown, and is no HTML.
fn one_cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|").replace('<', "&lt;")
}

fn render(mut handlebars: Handlebars<'_>, template: &str, document: &Value) -> Result<String, Failure> {
    handlebars.set_strict_mode(true);
    handlebars
        .render_template(template, &view(document))
        .map_err(|error| Failure::bug("the evidence has no page", error))
}

/// The document with what only a page needs.
fn view(document: &Value) -> Value {
    let mut view = document.clone();
    let seconds =
        |key: &str| document[key].as_f64().map_or_else(|| "no trace".to_owned(), |seconds| format!("{seconds:.1} s"));
    let shown: Vec<Value> = document["expectations"].as_array().into_iter().flatten().cloned().collect();
    let holding = shown.iter().filter(|it| it["passed"] == true).count();
    // A log for people: what was done and found, without each transition.
    let story: Vec<Value> = document["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|it| it["kind"] != "transition")
        .cloned()
        .collect();
    if let Some(fields) = view.as_object_mut() {
        fields.insert("detected".into(), json!(seconds("detection_seconds")));
        fields.insert("recovered".into(), json!(seconds("recovery_seconds")));
        fields.insert("holding".into(), json!(holding));
        fields.insert("count".into(), json!(shown.len()));
        fields.insert("is_passed".into(), json!(document["verdict"] == "passed"));
        fields.insert("story".into(), json!(story));
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({
            "version": 1, "drill": "x", "id": "0", "title": "A <b>worker</b> is killed", "severity": "S3",
            "runbook": "x.md", "verdict": "failed", "started_at": "then", "finished_at": "later", "seconds": 3.5,
            "detection_seconds": 0.25, "recovery_seconds": null, "binary_version": "0.1.0", "store": "sqlite://x",
            "dag": "d", "dag_version": "00", "cloned_run": null,
            "tenants": [{ "name": "shop", "tenant": "drill-0-shop" }],
            "declared_faults": [{ "step": "night", "tenant": null, "what": "train, attempt 1: SIGKILL" }],
            "injected_faults": [{ "at": "then", "what": "train attempt 1: SIGKILL" }],
            "actions": [{ "at": "then", "step": "night", "tenant": "shop", "what": "headworks run", "exit": "exit code 0", "seconds": 1.0 }],
            "runs": [{ "step": "night", "name": "shop", "run_id": "1", "kind": "drill", "state": "succeeded",
                "tasks": [{ "task": "train", "index": 0, "state": "succeeded", "generation": 1, "attempts": 2, "seconds": 1.0, "reason": null }],
                "artifacts": [{ "task": "train", "index": 0, "name": "model.bin", "digest": "ab", "bytes": 7 }] }],
            "timeline": [{ "at": "then", "kind": "fault", "what": "SIGKILL" },
                { "at": "then", "kind": "action", "what": "night: headworks run" }, { "at": "then", "kind": "transition", "what": "lost" }],
            "expectations": [{ "name": "it ends", "passed": false, "detail": "it does not" }],
        })
    }

    #[test]
    fn the_page_is_whole_and_asks_nobody() {
        let html = html(&document()).expect("a page");
        for part in [
            "A &lt;b&gt;worker&lt;/b&gt; is killed",
            "it does not",
            "model.bin",
            "0.2 s",
            "no trace",
            "0.1.0",
            "drill-0-shop",
        ] {
            assert!(html.contains(part), "{part} is not in\n{html}");
        }
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn the_incident_log_is_filled_in() {
        let text = incident(&document()).expect("a log");
        for part in ["A &lt;b>worker&lt;/b> is killed", "S3", "SIGKILL", "headworks run", "it does not"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let mut rude = document();
        rude["timeline"][1]["what"] = "one | two\nthree".into();
        let text = incident(&rude).expect("a log");
        assert!(text.contains("| then | action | one \\| two three |"), "{text}");
        assert!(!text.contains("| transition |"), "{text}");
    }
}
