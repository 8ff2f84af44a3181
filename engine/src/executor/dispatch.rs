//! The dispatcher: one loop over one closed set of messages, for one session of one process.
//!
//! It claims for the free slots, starts attempts in tasks of their own, reports what they say, and
//! takes with each report what comes next. It decides nothing about states: the store records
//! outcomes and advances runs in the same transaction. Used by [`super::Executor`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attempt::{Environment, Halt, execute};
use super::report::{Answer, Done, Reports};
use super::session::{Beat, Lease};
use super::usage::Usage;
use super::{ExecutorError, Progress, failed};
use crate::id::{Epoch, InstanceId, RunId, SessionId, TenantId};
use crate::plan::{FailureKind, Micros};
use crate::run::{RunState, is_terminal};
use crate::store::{
    Claim, ClaimRequest, ClaimScope, Finish, Finished, HeldAttempt, Next, Outcome, Receipt, StoreError,
};
use crate::task::ErrorClass;

/// How often the store is asked what may start: the truth, where a notification was lost.
const POLL: Duration = Duration::from_secs(1);

/// An attempt under way.
struct Running {
    stop: Halt,
    started: Instant,
    /// Told to stop because this worker goes, not because its run was canceled.
    is_handed_back: bool,
    /// It has ended, and its report is on its way.
    is_done: bool,
}

/// An attempt: the one of its task instance under this epoch. Two of an instance may be here at once, for a
/// moment: one whose end the store has on record, though its answer has not come, and the next.
type AttemptKey = (TenantId, RunId, InstanceId, Epoch);

/// See the module.
pub(super) struct Dispatcher {
    environment: Arc<Environment>,
    session: SessionId,
    scope: ClaimScope,
    slots: usize,
    running: HashMap<AttemptKey, Running>,
    /// Held by this session as the store says, and not running here; and since when that is known.
    strays: HashMap<AttemptKey, Instant>,
    sender: mpsc::UnboundedSender<Done>,
    receiver: mpsc::UnboundedReceiver<Done>,
    progress: mpsc::UnboundedSender<Progress>,
    reports: Reports,
    usage: Usage,
    /// Whether something may be ready that nobody has claimed.
    may_claim: bool,
    /// Whether the last claim got all that it asked for: there may be more.
    others_wait: bool,
    /// How often it was heard that something may be ready.
    heard: u64,
    /// When a retry comes due, as far as this process knows.
    retry_due: Option<tokio::time::Instant>,
    /// When the store is asked next what may start, whatever else happens until then.
    look_due: tokio::time::Instant,
}

/// What woke the dispatcher.
enum Woken {
    Done(Box<Done>),
    /// What waits to be reported has waited long enough.
    ReportDue,
    /// The store has answered a report.
    Answered(Box<Answer>),
    RetryDue,
    CancelAsked,
    DrainAsked,
    DrainEnded,
    LeaseLost,
    Beat(Beat),
    /// Something was made ready, here or elsewhere.
    Ready,
    /// Time for a look.
    Look,
}

/// How far a drain has come.
enum Drain {
    No,
    /// Attempts may still end by themselves until then.
    Until(tokio::time::Instant),
    /// They were told to stop and are handed back.
    HandingBack,
}

impl Dispatcher {
    pub(super) fn new(
        environment: Arc<Environment>,
        session: SessionId,
        scope: ClaimScope,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let reports = Reports::new(Arc::clone(&environment.store), environment.settings.lease_ttl / 20);
        Self {
            slots: environment.settings.slots,
            environment,
            session,
            scope,
            running: HashMap::new(),
            strays: HashMap::new(),
            sender,
            receiver,
            progress,
            reports,
            usage: Usage::new(Instant::now()),
            may_claim: true,
            others_wait: false,
            heard: 0,
            retry_due: None,
            look_due: tokio::time::Instant::now() + jittered(POLL),
        }
    }

