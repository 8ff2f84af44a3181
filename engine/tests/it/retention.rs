//! What is kept no longer goes, rows and objects; what is needed stays; on both databases.

use std::time::Duration;

use bytes::Bytes;
use headworks_engine::artifact::ArtifactStore;
use headworks_engine::clock::{Clock, SystemClock};
use headworks_engine::id::{ArtifactName, RunId};
use headworks_engine::scheduler::maintenance::retention::{Swept, run_once};
use headworks_engine::tenant::{self, Retention};
use uuid::{Timestamp, Uuid};

use crate::store::{Bed, CHAIN, finish, on_both, promotion, registered};

on_both!(
    runs_go_with_all_that_is_theirs,
    what_has_served_stays,
    artifacts_may_go_before_their_run,
    orphans_are_collected_after_a_grace,
);

const ONE: &str = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\n[tasks.b]\nkind = \"fake\"\nneeds = [\"a\"]\n";
const DAY: Duration = Duration::from_secs(86_400);

/// A minute from now: what has just ended is a minute old then.
fn soon() -> i64 {
    SystemClock.now() + 60_000_000
}

fn second() -> Option<Duration> {
    Some(Duration::from_secs(1))
}

async fn with_file(bed: &Bed, retention: &str) {
    let (acme, _) = tenant::parse("-", &format!("[tenant]\nid = \"acme\"\n{retention}")).expect("good");
    bed.store.apply_limits(&[acme], &std::collections::BTreeMap::new()).await.expect("applied");
}

async fn sweep(bed: &Bed, defaults: Retention, grace: Duration) -> Swept {
    run_once(&bed.store, &bed.artifacts(), (&defaults, grace), soon()).await.expect("a round")
}

async fn keys(artifacts: &ArtifactStore) -> usize {
    artifacts.list("acme").await.expect("a list").len()
}

async fn runs_go_with_all_that_is_theirs(bed: Bed) {
    with_file(&bed, "").await;
    let old = bed.start(ONE).await;
    bed.execute(&old).await.expect("executed");
    let open = bed.start(ONE).await;
    assert_eq!(keys(&bed.artifacts()).await, 2);
    assert_eq!(sweep(&bed, Retention::default(), DAY).await, Swept::default(), "nothing goes unless somebody says so");
    let kept = Retention { runs: second(), ..Retention::default() };
    let swept = sweep(&bed, kept, DAY).await;
    assert_eq!((swept.runs, swept.objects), (1, 2));
    assert!(bed.store.run_summary(&old.tenant, old.run).await.is_err(), "it is gone");
    assert!(bed.store.run_summary(&open.tenant, open.run).await.is_ok(), "a run that goes on stays");
    assert_eq!(keys(&bed.artifacts()).await, 0);
    assert_eq!(sweep(&bed, kept, DAY).await, Swept::default());
}

/// A champion stays whatever its age, and so does one that a rollback may go back to.
async fn what_has_served_stays(bed: Bed) {
    with_file(&bed, "").await;
    let session = bed.session().await;
    let mut runs = Vec::new();
    for outcome in [promotion(None), promotion(Some(1)), registered()] {
        let run = bed.start(CHAIN).await;
        let claims = bed.claim(session, 10).await;
        let claim = claims.iter().find(|it| it.identity.run == run.run).expect("its first task");
        bed.report(&[finish(session, claim, outcome)]).await;
        bed.store.cancel(&run.tenant, run.run).await.expect("canceled");
        runs.push(run);
    }
    let swept = sweep(&bed, Retention { runs: second(), ..Retention::default() }, DAY).await;
    assert_eq!(swept.runs, 1);
    let mut kept = Vec::new();
    for run in &runs {
        kept.push(bed.store.run_summary(&run.tenant, run.run).await.is_ok());
    }
    assert_eq!(kept, [true, true, false], "the champion, the one before it, and who never was one");
}

async fn artifacts_may_go_before_their_run(bed: Bed) {
    with_file(&bed, "[retention]\nartifacts = \"1s\"\nevents = \"1s\"\n").await;
    let old = bed.start(ONE).await;
    bed.execute(&old).await.expect("executed");
    // The tenant's file counts, not the default.
    let swept = sweep(&bed, Retention { artifacts: Some(100 * DAY), ..Retention::default() }, DAY).await;
    assert_eq!((swept.runs, swept.emptied, swept.objects), (0, 1, 2));
    assert!(swept.events > 4, "{swept:?}");
    let view = bed.store.run_view(&old.tenant, old.run).await.expect("the run stays");
    assert!(view.artifacts.is_empty() && view.tasks.len() == 2);
}

async fn orphans_are_collected_after_a_grace(bed: Bed) {
    with_file(&bed, "").await;
    let ended = bed.start(ONE).await;
    bed.execute(&ended).await.expect("executed");
    let open = bed.start(ONE).await;
    let artifacts = bed.artifacts();
    let ago = |age: Duration| {
        let then = std::time::UNIX_EPOCH.elapsed().expect("after 1970") - age;
        RunId::from_uuid(Uuid::new_v7(Timestamp::from_unix(uuid::NoContext, then.as_secs(), 0)))
    };
    let put = |run: RunId, rest: &str| {
        let (artifacts, key) = (&artifacts, format!("acme/t/{run}/{rest}"));
        async move {
            let name = ArtifactName::parse("x.json").expect("a name");
            artifacts.publish_bytes(&key, name, Bytes::from_static(b"{}")).await.expect("published");
            key
        }
    };
    let unknown_and_old = put(ago(2 * DAY), "a/1.1/x.json").await;
    let unknown_and_new = put(ago(Duration::ZERO), "a/1.1/x.json").await;
    let of_the_ended = put(ended.run, "a/1.9/x.json").await;
    let log = put(ended.run, "a/1.1/log/000001.jsonl").await;
    let under_way = put(open.run, "a/1.1/x.json").await;
    assert_eq!(sweep(&bed, Retention::default(), DAY).await.objects, 1, "the others wait for the end of the grace");
    assert_eq!(sweep(&bed, Retention::default(), Duration::from_secs(1)).await.objects, 1 + 1);
    let left: Vec<String> = artifacts.list("acme").await.expect("a list").into_iter().map(|it| it.0).collect();
    for gone in [&unknown_and_old, &unknown_and_new, &of_the_ended] {
        assert!(!left.contains(gone), "{gone}");
    }
    for kept in [&log, &under_way] {
        assert!(left.contains(kept), "{kept}");
    }
    assert_eq!(left.len(), 2 + 2, "and what the ended run made");
}
