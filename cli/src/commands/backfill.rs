//! `headworks backfill` and `backfills`: runs for past intervals, as one object.
//!
//! The command fixes the intervals; `serve` makes and starts the runs.

use std::process::ExitCode;
use std::sync::Arc;

use engine::clock::{Clock, SystemClock, parse_rfc3339, rfc3339};
use engine::dag::Dag;
use engine::id::{BackfillId, TenantId};
use engine::schedule::{Calendars, Order, Schedule, Timetable};
use engine::scheduler::subscribe::timetable_of;
use engine::store::{
    BackfillForecast, BackfillOrder, BackfillState, BackfillView, NewBackfill, OpenMode, PastFire, Reprocess, Store,
};
use engine::tenant::TenantSpec;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Session, actor, apply, run, tenant};
use crate::exit::Failure;
use crate::plan_args::{self, BackfillArgs, BackfillsCommand, OrderArg, ReprocessArg};

/// The most that one backfill may hold: more is a typing mistake, or several backfills.
const MOST: usize = 100_000;
/// Active runs at once where neither the command nor the DAG says.
const ACTIVE: u32 = 4;

/// What was asked for, resolved.
struct Asked {
    dag: Arc<Dag>,
    tenant: TenantSpec,
    range: (i64, i64),
    fires: Vec<PastFire>,
    reprocess: Reprocess,
    max_active: u32,
    params: Map<String, Value>,
}

/// Runs `backfill`.
pub(super) async fn run(session: &Session<'_>, args: &BackfillArgs) -> Result<ExitCode, Failure> {
    let asked = resolve(session, args)?;
    let store = session.store(if args.plan { OpenMode::Read } else { OpenMode::Ask }).await?;
    let pair = (&asked.tenant.id, &asked.dag.id);
    let forecast = store.backfill_forecast(pair, &asked.fires, asked.reprocess).await?;
    if args.plan {
        show_plan(session, &asked, &forecast);
        return Ok(ExitCode::SUCCESS);
    }
    if forecast.fires.is_empty() {
        let message = format!("{} interval(s) in that range, and every one has a run", asked.fires.len());
        return Err(Failure::usage(message).hint("--reprocess failed or --reprocess all runs them again"));
    }
    let id = BackfillId::from_uuid(Uuid::now_v7());
    let order = if args.order == OrderArg::Asc { BackfillOrder::Asc } else { BackfillOrder::Desc };
    store
        .create_backfill(&NewBackfill {
            id,
            tenant: &asked.tenant.id,
            dag: &asked.dag,
            range: asked.range,
            order,
            reprocess: asked.reprocess,
            params: &asked.params,
            max_active: asked.max_active,
            fires: &forecast.fires,
            actor: &actor(),
        })
        .await?;
    store.apply_limits(std::slice::from_ref(&asked.tenant), &session.config.pools).await?;
    let runs = forecast.fires.len();
    if session.output.is_json() {
        let document =
            json!({ "backfill_id": id.to_string(), "dag": asked.dag.id, "tenant": asked.tenant.id, "runs": runs });
        session.output.document(&document);
    } else {
        session.output.line(&format!("backfill {id}: {runs} run(s) of {} for {}", asked.dag.id, asked.tenant.id));
        session.output.note("`headworks serve` makes and starts them; `headworks backfills list` tells how far it is");
    }
    Ok(ExitCode::SUCCESS)
}

