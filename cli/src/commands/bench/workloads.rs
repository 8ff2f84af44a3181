//! The workloads. Figures are medians of repetitions; each repetition makes its own runs.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use engine::id::{SessionId, TaskId};
use engine::store::{Claim, ClaimRequest, ClaimScope, Finish, NewRun, NewSession, Outcome};
use serde_json::json;
use uuid::Uuid;

use super::bed::Bed;
use super::{Measured, across, dags};
use crate::exit::Failure;

/// Repetitions of what takes milliseconds.
const REPEATS: usize = 15;
/// Tenant of workloads that need only one.
const TENANT: &str = "bench";

/// W1: 40 no-ops, one after the other.
pub(super) async fn chain(bed: &Bed) -> Result<Measured, Failure> {
    const TASKS: usize = 40;
    let mut measured = repeat(bed, &dags::chain(TASKS), TASKS, REPEATS).await?;
    let floor = bed.floor().await?;
    // Wall time in durable commits, as many as there are tasks.
    measured.more.push(("floors", json!(measured.seconds * floor / 40.0)));
    Ok(measured)
}

/// W3: one, then 1,000 at once, then one.
pub(super) async fn fan(bed: &Bed) -> Result<Measured, Failure> {
    repeat(bed, &dags::fan(1_000), 1_002, 5).await
}

/// W5: ten layers of ten, fully connected.
pub(super) async fn layers(bed: &Bed) -> Result<Measured, Failure> {
    repeat(bed, &dags::layers(10, 10), 100, REPEATS).await
}

async fn repeat(bed: &Bed, toml: &str, tasks: usize, repeats: usize) -> Result<Measured, Failure> {
    let dag = bed.dag(toml)?;
    let (mut times, mut commits) = (Vec::new(), Vec::new());
    // The first one prepares the statements.
    for at in 0..=repeats {
        let before = bed.store.commits();
        let took = bed.execute(&bed.run(TENANT, &dag)?).await?;
        if at > 0 {
            times.push(took.as_secs_f64());
            commits.push(bed.store.commits() - before);
        }
    }
    commits.sort_unstable();
    let commits = commits[commits.len() / 2];
    Ok(Measured { tasks, runs: 1, seconds: quantile(&mut times, 0.5), commits, ..Measured::default() })
}

/// W4: 100 runs of ten tasks each, submitted at once.
pub(super) async fn many_chains(bed: &Bed) -> Result<Measured, Failure> {
    const RUNS: usize = 100;
    const TASKS: usize = 10;
    let dag = bed.dag(&dags::chain(TASKS))?;
    let mut serving = bed.serve();
    let (mut times, mut commits) = (Vec::new(), 0);
    for at in 0..=REPEATS {
        let new: Vec<NewRun> = (0..RUNS).map(|_| bed.run(TENANT, &dag)).collect::<Result<_, _>>()?;
        let (before, started) = (bed.store.commits(), Instant::now());
        bed.store.create_runs(&new).await?;
        serving.succeeded(RUNS * TASKS).await;
        if at > 0 {
            times.push(started.elapsed().as_secs_f64());
            commits = bed.store.commits() - before;
        }
    }
    serving.stop().await?;
    let seconds = quantile(&mut times, 0.5);
    Ok(Measured { tasks: RUNS * TASKS, runs: RUNS, seconds, commits, ..Measured::default() })
}