    /// Executes one run until it has ended. A `cancel` that fires is made durable first, then
    /// delivered.
    pub(super) async fn run_to_end(
        &mut self,
        (tenant, run): (&TenantId, RunId),
        lease: &mut Lease,
        cancel: &CancellationToken,
    ) -> Result<RunState, ExecutorError> {
        let mut canceled = false;
        self.wake_retries().await?;
        loop {
            self.report(true);
            self.claim().await?;
            if self.running.is_empty() && self.retry_due.is_none() {
                let state = self.environment.store.run_state(tenant, run).await?;
                let stalled = Err(ExecutorError::Stalled { run, state });
                return if is_terminal(state) { Ok(state) } else { stalled };
            }
            let woken = tokio::select! {
                Some(done) = self.receiver.recv() => Woken::Done(Box::new(done)),
                () = sleep_until(self.reports.due()) => Woken::ReportDue,
                answer = self.reports.answer() => Woken::Answered(Box::new(answer)),
                () = sleep_until(self.retry_due) => Woken::RetryDue,
                () = cancel.cancelled(), if !canceled => Woken::CancelAsked,
                beat = lease.beat() => beat.map_or(Woken::LeaseLost, Woken::Beat),
            };
            match woken {
                Woken::Done(done) => self.collect(*done),
                Woken::ReportDue => {}
                Woken::Answered(answer) => {
                    if let Some(state) = self.settle(*answer)?.filter(|state| is_terminal(*state)) {
                        return Ok(state);
                    }
                    if canceled {
                        self.stop_all();
                    }
                }
                Woken::RetryDue => self.wake_retries().await?,
                Woken::CancelAsked => {
                    canceled = true;
                    self.environment.store.cancel(tenant, run).await?;
                    self.tell(Progress::Canceling);
                    self.stop_all();
                }
                Woken::Beat(beat) => self.heed(&beat).await,
                _ => return Err(ExecutorError::LeaseLost),
            }
        }
    }

    /// Executes whatever may be claimed, until `drain` fires and what runs has ended or, `grace`
    /// later, was handed back.
    pub(super) async fn serve(
        &mut self,
        lease: &mut Lease,
        drain: &CancellationToken,
        grace: Duration,
    ) -> Result<(), ExecutorError> {
        let mut draining = Drain::No;
        let mut wake_ups = self.environment.store.wake_ups();
        loop {
            self.report(matches!(draining, Drain::No));
            if matches!(draining, Drain::No) {
                self.claim().await?;
            } else if self.running.is_empty() {
                return Ok(());
            }
            let end = if let Drain::Until(end) = draining { Some(end) } else { None };
            let woken = tokio::select! {
                Some(done) = self.receiver.recv() => Woken::Done(Box::new(done)),
                () = sleep_until(self.reports.due()) => Woken::ReportDue,
                answer = self.reports.answer() => Woken::Answered(Box::new(answer)),
                () = sleep_until(self.retry_due) => Woken::RetryDue,
                beat = lease.beat() => beat.map_or(Woken::LeaseLost, Woken::Beat),
                Ok(()) = wake_ups.changed() => Woken::Ready,
                () = tokio::time::sleep_until(self.look_due) => Woken::Look,
                () = drain.cancelled(), if matches!(draining, Drain::No) => Woken::DrainAsked,
                () = sleep_until(end), if end.is_some() => Woken::DrainEnded,
            };
            match woken {
                Woken::Done(done) => self.collect(*done),
                Woken::ReportDue => {}
                Woken::Answered(answer) => {
                    self.settle(*answer)?;
                    // It may have been asked for work before the drain began.
                    if matches!(draining, Drain::HandingBack) {
                        self.hand_back();
                    }
                }
                Woken::RetryDue => self.wake_retries().await?,
                Woken::Beat(beat) => self.heed(&beat).await,
                // The claim that follows is the look.
                Woken::Ready => self.hear(),
                Woken::Look => self.look().await?,
                Woken::DrainAsked => draining = Drain::Until(tokio::time::Instant::now() + grace),
                Woken::DrainEnded => {
                    draining = Drain::HandingBack;
                    self.hand_back();
                }
                Woken::CancelAsked | Woken::LeaseLost => return Err(ExecutorError::LeaseLost),
            }
        }
    }

