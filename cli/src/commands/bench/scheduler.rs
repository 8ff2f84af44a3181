//! `headworks bench scheduler`: what time causes, on a clock that the benchmark sets.
//!
//! 100,000 schedules of which 100 come due each virtual minute; a backfill of 10,000 runs, and a live run
//! beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::dag::{Dag, lower};
use engine::id::{BackfillId, TenantId};
use engine::launch::Launcher;
use engine::scheduler::maintenance::{admit, backfill, fire::Firing};
use engine::scheduler::subscribe::{CalendarTexts, subscriptions};
use engine::scheduler::{Counters, tick};
use engine::store::{BackfillOrder, NewBackfill, PastFire, Reprocess, Retired};
use engine::tenant::{self, TenantSpec};
use serde_json::{Map, json};
use uuid::Uuid;

use super::bed::Bed;
use super::noop;
use super::workloads::quantile;
use crate::args::{BenchArgs, Isolation};
use crate::commands::Session;
use crate::exit::Failure;

/// DAGs, each of which fires at a minute of its own.
const DAGS: usize = 1_000;
/// Tenants that take all of them.
const TENANTS: usize = 100;
/// Ticks that are measured.
const TICKS: usize = 50;
/// Runs of the backfill.
const RUNS: i64 = 10_000;
/// Live runs, alone and beside the backfill.
const LIVE: usize = 20;
const MINUTE: i64 = 60_000_000;

/// Runs the command.
pub(in crate::commands) async fn run(session: &Session<'_>, store: Option<String>) -> Result<ExitCode, Failure> {
    let args = BenchArgs { workload: Vec::new(), store, slots: 8, isolation: Isolation::Inline };
    let bed = Bed::open(session, &args).await?;
    let floor = bed.floor().await?;
    let (kinds, _) = noop::kinds();
    let nothing = |_: &std::path::Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let launcher = Launcher::new(Arc::new(kinds), PathBuf::from("dags"), Arc::new(nothing));
    let (applied, mut ticks) = many_schedules(&bed, &launcher).await?;
    let filled = fill(&bed, &launcher).await?;
    let tick_ms = (quantile(&mut ticks, 0.5) * 1e3, quantile(&mut ticks, 0.99) * 1e3);
    let document = json!({
        "store": bed.url(), "schedules": DAGS * TENANTS, "due_per_tick": TENANTS, "apply_seconds": applied,
        "tick_p50_ms": tick_ms.0, "tick_p99_ms": tick_ms.1, "backfill_runs": RUNS,
        "backfill_plan_seconds": filled.plan, "backfill_create_seconds": filled.create,
        "live_start_alone_p99_ms": filled.alone, "live_start_meanwhile_p99_ms": filled.meanwhile,
        "floor_commits_per_second": floor,
    });
    if session.output.is_json() {
        session.output.document(&document);
        return Ok(ExitCode::SUCCESS);
    }
    session.output.line(&format!(
        "{} schedules, {TENANTS} due per tick: applied in {applied:.2} s, a tick takes {:.1} ms (p99 {:.1} ms)",
        DAGS * TENANTS,
        tick_ms.0,
        tick_ms.1
    ));
    session.output.line(&format!(
        "backfill of {RUNS} runs: planned in {:.2} s, created in {:.2} s; a live run starts {:.1} ms after it was \
         submitted, {:.1} ms meanwhile (p99 of {LIVE}); floor {floor:.0} commits/s",
        filled.plan, filled.create, filled.alone, filled.meanwhile
    ));
    Ok(ExitCode::SUCCESS)
}

fn dag(bed: &Bed, id: &str, heading: &str) -> Result<Arc<Dag>, Failure> {
    let toml = format!("[dag]\nid = \"{id}\"\n{heading}[tasks.a]\nkind = \"noop\"\n");
    let (dag, _) = lower("-", &toml, bed.kinds()).map_err(Failure::invalid)?;
    Ok(Arc::new(dag))
}

