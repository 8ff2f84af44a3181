//! I5: no pool and no quota is ever exceeded. "Ever" is looked for while a scenario runs.
//!
//! A statement is one snapshot of the database, so what it counts was true at one moment: a sample
//! that exceeds a limit is a violation, however short it lasted.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Violation;
use super::read::{connect, get, rows};

/// Between two samples.
const EVERY: Duration = Duration::from_millis(20);

const EXCEEDED: &str = "SELECT 'pool ' || p.pool AS place, p.slots AS room, COUNT(*) AS used FROM pool p \
    JOIN task_instance t ON t.pool = p.pool AND t.state = 'running' GROUP BY p.pool, p.slots HAVING COUNT(*) > p.slots \
    UNION ALL SELECT 'tenant ' || n.tenant AS place, n.running_tasks AS room, COUNT(*) AS used FROM tenant n \
    JOIN task_instance t ON t.tenant = n.tenant AND t.state = 'running' WHERE n.running_tasks IS NOT NULL \
    GROUP BY n.tenant, n.running_tasks HAVING COUNT(*) > n.running_tasks";

/// Looks at a database until it is asked for what it saw.
pub struct Sampler {
    stop: CancellationToken,
    looking: JoinHandle<(usize, Vec<Violation>)>,
}

impl Sampler {
    /// Starts to look.
    pub fn start(store_url: &str) -> Self {
        let (stop, url) = (CancellationToken::new(), store_url.to_owned());
        let stopped = stop.clone();
        let looking = tokio::spawn(async move {
            let db = connect(&url).await;
            let (mut looks, mut found) = (0, Vec::new());
            while !stopped.is_cancelled() {
                for row in rows(&db, EXCEEDED).await {
                    let (room, used): (i64, i64) = (get(&row, "room"), get(&row, "used"));
                    let what = format!("{used} attempts ran at once, and {room} may");
                    found.push(Violation { invariant: "I5", place: get(&row, "place"), what });
                }
                looks += 1;
                stopped.run_until_cancelled(tokio::time::sleep(EVERY)).await;
            }
            db.close().await.expect("closed");
            (looks, found)
        });
        Self { stop, looking }
    }

    /// How often it looked, and what it saw.
    ///
    /// # Panics
    /// The database could not be read.
    pub async fn finish(self) -> (usize, Vec<Violation>) {
        self.stop.cancel();
        let (looks, mut found) = self.looking.await.expect("it looked");
        found.dedup();
        (looks, found)
    }
}
