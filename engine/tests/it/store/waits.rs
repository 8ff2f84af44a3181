//! Who waits for whom on Postgres, and calls that are given up.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use headworks_engine::run::{RunState, TaskState};
use headworks_engine::store::{OpenMode, Receipt, Store};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, TransactionTrait};
use serde_json::json;
use testkit::{Line, PostgresProxy};

use super::{Bed, finish, succeeded};

const PATIENCE: Duration = Duration::from_secs(10);

impl Bed {
    async fn other(&self) -> DatabaseConnection {
        Database::connect(self.url.as_str()).await.expect("connects")
    }
}

/// How many connections of the database are as `filter` says.
async fn count(db: &DatabaseConnection, filter: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND {filter}");
    let statement = sea_orm::Statement::from_string(db.get_database_backend(), sql);
    let row = db.query_one_raw(statement).await.expect("an answer").expect("a row");
    row.try_get("", "n").expect("a number")
}

async fn until(db: &DatabaseConnection, filter: &str, expected: i64) {
    let deadline = Instant::now() + PATIENCE;
    while count(db, filter).await != expected {
        assert!(Instant::now() < deadline, "{} connections where {filter}", count(db, filter).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever cancels holds the run and waits for its task instances: a report that has those must not wait for
/// the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_waits_for_its_run_holds_no_task_instance() {
    let bed = Bed::postgres().await;
    let run =
        bed.start("[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\n[tasks.b]\nkind = \"fake\"\nneeds = [\"a\"]\n").await;
    let session = bed.session().await;
    let a = bed.claim(session, 1).await.remove(0);
    // `b` is over, so a success of `a` may be the end of the run.
    assert_eq!(bed.store.cancel(&run.tenant, run.run).await.expect("canceled"), RunState::Canceling);
    let (looker, other) = (bed.other().await, bed.other().await);
    let held = other.begin().await.expect("begins");
    held.execute_unprepared("SELECT run FROM run FOR UPDATE").await.expect("holds the run");
    let store = Arc::clone(&bed.store);
    let reporting = tokio::spawn(async move {
        store.finish(&[finish(session, &a, succeeded(json!({})))], None).await.expect("recorded").receipts.remove(0)
    });
    until(&looker, "wait_event_type = 'Lock'", 1).await;
    held.execute_unprepared("SELECT task FROM task_instance FOR UPDATE NOWAIT").await.expect("all are free");
    held.commit().await.expect("lets go");
    let receipt = reporting.await.expect("no panic");
    assert!(
        matches!(receipt, Receipt::Recorded { task: TaskState::Succeeded, run: RunState::Canceled, .. }),
        "{receipt:?}"
    );
}

/// Polls a future so many times and drops it.
async fn given_up_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let (mut future, mut left) = (std::pin::pin!(future), polls);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// A heartbeat that takes too long is dropped wherever it is, also in the middle of its BEGIN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_leave_no_transaction_open() {
    let bed = Bed::postgres().await;
    let (session, looker) = (bed.session().await, bed.other().await);
    let proxy = PostgresProxy::start(&bed.url);
    // Every answer is one that has to be waited for.
    proxy.line(Line { delay: Duration::from_millis(5), ..Line::default() });
    let store = Store::open(proxy.url(), OpenMode::Ask, Arc::new(testkit::fake_kinds())).await.expect("opens");
    let mut polls = 0;
    while given_up_after(polls, store.heartbeat(session, PATIENCE)).await.is_none() {
        polls += 1;
        // What is on its way arrives, is answered, and stays so.
        for _ in 0..10 {
            until(&looker, "state = 'active' AND pid <> pg_backend_pid()", 0).await;
            until(&looker, "state LIKE 'idle in transaction%'", 0).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert!(polls > 4, "it was given up after each of its {polls} waits");
}
