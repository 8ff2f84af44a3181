//! DAGs that wait for others: arrivals are matched, and each match makes a run.
//!
//! With `mode = "any"` every arrival is a match. With `all` (the default) one arrival of each source
//! is, the oldest of each that lie within `within` of one another; one that is too old for that is used up
//! without a run. A run's logical time is the moment when its last arrival came, and its data interval
//! that of its sources, where they all were about the same one.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::dag::Arrival;
use crate::id::{DagId, RunId};
use crate::launch::{Launcher, Request};
use crate::plan::Micros;
use crate::schedule::parse_duration;
use crate::store::{AlertKind, Arrived, NewAlert, RunKind, Source, Store, StoreError, Waiting, chain};

/// A transaction that ended longer ago is seen by everybody.
const SETTLED: Micros = 60 * 1_000_000;

/// What a DAG waits for.
struct On {
    sources: Vec<Source>,
    any: bool,
    within: Option<Duration>,
}

impl On {
    /// Reads `schedule.on`, whose shape was checked when the DAG was.
    fn read(on: &Value) -> Self {
        let texts = |key: &str| on[key].as_array().cloned().unwrap_or_default();
        let dags = texts("dags").into_iter().filter_map(|it| Some(Source::Dag(DagId::parse(it.as_str()?).ok()?)));
        let artifacts =
            texts("artifacts").into_iter().filter_map(|it| Some(Source::Artifact(Arrival::parse(it.as_str()?)?)));
        Self {
            sources: dags.chain(artifacts).collect(),
            any: on["mode"] == "any",
            within: on["within"].as_str().and_then(|text| parse_duration(text).ok()),
        }
    }
}

/// Arrivals that belong together, or one that came too early for the others.
#[derive(Debug, PartialEq)]
struct Match {
    used: Vec<Arrived>,
    is_run: bool,
}

/// One round. Returns how many runs were made.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &Store, launcher: &Launcher) -> Result<usize, StoreError> {
    let mut made = 0;
    for waiting in store.waiting().await? {
        let on = On::read(&waiting.on);
        let mut lists = Vec::with_capacity(on.sources.len());
        for source in &on.sources {
            lists.push(VecDeque::from(store.arrivals(&waiting, source).await?));
        }
        for found in matches(lists, on.any, (on.within, waiting.now - SETTLED)) {
            // One that can not be made waits for its mending, and so do those behind it.
            let Some(is_run) = make(store, launcher, &waiting, &found).await? else { break };
            made += usize::from(is_run);
        }
    }
    Ok(made)
}

/// Makes the run of a match, or lets go of what came too early. `None` = it can not be made now.
async fn make(
    store: &Store,
    launcher: &Launcher,
    waiting: &Waiting,
    found: &Match,
) -> Result<Option<bool>, StoreError> {
    if !found.is_run {
        store.use_up(waiting, &found.used, None).await?;
        return Ok(Some(false));
    }
    let at = found.used.iter().map(|it| it.at).max().unwrap_or_default();
    let interval = found.used.first().and_then(|it| it.interval);
    let request = Request {
        run: RunId::from_uuid(Uuid::now_v7()),
        dag: std::sync::Arc::clone(&waiting.dag),
        kind: RunKind::Triggered,
        tenant: waiting.tenant.clone(),
        tenant_params: waiting.params.clone(),
        params: Map::new(),
        seed: 0,
        logical_time: at,
        interval: interval.filter(|_| found.used.iter().all(|it| it.interval == interval)),
        queue_rank: None,
        start_at: 0,
    };
    match launcher.prepare(request) {
        Ok(run) => Ok(store.use_up(waiting, &found.used, Some(&run)).await?.then_some(true)),
        Err(error) => {
            // Nothing is used up: the next round tries again.
            let (tenant, dag) = (&waiting.tenant, &waiting.dag.id);
            let message = format!("no run of {dag} can be made for {tenant}: {}", chain(&error));
            let detail = Value::Object(Map::new());
            let kind = AlertKind::LaunchFailed;
            let alert = NewAlert { tenant, dag, kind, subject: "trigger", run: None, message, detail };
            store.raise_alerts(&[alert]).await?;
            Ok(None)
        }
    }
}

/// What belongs together of the sources' arrivals, each list the oldest first. One that came too early is
/// let go of only once it came before `settled`: a partner may have ended earlier and be seen later.
fn matches(mut lists: Vec<VecDeque<Arrived>>, any: bool, (within, settled): (Option<Duration>, Micros)) -> Vec<Match> {
    if any {
        let mut all: Vec<Arrived> = lists.into_iter().flatten().collect();
        all.sort_by_key(|it| (it.at, it.run));
        return all.into_iter().map(|it| Match { used: vec![it], is_run: true }).collect();
    }
    let within = within.map_or(Micros::MAX, |within| i64::try_from(within.as_micros()).unwrap_or(i64::MAX));
    let mut found = Vec::new();
    while let Some(heads) = lists.iter().map(VecDeque::front).collect::<Option<Vec<_>>>().filter(|it| !it.is_empty()) {
        let times = || heads.iter().map(|it| it.at);
        let (oldest, newest) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
        if newest - oldest <= within {
            let used = lists.iter_mut().filter_map(VecDeque::pop_front).collect();
            found.push(Match { used, is_run: true });
        } else if oldest >= settled {
            break;
        } else if let Some(list) = lists.iter_mut().find(|list| list.front().is_some_and(|it| it.at == oldest)) {
            found.push(Match { used: list.pop_front().into_iter().collect(), is_run: false });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(source: &str, at: Micros) -> Arrived {
        Arrived { source: source.into(), run: RunId::from_uuid(Uuid::nil()), at, interval: None }
    }

    fn list(source: &str, at: &[Micros]) -> VecDeque<Arrived> {
        at.iter().map(|at| arrived(source, *at)).collect()
    }

    fn shown(found: &[Match]) -> Vec<(Vec<Micros>, bool)> {
        found.iter().map(|it| (it.used.iter().map(|it| it.at).collect(), it.is_run)).collect()
    }

    #[test]
    fn all_sources_have_to_arrive_within_the_window() {
        let seconds = Duration::from_micros(10);
        let found =
            matches(vec![list("a", &[1, 100, 200]), list("b", &[95, 205, 300])], false, (Some(seconds), Micros::MAX));
        assert_eq!(shown(&found), [(vec![1], false), (vec![100, 95], true), (vec![200, 205], true)]);
        let early = matches(vec![list("a", &[1, 100]), list("b", &[95])], false, (Some(seconds), 1));
        assert_eq!(shown(&early), [], "what came just now may still find its partner");
        let found = matches(vec![list("a", &[1, 100]), list("b", &[95])], false, (None, 0));
        assert_eq!(shown(&found), [(vec![1, 95], true)], "without a window they pair in order");
        assert_eq!(shown(&matches(vec![list("a", &[1]), list("b", &[])], false, (None, 0))), []);
        assert_eq!(shown(&matches(Vec::new(), false, (None, 0))), []);
    }

    #[test]
    fn any_arrival_is_enough() {
        let found = matches(vec![list("a", &[5, 9]), list("b", &[7])], true, (None, 0));
        assert_eq!(shown(&found), [(vec![5], true), (vec![7], true), (vec![9], true)]);
    }
}
