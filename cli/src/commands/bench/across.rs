//! Dispatch latency between processes: committed here, begun in a worker that is another process.
//!
//! The worker is this binary again, as the hidden `headworks bench worker`: it serves no-ops and prints
//! when each began. Both processes read the clock of one machine.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use engine::clock::{Clock, SystemClock};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::bed::Bed;
use crate::args::{BenchArgs, Isolation};
use crate::commands::Session;
use crate::exit::Failure;

/// What the worker says when it can take work.
const READY: &str = "ready";
/// Longer than wake-ups between processes are held together: each task meets an idle engine.
const APART: Duration = Duration::from_millis(150);

/// `headworks bench worker`: serves no-ops until its standard input is closed.
pub(in crate::commands) async fn worker(session: &Session<'_>, store: String) -> Result<ExitCode, Failure> {
    let args = BenchArgs { workload: Vec::new(), store: Some(store), slots: 8, isolation: Isolation::Inline };
    let bed = Bed::open(session, &args).await?;
    let relay = tokio::spawn(Arc::clone(&bed.store).relay_wake_ups());
    let serving = bed.serve();
    session.output.line(READY);
    let mut began = bed.began.lock().await;
    let closed = CancellationToken::new();
    let close = closed.clone();
    std::thread::spawn(move || {
        // It ends in any case when whoever started it does.
        std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
        close.cancel();
    });
    while let Some(Some(start)) = closed.run_until_cancelled(began.recv()).await {
        session.output.line(&format!("{} {}", start.run, SystemClock.now()));
    }
    relay.abort();
    serving.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// Milliseconds from each commit here to the start in the worker.
pub(super) async fn waits(bed: &Bed, toml: &str, samples: usize) -> Result<Vec<f64>, Failure> {
    let dag = bed.dag(toml)?;
    let (mut worker, mut lines) = spawn(bed)?;
    let relay = tokio::spawn(Arc::clone(&bed.store).relay_wake_ups());
    if said(&mut lines).await? != READY {
        return Err(Failure::bug("the benchmark's worker", std::io::Error::other("said something else first")));
    }
    let mut waits = Vec::with_capacity(samples);
    // The first ones prepare the statements, and let the listener connect.
    const WARM: usize = 10;
    for at in 0..samples + WARM {
        let new = bed.run("bench", &dag)?;
        bed.store.create_run(&new).await?;
        let committed = SystemClock.now();
        let line = said(&mut lines).await?;
        let began = line.split_once(' ').filter(|(run, _)| *run == new.run.to_string());
        let began = began.and_then(|(_, at)| at.parse::<i64>().ok()).ok_or_else(|| {
            Failure::bug("the benchmark's worker", std::io::Error::other(format!("it began something else: {line}")))
        })?;
        if at >= WARM {
            waits.push(Duration::from_micros((began - committed).max(0).unsigned_abs()).as_secs_f64() * 1e3);
        }
        tokio::time::sleep(APART).await;
    }
    relay.abort();
    drop(worker.stdin.take());
    worker.wait().await.map_err(|error| Failure::file("the benchmark's worker can not be waited for", error))?;
    Ok(waits)
}

fn spawn(bed: &Bed) -> Result<(Child, Lines<BufReader<ChildStdout>>), Failure> {
    let failed = |error| Failure::file("can not start the benchmark's worker", error);
    let program = std::env::current_exe().map_err(failed)?;
    let mut worker = Command::new(program)
        .args(["bench", "worker", "--store", bed.full_url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let output = worker.stdout.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
    Ok((worker, BufReader::new(output).lines()))
}

async fn said(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String, Failure> {
    let failed = |error| Failure::file("the benchmark's worker can not be heard", error);
    lines.next_line().await.map_err(failed)?.ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))
}
