//! `headworks bench engine`: the engine on tasks that do nothing, beside what the database can do.
//!
//! Every figure comes with its floor, measured in the same run: single-row durable commits per second
//! on the same database, by one client. The database has to be empty, or a benchmark's own.

pub(super) mod across;
mod bed;
mod dags;
pub(super) mod noop;
pub(super) mod scheduler;
mod workloads;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::Session;
use crate::args::{BenchArgs, Isolation, Workload};
use crate::exit::Failure;

/// What a workload measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    tasks: usize,
    runs: usize,
    /// Median over the repetitions.
    seconds: f64,
    commits: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// Figures that only this workload has.
    more: Vec<(&'static str, Value)>,
}

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &BenchArgs) -> Result<ExitCode, Failure> {
    let all = [
        Workload::W1,
        Workload::W3,
        Workload::W4,
        Workload::W5,
        Workload::W6,
        Workload::W7,
        Workload::W8,
        Workload::W9,
    ];
    let chosen: Vec<Workload> = if args.workload.is_empty() { all.to_vec() } else { args.workload.clone() };
    if args.isolation == Isolation::Process && chosen.iter().any(|it| matches!(it, Workload::W6 | Workload::W8)) {
        let message = "w6 and w8 have to see when a no-op begins, which a process of its own does not tell";
        return Err(Failure::usage(message.to_owned()).hint("name others with --workload, such as w1,w3,w4,w5,w7"));
    }
    let mut documents = Vec::new();
    for workload in chosen {
        let bed = bed::Bed::open(session, args).await?;
        let floor = bed.floor().await?;
        let measured = match workload {
            Workload::W1 => workloads::chain(&bed).await?,
            Workload::W3 => workloads::fan(&bed).await?,
            Workload::W4 => workloads::many_chains(&bed).await?,
            Workload::W5 => workloads::layers(&bed).await?,
            Workload::W6 => workloads::latency(&bed).await?,
            Workload::W7 => workloads::waiting(&bed).await?,
            Workload::W8 => workloads::fairness(&bed).await?,
            Workload::W9 => workloads::fan_out(&bed).await?,
        };
        let document = document(workload, &bed, floor, measured);
        session.output.line(&shown(&document));
        documents.push(document);
    }
    if session.output.is_json() {
        let document = if let [only] = documents.as_slice() { only.clone() } else { Value::Array(documents) };
        session.output.document(&document);
    }
    Ok(ExitCode::SUCCESS)
}

fn document(workload: Workload, bed: &bed::Bed, floor: f64, measured: Measured) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let (tasks, commits) = (measured.tasks as f64, measured.commits as f64);
    let mut document = json!({
        "workload": workload.name(), "store": bed.url(), "tasks": measured.tasks, "runs": measured.runs,
        "seconds": measured.seconds, "tasks_per_second": tasks / measured.seconds,
        "commits": measured.commits, "commits_per_task": commits / tasks,
        "floor_commits_per_second": floor, "p50_ms": measured.p50_ms, "p99_ms": measured.p99_ms,
        "peak_rss_bytes": bed::peak_rss(), "slots": bed.slots(), "isolation": bed.isolation(),
    });
    for (name, value) in measured.more {
        document[name] = value;
    }
    document
}

fn shown(document: &Value) -> String {
    let number = |name: &str| document[name].as_f64().unwrap_or(0.0);
    let mut text = format!(
        "{} {} tasks in {} runs: {:.3} s, {:.0} tasks/s, {:.2} commits per task; floor {:.0} commits/s",
        document["workload"].as_str().unwrap_or_default(),
        document["tasks"],
        document["runs"],
        number("seconds"),
        number("tasks_per_second"),
        number("commits_per_task"),
        number("floor_commits_per_second"),
    );
    for name in [
        "p50_ms",
        "p99_ms",
        "across_p50_ms",
        "across_p99_ms",
        "floors",
        "slots_busy",
        "alone_p99_ms",
        "created_seconds",
        "show_ms",
        "why_ms",
    ] {
        if let Some(value) = document[name].as_f64() {
            text.push_str(&format!("; {name} {value:.2}"));
        }
    }
    text
}
