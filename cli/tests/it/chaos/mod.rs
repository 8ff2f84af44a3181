//! Chaos: the real binary in several processes, on a real database, while things go wrong.
//!
//! A scenario is a function of its [`World`], whose dice its seed decides; afterwards the checker of
//! `testkit` looks at database, ledger, objects and logs. docs/guarantees.md says what each one is
//! about. `cargo xtask test` runs a few seeds of each, `cargo xtask chaos` as many as it is told to
//! (`HEADWORKS_TEST_CHAOS_SEEDS`), and collects a line per run (`HEADWORKS_TEST_CHAOS_REPORT`).

mod calls;
mod crashes;
mod dag;
mod network;
mod process;
mod races;
mod scenarios;
mod storage;
mod world;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

pub(crate) use world::{Kind, Tally, World};

/// Runs a scenario on a database for a few seeds, or for as many as the environment says.
fn chaos(name: &str, kind: Kind, few: u64, scenario: impl AsyncFn(&mut World)) {
    let seeds = std::env::var("HEADWORKS_TEST_CHAOS_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few);
    let first = std::env::var("HEADWORKS_TEST_CHAOS_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        let (started, tally) = (Instant::now(), Arc::new(Tally::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let mut world = World::new(name, seed, kind, Arc::clone(&tally));
                scenario(&mut world).await;
                world.judge().await;
            });
        }));
        let verdict = if ended.is_ok() { "ok" } else { "FAILED" };
        println!("{name} {} seed {seed}: {verdict} after {:.1} s", kind.name(), started.elapsed().as_secs_f64());
        let (violations, repairs) = (tally.violations.load(Relaxed), tally.repairs.load(Relaxed));
        let seconds = started.elapsed().as_secs_f64();
        report(&format!("{name} {} {seed} {verdict} {seconds:.1} {violations} {repairs}\n", kind.name()));
        if ended.is_err() {
            failed.push(seed);
        }
    }
    let repeat = format!("cargo xtask chaos --scenario {name} --store {} --seeds 1 --first", kind.name());
    assert!(
        failed.is_empty(),
        "{repeat} SEED repeats what failed here: {name} on {} failed with seeds {failed:?}",
        kind.name()
    );
}

/// Whether this is the long campaign, and not one part of all tests.
fn is_long() -> bool {
    std::env::var_os("HEADWORKS_TEST_CHAOS_SEEDS").is_some()
}

/// A line for `cargo xtask chaos`, appended in one write.
fn report(line: &str) {
    let Some(path) = std::env::var_os("HEADWORKS_TEST_CHAOS_REPORT") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report is writable");
}