/// W6: from the commit that made a task ready to the start of its attempt, on an idle engine; on Postgres
/// also where the attempt is another process's.
pub(super) async fn latency(bed: &Bed) -> Result<Measured, Failure> {
    const TASKS: usize = 200;
    let dag = bed.dag(&dags::chain(1))?;
    let mut serving = bed.serve();
    let mut began = bed.began.lock().await;
    let mut waits = Vec::new();
    let started = Instant::now();
    for at in 0..=TASKS {
        let new = bed.run(TENANT, &dag)?;
        bed.store.create_run(&new).await?;
        let committed = Instant::now();
        let Some(start) = began.recv().await else { break };
        if at > 0 {
            waits.push(start.at.saturating_duration_since(committed).as_secs_f64() * 1e3);
        }
        serving.succeeded(1).await;
    }
    serving.stop().await?;
    let seconds = started.elapsed().as_secs_f64();
    let (p50, p99) = (quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
    let mut measured = Measured { tasks: TASKS, runs: TASKS, seconds, ..Measured::default() };
    if !bed.url().starts_with("sqlite") {
        let mut waits = across::waits(bed, &dags::chain(1), TASKS).await?;
        measured.more.push(("across_p50_ms", json!(quantile(&mut waits, 0.5))));
        measured.more.push(("across_p99_ms", json!(quantile(&mut waits, 0.99))));
    }
    Ok(Measured { p50_ms: Some(p50), p99_ms: Some(p99), ..measured })
}

/// W7: 10,000 tasks of 100 ms.
pub(super) async fn waiting(bed: &Bed) -> Result<Measured, Failure> {
    const WIDTH: usize = 1_000;
    const RUNS: usize = 10;
    let dag = bed.dag(&dags::wide(WIDTH, 100))?;
    let mut serving = bed.serve();
    let new: Vec<NewRun> = (0..RUNS).map(|_| bed.run(TENANT, &dag)).collect::<Result<_, _>>()?;
    let (before, started) = (bed.store.commits(), Instant::now());
    bed.store.create_runs(&new).await?;
    serving.succeeded(WIDTH * RUNS).await;
    let seconds = started.elapsed().as_secs_f64();
    let commits = bed.store.commits() - before;
    serving.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let ideal = (WIDTH * RUNS) as f64 * 0.1 / bed.slots() as f64;
    let more = vec![("slots_busy", json!(ideal / seconds))];
    Ok(Measured { tasks: WIDTH * RUNS, runs: RUNS, seconds, commits, more, ..Measured::default() })
}

/// W8: one tenant has 100,000 tasks ready, another submits one per second: how long does it wait?
pub(super) async fn fairness(bed: &Bed) -> Result<Measured, Failure> {
    const WAIT_MS: u64 = 100;
    const SAMPLES: usize = 20;
    let mut alone = waits_of_small(bed, SAMPLES).await?;
    let dag = bed.dag(&dags::wide(10_000, WAIT_MS))?;
    let storm: Vec<NewRun> = (0..10).map(|_| bed.run("big", &dag)).collect::<Result<_, _>>()?;
    let started = Instant::now();
    bed.store.create_runs(&storm).await?;
    let created = started.elapsed().as_secs_f64();
    let mut beside = waits_of_small(bed, SAMPLES).await?;
    for run in &storm {
        bed.store.cancel(&run.tenant, run.run).await?;
    }
    let (p50, p99) = (quantile(&mut beside, 0.5), quantile(&mut beside, 0.99));
    let more = vec![
        ("alone_p50_ms", json!(quantile(&mut alone, 0.5))),
        ("alone_p99_ms", json!(quantile(&mut alone, 0.99))),
        ("task_ms", json!(WAIT_MS)),
        ("storm_created_seconds", json!(created)),
    ];
    let measured = Measured { tasks: 100_000, runs: 10, seconds: created, more, ..Measured::default() };
    Ok(Measured { p50_ms: Some(p50), p99_ms: Some(p99), ..measured })
}

/// Milliseconds from the commit of each of the small tenant's runs to the start of its task.
async fn waits_of_small(bed: &Bed, samples: usize) -> Result<Vec<f64>, Failure> {
    let dag = bed.dag(&dags::chain(1))?;
    let serving = bed.serve();
    let mut began = bed.began.lock().await;
    let mut committed: HashMap<String, Instant> = HashMap::new();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let (mut waits, mut submitted) = (Vec::new(), 0);
    while waits.len() < samples {
        tokio::select! {
            _ = every.tick(), if submitted < samples => {
                let new = bed.run("small", &dag)?;
                bed.store.create_run(&new).await?;
                committed.insert(new.run.to_string(), Instant::now());
                submitted += 1;
            }
            Some(start) = began.recv() => {
                if start.tenant == "small" && let Some(at) = committed.get(&start.run) {
                    waits.push(start.at.saturating_duration_since(*at).as_secs_f64() * 1e3);
                }
            }
        }
    }
    drop(began);
    serving.stop().await?;
    Ok(waits)
}

/// W9: a `for_each` over 100,000 elements, from the finish that makes them to what people ask about it.
pub(super) async fn fan_out(bed: &Bed) -> Result<Measured, Failure> {
    const WIDTH: usize = 100_000;
    let dag = bed.dag(&dags::for_each(WIDTH))?;
    let new = bed.run(TENANT, &dag)?;
    let items: Vec<usize> = (0..WIDTH).collect();
    let new = NewRun { params: json!({ "items": items }), ..new };
    bed.store.create_run(&new).await?;
    let session = SessionId::from_uuid(Uuid::now_v7());
    bed.store.open_session(&NewSession { session, kind: "bench", ttl: Duration::from_secs(60) }).await?;
    let request = ClaimRequest { session, scope: ClaimScope::Any, limit: 1, lately: BTreeMap::new() };
    let claims = bed.store.claim(&request).await?;
    let outcome = || Outcome::Succeeded { outputs: json!({}), registry: Vec::new() };
    let finish = |claim: &Claim| Finish {
        identity: claim.identity.clone(),
        session,
        outcome: outcome(),
        artifacts: Vec::new(),
        inputs: Vec::new(),
        memo: None,
    };
    let (before, started) = (bed.store.commits(), Instant::now());
    bed.store.finish(&claims.iter().map(finish).collect::<Vec<_>>(), None).await?;
    let created = started.elapsed().as_secs_f64();
    let commits = bed.store.commits() - before;
    let last = TaskId::parse("last").map_err(|error| Failure::usage(error.to_string()))?;
    let (mut shown, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let started = Instant::now();
        bed.store.run_summary(&new.tenant, new.run).await?;
        bed.store.task_groups(&new.tenant, new.run).await?;
        shown.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        bed.store.why(&new.tenant, new.run, &last, None).await?;
        asked.push(started.elapsed().as_secs_f64() * 1e3);
    }
    bed.store.close_session(session).await?;
    let more = vec![
        ("created_seconds", json!(created)),
        ("show_ms", json!(quantile(&mut shown, 0.5))),
        ("why_ms", json!(quantile(&mut asked, 0.5))),
    ];
    Ok(Measured { tasks: WIDTH, runs: 1, seconds: created, commits, more, ..Measured::default() })
}

/// The value below which a share of the samples lies.
pub(super) fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the samples"
    )]
    let at = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len().max(1)) - 1;
    samples.get(at).copied().unwrap_or(0.0)
}
