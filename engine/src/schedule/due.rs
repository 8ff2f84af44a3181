//! Catch-up: which fires a scheduler has to create runs for, now.
//!
//! Called by the scheduler, once per DAG and tenant and tick. It keeps no state: what was created
//! last, which the store knows, and the time are arguments. A fire is announced once its logical time
//! has passed; [`Fire::start`] (and jitter) say when its run may start. Fires come in the order of
//! their logical times and after the last one created, so that no sequence of calls, with whatever
//! clock, makes one twice.
//!
//! # What is live and what was missed
//!
//! No scheduler sees a fire at its very microsecond. A fire is **live** while it is younger than one
//! interval of its own, but at least [`LEAST_GRACE`] and at most [`MOST_GRACE`]; what is older was
//! missed. Live fires are created under every policy, and the policy speaks of the rest:
//!
//! * `none`: they are dropped. A daily run whose hour passed more than ten minutes before the
//!   scheduler came up waits for tomorrow.
//! * `latest`: if no fire is live, the newest missed one is created; the others are dropped.
//! * `all`: all are created, the oldest first, as many a call as the limit says.
//!
//! What is older than `catchup_window` is dropped under every policy.

use std::time::Duration;

use super::civil::SECOND;
use super::spec::CatchUp;
use super::timetable::{Fire, Order, Timetable};

/// A tick, a lost connection, a restart: no fire is missed by less.
const LEAST_GRACE: i64 = 60 * SECOND;

/// An upgrade takes no longer; who is away longer was away.
const MOST_GRACE: i64 = 600 * SECOND;

/// Dropped fires are counted up to here: years of seconds are not walked for a number.
const MOST_COUNTED: usize = 1_000;

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// The fires to create runs for, in the order of their logical times.
    pub fires: Vec<Fire>,
    /// The logical time of the next fire: ask again then. It is not later than `now` if the limit cut
    /// `fires` short. `None`: never.
    pub next: Option<i64>,
    /// How many fires since the last one created were given up, up to 1,000; they stay counted until
    /// another one is created.
    pub dropped: u64,
}

impl Timetable {
    /// What to create at `now`, at most `limit` fires; all instants in microseconds.
    ///
    /// `last_created` is the newest logical time that has a run, `since` the moment from which the
    /// schedule is in force: only fires after both count.
    pub fn due(&self, last_created: Option<i64>, since: i64, now: i64, limit: usize) -> Due {
        let floor = last_created.map_or(since, |last| last.max(since));
        let window = self.schedule.window.map_or(i64::MAX, micros);
        // A fire exactly as old as the window is still in it.
        let oldest = floor.max(now.saturating_sub(window).saturating_sub(1));
        let room = limit.saturating_add(1);
        let mut fires = match self.schedule.catch_up {
            CatchUp::All => self.intervals(oldest, now, Order::Ascending).take(room).collect::<Vec<_>>(),
            policy => self.newest(policy, oldest, now),
        };
        let given_up_until = fires.first().map_or(now, |first| first.at - 1);
        let beyond = fires.get(limit).map(|fire| fire.at);
        fires.truncate(limit);
        Due {
            fires,
            next: beyond.or_else(|| self.next(now.max(floor)).map(|fire| fire.at)),
            dropped: self.count(floor, given_up_until),
        }
    }

    /// The live fires, or what the policy has instead; the oldest first.
    fn newest(&self, policy: CatchUp, oldest: i64, now: i64) -> Vec<Fire> {
        let mut back = self.intervals(oldest, now, Order::Descending);
        let mut fires = Vec::new();
        for fire in back.by_ref() {
            let live = now.saturating_sub(fire.at) < grace(&fire);
            if live || (policy == CatchUp::Latest && fires.is_empty()) {
                fires.push(fire);
            }
            if !live {
                break;
            }
        }
        fires.reverse();
        fires
    }

    fn count(&self, from: i64, to: i64) -> u64 {
        let counted = self.intervals(from, to, Order::Ascending).take(MOST_COUNTED).count();
        u64::try_from(counted).unwrap_or(u64::MAX)
    }
}

/// How long a fire is live; microseconds.
fn grace(fire: &Fire) -> i64 {
    (fire.interval_end - fire.interval_start).clamp(LEAST_GRACE, MOST_GRACE)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
