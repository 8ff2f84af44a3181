//! The reaper: finds sessions whose lease has ended and gives their attempts back.
//!
//! Only the database's clock decides whether a lease has ended. The brake: where many leases end at
//! once, the cause is the database or the network and not so many dead workers, so the reaper waits
//! one time-to-live, in which live workers renew. The same after it could not reach the database.

use std::time::{Duration, Instant};

use crate::store::{Store, StoreError};

/// More expired leases than this in one round pull the brake ...
const BRAKE_AT: usize = 5;
/// ... or more than one in so many of those in force.
const BRAKE_SHARE: usize = 5;

/// See the module.
pub struct Reaper {
    ttl: Duration,
    /// Nothing is reaped before.
    held_until: Option<Instant>,
    /// Whether the brake was pulled already for what is expired now.
    has_braked: bool,
}

impl Reaper {
    /// A reaper for sessions of that time-to-live.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, held_until: None, has_braked: false }
    }

    /// One round. Returns how many attempts were given up.
    ///
    /// # Errors
    /// The store's; the next rounds hold back.
    pub async fn run_once(&mut self, store: &Store) -> Result<usize, StoreError> {
        let counts = store.sessions().await;
        let decided = self.decide(counts.as_ref().ok().copied(), Instant::now());
        counts?;
        // Whoever closed a session early has no lease to wait for.
        let lost = if decided { store.reap(Duration::ZERO).await? } else { store.reap_revoked().await? };
        for attempt in &lost {
            let (run, instance, session) = (attempt.run, &attempt.instance, attempt.session);
            tracing::warn!(%run, %instance, %session, "the worker is gone; the attempt is given up");
        }
        Ok(lost.len())
    }

    /// Whether to reap now, after a look that found (in force, expired), or that failed.
    fn decide(&mut self, counts: Option<(usize, usize)>, now: Instant) -> bool {
        let Some((in_force, expired)) = counts else {
            self.held_until = Some(now + self.ttl);
            return false;
        };
        if expired == 0 {
            self.has_braked = false;
            return false;
        }
        if self.held_until.is_some_and(|until| now < until) {
            return false;
        }
        if expired > BRAKE_AT.max(in_force / BRAKE_SHARE) && !self.has_braked {
            tracing::warn!(expired, in_force, "many leases ended at once; waiting for workers that live to renew");
            self.has_braked = true;
            self.held_until = Some(now + self.ttl);
            return false;
        }
        self.held_until = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn a_few_expired_leases_are_reaped_at_once() {
        let mut reaper = Reaper::new(TTL);
        let now = Instant::now();
        assert!(!reaper.decide(Some((10, 0)), now));
        assert!(reaper.decide(Some((10, 5)), now));
        assert!(reaper.decide(Some((100, 20)), now));
    }

    #[test]
    fn many_at_once_wait_one_time_to_live_and_then_go() {
        let mut reaper = Reaper::new(TTL);
        let now = Instant::now();
        assert!(!reaper.decide(Some((10, 6)), now));
        assert!(!reaper.decide(Some((10, 6)), now + TTL / 2), "held back");
        assert!(reaper.decide(Some((10, 6)), now + TTL), "they did not renew");
        // A second wave is looked at for itself.
        assert!(!reaper.decide(Some((10, 0)), now + TTL));
        assert!(!reaper.decide(Some((10, 7)), now + 2 * TTL));
    }

    #[test]
    fn who_could_not_look_holds_back() {
        let mut reaper = Reaper::new(TTL);
        let now = Instant::now();
        assert!(!reaper.decide(None, now));
        assert!(!reaper.decide(Some((3, 1)), now + TTL / 2));
        assert!(reaper.decide(Some((3, 1)), now + TTL));
    }
}
