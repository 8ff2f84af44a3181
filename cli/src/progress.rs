//! Progress of a run: bars on a terminal, plain lines when piped.
//!
//! Fed by the executor's [`Progress`] messages; draws on standard error only.

use std::collections::HashMap;
use std::time::Duration;

use engine::executor::Progress;
use engine::id::InstanceId;
use engine::run::TaskState;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::output::Output;

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// Draws until the sender is gone.
pub(crate) async fn draw(output: Output, mut messages: mpsc::UnboundedReceiver<Progress>) {
    let bars = MultiProgress::new();
    let mut running: HashMap<InstanceId, ProgressBar> = HashMap::new();
    while let Some(message) = messages.recv().await {
        if output.is_terminal() {
            let line = bar(&bars, &mut running, &message);
            if let Some(line) = line {
                // A terminal that went away is no reason to stop the run.
                bars.println(line).ok();
            }
        } else {
            output.note(&words(&message));
        }
    }
    for bar in running.into_values() {
        bar.finish_and_clear();
    }
}

/// Updates the bars; returns a line that stays.
fn bar(bars: &MultiProgress, running: &mut HashMap<InstanceId, ProgressBar>, message: &Progress) -> Option<String> {
    match message {
        Progress::Started { instance, .. } => {
            let bar = bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(instance.to_string());
            bar.enable_steady_tick(TURN);
            running.insert(instance.clone(), bar);
            None
        }
        Progress::Finished { instance, .. } | Progress::Refused { instance } => {
            if let Some(bar) = running.remove(instance) {
                bar.finish_and_clear();
            }
            Some(words(message))
        }
        Progress::Canceling => Some(words(message)),
    }
}

fn words(message: &Progress) -> String {
    match message {
        Progress::Started { instance, attempt: 1 } => format!("  {instance} started"),
        Progress::Started { instance, attempt } => format!("  {instance} started, attempt {attempt}"),
        Progress::Finished { instance, state, reason, elapsed } => {
            let mark = if *state == TaskState::Succeeded { "ok" } else { "--" };
            let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("  {mark} {instance} {state} after {:.1} s{why}", elapsed.as_secs_f64())
        }
        Progress::Refused { instance } => {
            format!("  -- {instance}: its report came too late, another holds it or it is over")
        }
        Progress::Canceling => "  canceling: telling the running attempts to stop".to_owned(),
    }
}