    /// Asks whether anything may start: one read, whatever waits.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.look_due = tokio::time::Instant::now() + jittered(POLL);
        let pending = match self.environment.store.pending(&self.scope).await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::warn!(%error, "can not look for ready tasks; looking again");
                return Ok(());
            }
        };
        self.set_retry_due(pending.retry_due, pending.now);
        if pending.is_ready {
            self.hear();
        }
        Ok(())
    }

    /// Something may be ready.
    fn hear(&mut self) {
        self.heard += 1;
        (self.may_claim, self.others_wait) = (true, true);
    }

    fn free(&self) -> usize {
        self.slots.saturating_sub(self.running.len() + self.reports.promised())
    }

    fn request(&mut self, limit: usize) -> ClaimRequest {
        ClaimRequest {
            session: self.session,
            scope: self.scope.clone(),
            limit,
            lately: self.usage.averages(Instant::now()),
        }
    }

    /// Fills the free slots, a part of all at a time: what is claimed together ends together, and who is ready
    /// just after all slots were taken at once waits for a whole task.
    async fn claim(&mut self) -> Result<(), StoreError> {
        while self.may_claim {
            let limit = self.free().min(self.reports.part_of(self.slots));
            if limit == 0 {
                break;
            }
            let request = self.request(limit);
            let claims = match self.environment.store.claim(&request).await {
                Ok(claims) => claims,
                // The next look tries again; the heartbeat decides whether this session lives on.
                Err(error) if error.is_passing() => {
                    tracing::warn!(%error, "can not claim");
                    self.may_claim = false;
                    break;
                }
                Err(error) => return Err(error),
            };
            self.others_wait = claims.len() == limit;
            self.may_claim = self.others_wait;
            for claim in claims {
                self.start(claim);
            }
        }
        Ok(())
    }

    fn start(&mut self, claim: Claim) {
        let halt = Halt::new();
        let identity = &claim.identity;
        let instance = identity.instance.clone();
        self.tell(Progress::Started { instance: instance.clone(), attempt: identity.attempt.0 });
        let key = (identity.tenant.clone(), identity.run, instance, identity.epoch);
        let (stop, started) = (halt.clone(), Instant::now());
        self.running.insert(key, Running { stop, started, is_handed_back: false, is_done: false });
        let (environment, session, sender) = (Arc::clone(&self.environment), self.session, self.sender.clone());
        tokio::spawn(async move {
            let finish = execute(&environment, session, claim, halt).await;
            // The dispatcher is gone only when this process is done with the session.
            sender.send(Done { finish, elapsed: started.elapsed() }).ok();
        });
    }

    /// Takes a finish and whatever came with it.
    fn collect(&mut self, first: Done) {
        let mut done = vec![first];
        while let Ok(other) = self.receiver.try_recv() {
            done.push(other);
        }
        for done in &mut done {
            if let Some(running) = self.running.get_mut(&key_of(&done.finish)) {
                running.is_done = true;
                if running.is_handed_back {
                    hand_over(&mut done.finish);
                }
            }
        }
        self.reports.add(done);
    }

    /// Sends what is to be reported to the store, with what it may give in return.
    fn report(&mut self, may_claim: bool) {
        while let Some(batch) = self.reports.take(self.running.len(), self.slots) {
            let (finishes, times): (Vec<_>, Vec<_>) = batch.into_iter().map(|it| (it.finish, it.elapsed)).unzip();
            let free = self.free();
            let limit = free + finishes.len();
            let others_wait = self.others_wait || self.may_claim;
            let next = may_claim.then(|| Next { request: self.request(limit), others_wait });
            self.reports.write((finishes, times), next, (free, self.heard));
        }
    }

    /// Notes what the store made of a report, and starts what it gave in return. Returns where the last
    /// reported run stands.
    fn settle(&mut self, answer: Answer) -> Result<Option<RunState>, ExecutorError> {
        let Answer { finishes, times, next, heard, result, .. } = answer;
        let Finished { receipts, claims, left_ready } = result?;
        let now = Instant::now();
        let mut state = None;
        for ((finish, receipt), elapsed) in finishes.iter().zip(receipts).zip(times) {
            self.running.remove(&key_of(finish));
            self.usage.add(&finish.identity.tenant, elapsed, now);
            state = self.note_receipt(finish, receipt, elapsed).or(state);
        }
        if let Some(next) = next.filter(|next| next.others_wait) {
            // Who got less than asked for has seen the end of the queue, unless it grew meanwhile.
            let is_end = claims.len() < next.request.limit;
            if !is_end || heard == self.heard {
                (self.may_claim, self.others_wait) = (!is_end, !is_end);
            }
        }
        if left_ready {
            self.hear();
        }
        for claim in claims {
            self.start(claim);
        }
        Ok(state)
    }

    fn note_receipt(&mut self, finish: &Finish, receipt: Receipt, elapsed: Duration) -> Option<RunState> {
        let instance = finish.identity.instance.clone();
        match receipt {
            Receipt::Recorded { task, run, reason, not_before } => {
                if let Some(at) = not_before {
                    self.set_retry_due(Some(at), self.environment.store.now());
                }
                self.tell(Progress::Finished { instance, state: task, reason, elapsed });
                Some(run)
            }
            Receipt::Refused => {
                // Another holds it now, or it is over: nothing of this attempt is seen.
                tracing::warn!(%instance, run = %finish.identity.run, "a report came too late and was refused");
                self.tell(Progress::Refused { instance });
                None
            }
        }
    }

    /// Stops what is canceled, and what the store gave to somebody else; gives back what this session
    /// holds and nobody here runs.
    async fn heed(&mut self, beat: &Beat) {
        let key = |it: &HeldAttempt| (it.tenant.clone(), it.run, it.instance.clone(), it.epoch);
        let held: HashMap<AttemptKey, &HeldAttempt> = beat.held.iter().map(|it| (key(it), it)).collect();
        for (key, running) in &self.running {
            let mine = held.get(key);
            // What began after the question was asked is not in the answer.
            if mine.is_none() && running.started < beat.asked {
                running.stop.kill.cancel();
            } else if mine.is_some_and(|it| it.is_canceled) {
                running.stop.cancel.cancel();
            }
        }
        let strays = self.strays(held, beat.asked);
        if strays.is_empty() {
            return;
        }
        match self.environment.store.give_back(self.session, &strays).await {
            Ok(count) => tracing::warn!(count, "gave back attempts whose claim was never heard of here"),
            Err(error) => tracing::warn!(%error, "can not give back attempts that nobody runs; trying again"),
        }
    }

    /// What is held and not run here, by an answer to a question that was asked after that was known: the
    /// first answer may be older than the end of an attempt that it names, or newer than a claim whose
    /// report has not been answered here.
    fn strays(&mut self, held: HashMap<AttemptKey, &HeldAttempt>, asked: Instant) -> Vec<HeldAttempt> {
        let mut known = HashMap::new();
        let mut strays = Vec::new();
        for (key, it) in held {
            if self.running.contains_key(&key) {
                continue;
            }
            let since = self.strays.remove(&key).unwrap_or_else(Instant::now);
            if since < asked && self.reports.all_began_after(since) {
                strays.push(it.clone());
            }
            known.insert(key, since);
        }
        self.strays = known;
        strays
    }

    async fn wake_retries(&mut self) -> Result<(), StoreError> {
        self.retry_due = None;
        let (due, now) = match self.environment.store.wake_retries(&self.scope).await {
            Ok(found) => found,
            // The next look finds out again when it is due.
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, "can not wake what waited for its retry");
                self.retry_due = Some(tokio::time::Instant::now() + POLL);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.set_retry_due(due, now);
        self.hear();
        Ok(())
    }

    fn set_retry_due(&mut self, due: Option<Micros>, now: Micros) {
        let Some(due) = due else { return };
        let delay = Duration::from_micros(u64::try_from(due - now).unwrap_or(0));
        let at = tokio::time::Instant::now() + delay;
        self.retry_due = Some(self.retry_due.map_or(at, |known| known.min(at)));
    }

    /// Tells every running attempt to stop.
    fn stop_all(&self) {
        for running in self.running.values() {
            running.stop.cancel.cancel();
        }
    }

    /// Ends every running attempt at once, and reports nothing more: another worker may hold what this one
    /// held.
    pub(super) fn kill_all(&mut self) {
        self.reports.give_up();
        for running in self.running.values() {
            running.stop.kill.cancel();
        }
    }

    fn hand_back(&mut self) {
        for running in self.running.values_mut().filter(|running| !running.is_done) {
            running.is_handed_back = true;
            running.stop.cancel.cancel();
        }
    }

    /// Waits until every attempt has ended, without reporting any: the lease is lost.
    pub(super) async fn abandon(&mut self, grace: Duration) {
        self.kill_all();
        // Whose report was being written when the lease was lost says nothing more.
        self.running.retain(|_, running| !running.is_done);
        let all = async {
            while !self.running.is_empty() {
                let Some(done) = self.receiver.recv().await else { return };
                self.running.remove(&key_of(&done.finish));
            }
        };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(left = self.running.len(), "attempts did not stop within the grace; they are left behind");
        }
    }

    fn tell(&self, progress: Progress) {
        // Nobody has to listen.
        self.progress.send(progress).ok();
    }
}

fn key_of(finish: &Finish) -> AttemptKey {
    let identity = &finish.identity;
    (identity.tenant.clone(), identity.run, identity.instance.clone(), identity.epoch)
}

/// A failure that this worker's going has caused is nobody's: another worker begins anew.
fn hand_over(finish: &mut Finish) {
    if matches!(finish.outcome, Outcome::Failed { .. }) {
        let message = "its worker was told to go and handed it back".to_owned();
        finish.outcome = failed(FailureKind::HandedBack, ErrorClass::System, message);
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Up to a quarter longer: workers that started together do not ask together.
fn jittered(every: Duration) -> Duration {
    every + every * u32::from(Uuid::new_v4().as_bytes()[0]) / 1024
}
