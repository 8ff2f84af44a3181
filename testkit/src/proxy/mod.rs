//! A TCP proxy in front of Postgres whose line goes bad when it is told to.
//!
//! Used by chaos scenarios: a process gets [`PostgresProxy::url`] instead of the database's, and the
//! test holds the handle. Faults are switched at runtime: delay, throttle, a black hole (nothing
//! passes, nothing closes), a cut after so many bytes, resets, half-open connections, and what
//! matters most, faults around COMMIT: lost before it arrives, its answer lost, or delivered late.
//! It runs on a thread of its own, so that a test that blocks does not stop it.

mod connection;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Dice;

/// How the line behaves for everybody.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Each chunk waits so long.
    pub delay: Duration,
    /// At most so many bytes pass in a second.
    pub bytes_per_second: Option<u32>,
    /// Nothing passes and nothing is closed. What was sent meanwhile arrives when the hole closes, as
    /// TCP would send it again.
    pub is_hole: bool,
    /// New connections are reset.
    pub refuses: bool,
}

/// What happens to a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// It never reaches the server; the client's connection is reset.
    CutBefore,
    /// It is carried out; its answer is dropped and the client's connection reset.
    CutAfter,
    /// The client's connection is reset at once, and the server gets the COMMIT that much later.
    CutThenForward(Duration),
    /// It is carried out; its answer never comes, and the connection stays open.
    Hold,
}

/// How existing connections are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both sides are reset.
    Reset,
    /// The client's side is reset, the server believes that the client is still there.
    HalfOpen,
}

/// Which COMMITs are hit.
#[derive(Debug)]
enum Armed {
    Nothing,
    /// One, after so many others.
    Nth(u64, CommitFault),
    /// Each with a chance of so many in a thousand, by one of the faults.
    Chance(Dice, u64, Vec<CommitFault>),
}

/// The proxy; gone, with its connections, when dropped.
pub struct PostgresProxy {
    url: String,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What the handle and the connections share.
struct Shared {
    target: String,
    line: watch::Sender<Line>,
    cuts: watch::Sender<Option<Cut>>,
    armed: Mutex<Armed>,
    /// Bytes that may still pass before one connection is cut.
    budget: Mutex<Option<u64>>,
    /// Faults that have hit so far.
    fired: watch::Sender<u64>,
}

impl PostgresProxy {
    /// A proxy in front of the database at `url`; it accepts connections when this returns.
    ///
    /// # Panics
    /// The URL is no `postgres://user@host:port/database`, or there is no free port.
    pub fn start(url: &str) -> Self {
        let (head, rest) = url.split_once('@').expect("a URL with a user");
        let (target, database) = rest.split_once('/').expect("a URL with a database");
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let address: SocketAddr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            line: watch::Sender::new(Line::default()),
            cuts: watch::Sender::new(None),
            armed: Mutex::new(Armed::Nothing),
            budget: Mutex::new(None),
            fired: watch::Sender::new(0),
        });
        let stop = CancellationToken::new();
        let (stopped, served) = (stop.clone(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(stopped.run_until_cancelled(serve(listener, served)));
        });
        Self { url: format!("{head}@{address}/{database}"), shared, stop, thread: Some(thread) }
    }

    /// The database's URL by way of the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes how the line behaves, for existing and new connections.
    pub fn line(&self, line: Line) {
        self.shared.line.send_replace(line);
    }

    /// Opens or closes a black hole.
    pub fn hole(&self, is_hole: bool) {
        self.shared.line.send_modify(|line| line.is_hole = is_hole);
    }

    /// Cuts every connection that there is.
    pub fn cut(&self, cut: Cut) {
        self.shared.cuts.send_replace(Some(cut));
    }

    /// Resets the connection on which that many bytes from now pass, both ways counted.
    pub fn cut_after_bytes(&self, bytes: u64) {
        *lock(&self.shared.budget) = Some(bytes);
    }

    /// Hits one COMMIT, after `skip` others.
    pub fn on_commit(&self, skip: u64, fault: CommitFault) {
        *lock(&self.shared.armed) = Armed::Nth(skip, fault);
    }

    /// Hits COMMITs at random, so many in a thousand, until [`PostgresProxy::spare`].
    pub fn on_commits(&self, dice: Dice, per_mille: u64, faults: &[CommitFault]) {
        *lock(&self.shared.armed) = Armed::Chance(dice, per_mille, faults.to_vec());
    }

    /// Hits no COMMIT any more.
    pub fn spare(&self) {
        *lock(&self.shared.armed) = Armed::Nothing;
    }

    /// Faults that have hit so far.
    pub fn fired(&self) -> u64 {
        *self.shared.fired.borrow()
    }

    /// Returns once `count` faults have hit.
    ///
    /// # Panics
    /// The proxy is gone.
    pub async fn until_fired(&self, count: u64) {
        let mut fired = self.shared.fired.subscribe();
        fired.wait_for(|now| *now >= count).await.expect("the proxy outlives its handle");
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed; the test that needed the proxy has failed by itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The fault of the COMMIT that was just seen, if it gets one.
    fn next_commit(&self) -> Option<CommitFault> {
        let mut armed = lock(&self.armed);
        match &mut *armed {
            Armed::Nothing => None,
            Armed::Nth(skip, fault) if *skip == 0 => {
                let fault = *fault;
                *armed = Armed::Nothing;
                Some(fault)
            }
            Armed::Nth(skip, _) => {
                *skip -= 1;
                None
            }
            Armed::Chance(dice, per_mille, faults) => dice.happens(*per_mille).then(|| *dice.pick(faults)),
        }
    }

    /// How many of `bytes` may pass; fewer than asked for means that the connection is cut behind them.
    fn allowance(&self, bytes: usize) -> usize {
        let mut budget = lock(&self.budget);
        let Some(left) = *budget else { return bytes };
        if left >= bytes as u64 {
            *budget = Some(left - bytes as u64);
            return bytes;
        }
        *budget = None;
        usize::try_from(left).unwrap_or(bytes)
    }

    fn has_fired(&self) {
        self.fired.send_modify(|count| *count += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("registered with the runtime");
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if shared.line.borrow().refuses {
            client.set_zero_linger().ok();
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // What goes wrong on a line is the point; the test looks at what the ends make of it.
            if let Ok(server) = TcpStream::connect(&shared.target).await {
                connection::run(&shared, client, server).await.ok();
            }
        });
    }
}