/// How long it takes to put all schedules in force, and each tick in which some are due and start.
async fn many_schedules(bed: &Bed, launcher: &Launcher) -> Result<(f64, Vec<f64>), Failure> {
    let mut dags = Vec::with_capacity(DAGS);
    for at in 0..DAGS {
        let heading = format!("[schedule]\ncron = \"{} {} * * *\"\n", at % 60, at / 60);
        dags.push(dag(bed, &format!("d{at}"), &heading)?);
    }
    let takes: String = (0..DAGS).map(|at| format!("[dags.d{at}]\n")).collect();
    let mut tenants: Vec<TenantSpec> = Vec::with_capacity(TENANTS);
    for at in 0..TENANTS {
        let text = format!("[tenant]\nid = \"t{at}\"\n{takes}");
        tenants.push(tenant::parse("-", &text).map_err(Failure::invalid)?.0);
    }
    // A day long past, so that nothing else comes due.
    let midnight = 1_735_689_600_000_000;
    let started = Instant::now();
    let (rows, _) = subscriptions(&dags, &tenants, &CalendarTexts::new(), midnight - 1);
    bed.store.apply_limits(&tenants, &BTreeMap::new()).await?;
    bed.store.apply_schedules(&dags, &rows, &Retired::default(), midnight - 1).await?;
    let applied = started.elapsed().as_secs_f64();
    let (mut firing, counters, mut ticks) = (Firing::default(), Counters::default(), Vec::new());
    for minute in 0..=TICKS {
        let now = midnight + i64::try_from(minute).unwrap_or_default() * MINUTE;
        let started = Instant::now();
        tick(&bed.store, launcher, now, (&mut firing, &counters)).await?;
        // The first one prepares the statements.
        if minute > 0 {
            ticks.push(started.elapsed().as_secs_f64());
        }
    }
    Ok((applied, ticks))
}

struct Filled {
    plan: f64,
    create: f64,
    alone: f64,
    meanwhile: f64,
}

/// A backfill, and live runs before and during its creation.
async fn fill(bed: &Bed, launcher: &Launcher) -> Result<Filled, Failure> {
    // What the ticks made runs first.
    let mut serving = bed.serve();
    serving.succeeded((TICKS + 1) * TENANTS).await;
    let backfilled = dag(bed, "filled", "")?;
    let tenant = TenantId::parse("t0").map_err(|error| Failure::usage(error.to_string()))?;
    let fires: Vec<PastFire> = (0..RUNS).map(|at| PastFire(at * MINUTE, (at - 1) * MINUTE, at * MINUTE)).collect();
    let started = Instant::now();
    let forecast = bed.store.backfill_forecast((&tenant, &backfilled.id), &fires, Reprocess::None).await?;
    let plan = started.elapsed().as_secs_f64();
    let mut alone = live(bed).await?;
    let params = Map::new();
    let started = Instant::now();
    bed.store
        .create_backfill(&NewBackfill {
            id: BackfillId::from_uuid(Uuid::now_v7()),
            tenant: &tenant,
            dag: &backfilled,
            range: (0, RUNS * MINUTE),
            order: BackfillOrder::Asc,
            reprocess: Reprocess::None,
            params: &params,
            max_active: 4,
            fires: &forecast.fires,
            actor: "a benchmark",
        })
        .await?;
    let (store, launcher) = (Arc::clone(&bed.store), launcher.clone());
    let making = tokio::spawn(async move {
        let made = backfill::run_once(&store, &launcher).await;
        let took = started.elapsed().as_secs_f64();
        admit::run_once(&store).await.ok();
        made.map(|_| took)
    });
    let mut meanwhile = live(bed).await?;
    let create = making.await.map_err(|error| Failure::bug("the backfill's task ended", error))??;
    serving.stop().await?;
    Ok(Filled {
        plan,
        create,
        alone: quantile(&mut alone, 0.99) * 1e3,
        meanwhile: quantile(&mut meanwhile, 0.99) * 1e3,
    })
}

/// Seconds from the submission of a live run to the start of its task.
async fn live(bed: &Bed) -> Result<Vec<f64>, Failure> {
    let dag = bed.dag(&super::dags::chain(1))?;
    let mut waits = Vec::with_capacity(LIVE);
    for _ in 0..LIVE {
        let new = bed.run("live", &dag)?;
        let (submitted, id) = (Instant::now(), new.run.to_string());
        bed.store.create_run(&new).await?;
        let mut began = bed.began.lock().await;
        while let Some(it) = began.recv().await {
            if it.run == id {
                waits.push(it.at.duration_since(submitted).as_secs_f64());
                break;
            }
        }
        drop(began);
        // A pace, so that the runs spread over the creation of the backfill.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(waits)
}