fn resolve(session: &Session<'_>, args: &BackfillArgs) -> Result<Asked, Failure> {
    let dag = Arc::new(session.project.dag(&args.dag, session.output)?);
    let tenant = session.project.tenant_for(&dag.id, tenant(args.tenant.as_deref())?.as_ref())?;
    let found = timetable_of(&dag, Some(&tenant), &session.project.calendars()?);
    let Some(table) = found.map_err(|errors| apply::misfits(&errors))? else {
        let message = format!("DAG {} has no schedule, so there are no intervals to run", dag.id);
        return Err(Failure::usage(message).hint("add [schedule] cron = \"15 2 * * *\", or run it with --interval"));
    };
    let range = (instant(&table, "from", &args.from)?, instant(&table, "to", &args.to)?);
    if range.0 >= range.1 {
        let message = format!("--from {} is not before --to {}", args.from, args.to);
        return Err(Failure::usage(message).hint("the range is half-open: [from, to)"));
    }
    let order = if args.order == OrderArg::Asc { Order::Ascending } else { Order::Descending };
    // An interval that has not ended has no data yet, and the newest one is the schedule's own business.
    let jitter = table.schedule().jitter(&dag.id, &tenant.id);
    let until = range.1.min(SystemClock.now() - jitter);
    let within = table.intervals(range.0, until, order).filter(|fire| fire.interval_start >= range.0);
    let fires: Vec<PastFire> =
        within.take(MOST + 1).map(|fire| PastFire(fire.at, fire.interval_start, fire.interval_end)).collect();
    if fires.is_empty() || fires.len() > MOST {
        let how = if fires.is_empty() {
            "no interval that has ended".to_owned()
        } else {
            format!("more than {MOST} intervals")
        };
        let message = format!("there is {how} of {} from {} to {}", dag.id, rfc3339(range.0), rfc3339(range.1));
        return Err(Failure::usage(message).hint("`headworks schedule next DAG --from T` shows its intervals"));
    }
    let mut params = Map::new();
    for given in &args.params {
        let (name, value) = run::parse_param(&dag, given)?;
        params.insert(name, value);
    }
    let reprocess = match args.reprocess {
        ReprocessArg::None => Reprocess::None,
        ReprocessArg::Failed => Reprocess::Failed,
        ReprocessArg::All => Reprocess::All,
    };
    let max_active = args.max_active.or(dag.max_active_runs).unwrap_or(ACTIVE).max(1);
    Ok(Asked { dag, tenant, range, fires, reprocess, max_active, params })
}

/// An instant, or the beginning of a date in the schedule's zone.
fn instant(table: &Timetable, name: &str, text: &str) -> Result<i64, Failure> {
    if let Ok(at) = parse_rfc3339(text) {
        return Ok(at);
    }
    let wrong = || {
        Failure::usage(format!("--{name} {text:?} is neither an instant nor a date"))
            .hint("write 2026-11-01, or 2026-11-01T00:00:00Z")
    };
    engine::schedule::Date::parse(text).ok_or_else(wrong)?;
    // The midnight that opens a date: the one fire of that day of a rule that fires at midnights.
    let midnight = json!({ "cron": "0 0 * * *", "timezone": table.schedule().timezone() });
    let noon = parse_rfc3339(&format!("{text}T12:00:00Z")).map_err(|_| wrong())?;
    let days = Schedule::from_json(&midnight).and_then(|it| it.bind(&Calendars::default())).map_err(|_| wrong())?;
    let day = 86_400_000_000;
    let near = days.intervals(noon - 2 * day, noon + 2 * day, Order::Ascending);
    let local = |at: i64| engine::schedule::local_date(table.schedule(), at);
    let wanted = engine::schedule::Date::parse(text);
    near.map(|fire| fire.at).find(|at| Some(local(*at)) == wanted).ok_or_else(wrong)
}

fn show_plan(session: &Session<'_>, asked: &Asked, forecast: &BackfillForecast) {
    let runs = forecast.fires.len();
    let lanes = usize::try_from(asked.max_active).unwrap_or(1);
    #[expect(clippy::cast_precision_loss, reason = "rounds of a forecast")]
    let seconds = forecast.run_seconds.map(|each| each * runs.div_ceil(lanes) as f64);
    let first = forecast.fires.first().map(|fire| rfc3339(fire.0));
    let last = forecast.fires.last().map(|fire| rfc3339(fire.0));
    if session.output.is_json() {
        session.output.document(&json!({
            "dag": asked.dag.id, "tenant": asked.tenant.id, "runs": runs, "left_out": forecast.left_out,
            "first": first, "last": last, "max_active": asked.max_active,
            "seconds_per_run": forecast.run_seconds, "seconds": seconds,
        }));
        return;
    }
    let out = forecast.left_out;
    session
        .output
        .line(&format!("{runs} run(s) of {} for {}; {out} interval(s) have one", asked.dag.id, asked.tenant.id));
    if let (Some(first), Some(last)) = (first, last) {
        session.output.line(&format!("first about {first}, last about {last}, {} at once", asked.max_active));
    }
    session.output.line(&match (forecast.run_seconds, seconds) {
        (Some(each), Some(all)) => format!("about {all:.0} s, by a median of {each:.1} s per run"),
        _ => "no run has succeeded yet: nobody knows how long it takes".to_owned(),
    });
}

