//! Reports of finished attempts, on their way to the store.
//!
//! Finishes that come within moments of each other are written together. On Postgres two such groups
//! are written at once, each in a transaction of its own: while the database works on one, the other is
//! planned. SQLite has one writer, and a group that waits for it might as well grow. Used by
//! [`Dispatcher`](super::dispatch::Dispatcher) alone, which decides what a report may claim.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::store::{Finish, Finished, Next, Store, StoreError};

/// How long finishes are collected before they are written together.
const WAIT: Duration = Duration::from_millis(2);
/// How many finishes are written together at the most.
const GROUP: usize = 256;
/// Attempts that ran this many times longer than their report takes are worth a smaller group.
const LONG: u32 = 4;
/// Such groups are this part of the slots at the most, and so is what is claimed at once. Slots that all come
/// free together are all taken together, too, and who is ready just after waits for a whole task; in parts, they
/// come free one after the other.
const PARTS: usize = 4;
/// Groups that are written at once where the database can.
const LANES: usize = 2;

/// A finished attempt.
pub(super) struct Done {
    pub(super) finish: Finish,
    pub(super) elapsed: Duration,
}

/// See the module.
pub(super) struct Reports {
    store: Arc<Store>,
    /// How long to wait before a database is asked again that is away.
    again: Duration,
    lanes: usize,
    waiting: Vec<Done>,
    /// When what waits is written, if nothing else makes it be written before.
    due: Option<tokio::time::Instant>,
    flights: HashMap<u64, Flight>,
    answers: JoinSet<Answer>,
    launched: u64,
    /// How long the last one took.
    took: Duration,
    pace: Pace,
}

/// How long attempts ran lately.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Shorter than their report takes: those that run now are worth to be waited for.
    Short,
    Middling,
    /// [`LONG`] times longer.
    Long,
}

/// A group that is being written.
struct Flight {
    began: Instant,
    finishes: usize,
    /// Slots that were free, and that it may fill.
    promised: usize,
}

/// What the store made of a group.
pub(super) struct Answer {
    pub(super) finishes: Vec<Finish>,
    pub(super) times: Vec<Duration>,
    /// What was asked for beside it.
    pub(super) next: Option<Next>,
    /// As it was given with the group.
    pub(super) heard: u64,
    pub(super) result: Result<Finished, StoreError>,
    flight: u64,
}

impl Reports {
    pub(super) fn new(store: Arc<Store>, again: Duration) -> Self {
        Self {
            lanes: if store.has_one_writer() { 1 } else { LANES },
            store,
            again,
            waiting: Vec::new(),
            due: None,
            flights: HashMap::new(),
            answers: JoinSet::new(),
            launched: 0,
            took: Duration::ZERO,
            // Nobody knows better before the first.
            pace: Pace::Long,
        }
    }

    /// Takes finishes that came together. Who brings others along does not wait for more, unless the
    /// database has something to do already, or more are as good as here.
    pub(super) fn add(&mut self, done: Vec<Done>) {
        let is_enough = done.len() > 1 && self.flights.is_empty() && self.pace != Pace::Short;
        let wait = if is_enough { Duration::ZERO } else { WAIT };
        self.due.get_or_insert_with(|| tokio::time::Instant::now() + wait);
        if let Some(elapsed) = done.iter().map(|it| it.elapsed).max() {
            self.pace = match elapsed {
                long if long >= self.took * LONG => Pace::Long,
                short if short < self.took => Pace::Short,
                _ => Pace::Middling,
            };
        }
        self.waiting.extend(done);
    }

    /// When [`take`](Self::take) gives a group that it does not give now.
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        self.due.filter(|_| self.flights.len() < self.lanes)
    }

    /// The next group to be written, if it is time: all that wait, or as many as a group has. `running`
    /// attempts have not been reported, those that wait here among them; whoever is the last of them
    /// has nobody to wait for.
    pub(super) fn take(&mut self, running: usize, slots: usize) -> Option<Vec<Done>> {
        let due = self.due()?;
        let unwritten = running.saturating_sub(self.flights.values().map(|it| it.finishes).sum());
        let group = if self.pace == Pace::Long { self.part_of(slots).min(GROUP) } else { GROUP };
        if self.waiting.len() < group.min(unwritten) && tokio::time::Instant::now() < due {
            return None;
        }
        let batch: Vec<Done> = self.waiting.drain(..group.min(self.waiting.len())).collect();
        // What is left has waited already.
        self.due = (!self.waiting.is_empty()).then_some(due);
        Some(batch)
    }

    /// How many slots are filled together at the most.
    pub(super) fn part_of(&self, slots: usize) -> usize {
        if self.pace == Pace::Long { slots.div_ceil(PARTS) } else { slots }
    }

    /// Writes a group; while the database is away, again and again until the lease is lost, which whoever
    /// called the dispatcher sees. `free` slots are in what `next` asks for; `heard` comes back with the
    /// answer.
    pub(super) fn write(
        &mut self,
        (finishes, times): (Vec<Finish>, Vec<Duration>),
        next: Option<Next>,
        (free, heard): (usize, u64),
    ) {
        self.launched += 1;
        let promised = if next.is_some() { free } else { 0 };
        let (flight, began) = (self.launched, Instant::now());
        self.flights.insert(flight, Flight { began, finishes: finishes.len(), promised });
        let (store, again) = (Arc::clone(&self.store), self.again);
        self.answers.spawn(async move {
            let result = loop {
                match store.finish(&finishes, next.as_ref()).await {
                    Err(error) if error.is_unavailable() => {
                        tracing::warn!(%error, "can not report finished attempts; trying again");
                        tokio::time::sleep(again).await;
                    }
                    result => break result,
                }
            };
            Answer { finishes, times, next, heard, result, flight }
        });
    }

    /// The next answer of the store; none as long as nothing is being written.
    pub(super) async fn answer(&mut self) -> Answer {
        match self.answers.join_next().await {
            Some(Ok(answer)) => {
                if let Some(flight) = self.flights.remove(&answer.flight) {
                    self.took = flight.began.elapsed();
                }
                if self.flights.is_empty() && self.pace == Pace::Short {
                    // What the answer starts goes with those that have waited for it.
                    self.due = self.due.map(|_| tokio::time::Instant::now() + WAIT);
                }
                answer
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only the end of this value stops a task.
            _ => std::future::pending().await,
        }
    }

    /// Stops writing, whatever becomes of it: what is not committed is rolled back.
    pub(super) fn give_up(&mut self) {
        self.answers.abort_all();
    }

    /// Slots that groups being written may fill.
    pub(super) fn promised(&self) -> usize {
        self.flights.values().map(|it| it.promised).sum()
    }

    /// Whether what was known of claims at `moment` can not be of a group that is being written.
    pub(super) fn all_began_after(&self, moment: Instant) -> bool {
        self.flights.values().all(|it| it.began > moment)
    }
}