/// Runs `backfills`.
pub(super) async fn control(session: &Session<'_>, command: &BackfillsCommand) -> Result<ExitCode, Failure> {
    let (asked, to) = match command {
        BackfillsCommand::List { tenant: whose, limit } => {
            let store = session.store(OpenMode::Read).await?;
            let found = store.backfills(tenant(whose.as_deref())?.as_ref(), *limit).await?;
            list(session, &found);
            return Ok(ExitCode::SUCCESS);
        }
        BackfillsCommand::Pause(asked) => (asked, BackfillState::Paused),
        BackfillsCommand::Resume(asked) => (asked, BackfillState::Running),
        BackfillsCommand::Cancel(asked) => (asked, BackfillState::Canceled),
    };
    let store = session.store(OpenMode::Ask).await?;
    let (whose, id) = find(&store, asked).await?;
    let before = store.control_backfill(&whose, id, to).await?;
    let moved = matches!(before, Some(BackfillState::Running | BackfillState::Paused));
    if moved && to == BackfillState::Canceled {
        for run in store.backfill_active(&whose, id).await? {
            store.cancel(&whose, run).await?;
        }
    }
    let now = if moved { Some(to) } else { before };
    let word = now.map_or("unknown", BackfillState::as_str);
    if session.output.is_json() {
        session.output.document(&json!({ "backfill_id": id.to_string(), "state": word, "changed": moved }));
    } else {
        session.output.line(&format!("backfill {id} is {word}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The one backfill whose id begins so.
async fn find(store: &Store, asked: &plan_args::BackfillId) -> Result<(TenantId, BackfillId), Failure> {
    let whose = tenant(asked.tenant.as_deref())?;
    let all = store.backfills(whose.as_ref(), 10_000).await?;
    let named: Vec<&BackfillView> = all.iter().filter(|it| it.id.to_string().starts_with(&asked.backfill)).collect();
    match named.as_slice() {
        [only] => Ok((only.tenant.clone(), only.id)),
        [] => {
            Err(Failure::usage(format!("there is no backfill {}", asked.backfill)).hint("`headworks backfills list`"))
        }
        several => Err(Failure::usage(format!("{} backfills begin with {}", several.len(), asked.backfill))
            .hint("write more of its id")),
    }
}

fn list(session: &Session<'_>, found: &[BackfillView]) {
    let counts = |it: &BackfillView| -> Vec<String> {
        it.runs.iter().map(|(state, count)| format!("{count} {state}")).collect()
    };
    if session.output.is_json() {
        let rows: Vec<_> = found
            .iter()
            .map(|it| {
                let runs: Map<String, Value> =
                    it.runs.iter().map(|(state, count)| (state.to_string(), json!(count))).collect();
                json!({
                    "backfill_id": it.id.to_string(), "tenant": it.tenant, "dag": it.dag, "state": it.state,
                    "from": rfc3339(it.range.0), "to": rfc3339(it.range.1), "order": it.order,
                    "reprocess": it.reprocess, "made": it.made, "total": it.total, "runs": runs,
                    "max_active": it.max_active, "actor": it.actor, "created_at": rfc3339(it.created_at),
                    "finished_at": it.finished_at.map(rfc3339),
                })
            })
            .collect();
        session.output.document(&json!({ "backfills": rows }));
        return;
    }
    let rows = found.iter().map(|it| {
        vec![
            it.id.to_string(),
            it.dag.to_string(),
            it.tenant.to_string(),
            it.state.as_str().to_owned(),
            format!("{} of {}", it.made, it.total),
            counts(it).join(", "),
        ]
    });
    session.output.table(&["backfill", "dag", "tenant", "state", "made", "runs"], rows.collect());
}
