//! Disks and object stores: F15 (full disks), F16 (S3 misbehaves), F17 (a crash in mid-upload), F24
//! (SQLite locked from outside, and two servers on one file).

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::run::RunState;
use testkit::{S3Fault, S3Server, SqliteLock, build_preload};

use super::World;
use super::dag::{INLINE, chain, head, task};
use super::world::{PATIENCE, TTL};

/// A disk that a test can fill: the files below a folder, as a process with these variables sees them.
struct Disk {
    flag: PathBuf,
    variables: [(&'static str, String); 3],
}

impl Disk {
    fn at(world: &World, folder: &str) -> Self {
        let folder = world.bench.path(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let folder = folder.canonicalize().expect("it is there");
        let (flag, library) = (world.bench.path("disk-is-full"), build_preload(&world.bench.path(".")));
        let variables = [
            ("LD_PRELOAD", library.display().to_string()),
            ("CHAOS_FULL", flag.display().to_string()),
            ("CHAOS_DISK", folder.display().to_string()),
        ];
        Self { flag, variables }
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn fill(&self) {
        std::fs::write(&self.flag, "").expect("written");
    }

    fn free(&self) {
        std::fs::remove_file(&self.flag).expect("removed");
    }
}

/// F15: the disk of the artifacts, and of the attempts' logs, is full, then free again.
pub(crate) async fn f15_artifacts(world: &mut World) {
    let disk = Disk::at(world, "artifacts/objects");
    let keys = format!("retries = {{ max = 60, initial = \"200ms\", backoff = \"constant\" }}\n{INLINE}");
    let big = "head -c 1000000 /dev/zero > \"$HEADWORKS_ARTIFACTS/big.bin\"; echo said";
    let toml = [head("big"), task(world, "a", &keys, big)].concat();
    world.dag(&toml.replace("shell = true", "shell = true, outputs = [\"big.bin\"]"));
    world.dag(&chain(world, "chain", 2));
    let server = world.start("serve", &disk.variables()).await;
    disk.fill();
    let run = world.submit("big").await;
    let tries = i64::try_from(world.dice.within(2, 6)).expect("few");
    world.ledger.until(PATIENCE, |it| it.task == "a" && it.attempt == tries).await;
    let why = world.sql("SELECT message FROM attempt WHERE state = 'failed' LIMIT 1");
    assert!(why.contains("No space left"), "it says why: {why}");
    let visible = world.sql("SELECT COUNT(*) FROM artifact WHERE name = 'big.bin'");
    assert_eq!(visible, "0", "nothing partial is visible");
    disk.free();
    world.until_succeeded(&[run], PATIENCE).await;
    let good = world.submit("chain").await;
    world.until_succeeded(&[good], PATIENCE).await;
    assert!(world.process(server).is_alive(), "it recovered without a restart");
}

/// F15: the disk of the SQLite file is full, then free again.
pub(crate) async fn f15_sqlite(world: &mut World) {
    let disk = Disk::at(world, "db");
    world.move_sqlite("db/hw.db");
    world.dag(&chain(world, "chain", 8));
    let runs = [world.submit("chain").await, world.submit("chain").await];
    let server = world.start("serve", &disk.variables()).await;
    world.ledger.until(PATIENCE, |it| it.task == "t1" && it.phase == "start").await;
    disk.fill();
    let millis = world.dice.within(200, 4500);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    assert!(world.process(server).is_alive(), "it waits for room:\n{}", world.process(server).said());
    disk.free();
    world.until_succeeded(&runs, PATIENCE).await;
    assert!(world.process(server).is_alive(), "it recovered without a restart");
}

/// F16: the object store misbehaves in each way. Every run succeeds, and objects are what rows say.
pub(crate) async fn f16_object_store(world: &mut World) {
    world.dag(&chain(world, "chain", 2));
    let server = S3Server::start();
    let mut more: Vec<(&str, String)> = server.env().to_vec();
    more.push(("HEADWORKS_ARTIFACTS_URL", server.url("chaos")));
    let more: Vec<_> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = world.start("worker-a", &more).await;
    let faults = server.faults().clone();
    world.s3 = Some(server);
    let mut hit = 0;
    for fault in [
        S3Fault::RefusePut(500),
        S3Fault::FailAfterPut(500),
        S3Fault::RefusePut(503),
        S3Fault::FailAfterPut(503),
        S3Fault::RefusePut(409),
        S3Fault::CutPut,
    ] {
        let count = world.dice.within(1, 4);
        faults.inject(fault, usize::try_from(count).expect("few"));
        let run = world.submit("chain").await;
        world.until_succeeded(&[run], PATIENCE).await;
        hit += count;
        tokio::time::timeout(PATIENCE, faults.until_fired(hit))
            .await
            .unwrap_or_else(|_| panic!("{fault:?} was not met"));
    }
    // One upload hangs, the other slot goes on.
    faults.inject(S3Fault::HangAfterPut, 1);
    let hanging = world.submit("chain").await;
    faults.until_fired(hit + 1).await;
    let others = [world.submit("chain").await, world.submit("chain").await];
    world.until_succeeded(&others, PATIENCE).await;
    assert_eq!(world.view(&hanging).await.summary.state, RunState::Running);
    // F17: the worker dies while its upload has no answer.
    world.process(worker).kill();
    assert_eq!(world.view(&hanging).await.artifacts.len(), 0, "what was put is not visible");
    world.start("worker-b", &more).await;
    world.until_succeeded(std::slice::from_ref(&hanging), PATIENCE).await;
    assert_eq!(world.attempts(&hanging, "t0"), ["lost", "succeeded"]);
}

/// F16: what is read comes short. The task fails or the read is repeated; nothing short is used.
pub(crate) async fn f16_short_reads(world: &mut World) {
    let make = "head -c 200000 /dev/urandom > \"$HEADWORKS_ARTIFACTS/data.bin\"";
    let made = task(world, "make", "", make).replace("shell = true", "shell = true, outputs = [\"data.bin\"]");
    let read = "f=$(sed -n 's/.*\"path\": \"\\(.*\\)\".*/\\1/p' \"$HEADWORKS_INPUTS\"); [ $(wc -c < \"$f\") = 200000 ]";
    let keys = "needs = [\"make\"]\nretries = { max = 5, initial = \"200ms\", backoff = \"constant\" }";
    let read = task(world, "read", keys, read).replace("shell = true", "shell = true, inputs = [\"data.bin\"]");
    world.dag(&[head("reads"), made, read].concat());
    let server = S3Server::start();
    let mut more: Vec<(&str, String)> = server.env().to_vec();
    more.push(("HEADWORKS_ARTIFACTS_URL", server.url("chaos")));
    let more: Vec<_> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let count = world.dice.within(1, 4);
    server.faults().inject(S3Fault::CutGet, usize::try_from(count).expect("few"));
    let faults = server.faults().clone();
    world.s3 = Some(server);
    world.start("worker-a", &more).await;
    let run = world.submit("reads").await;
    world.until_succeeded(&[run], PATIENCE).await;
    tokio::time::timeout(PATIENCE, faults.until_fired(count)).await.expect("reads were cut");
}

/// F17: kill -9 while a large object is being put into a folder: nothing partial has its name.
pub(crate) async fn f17_kill_in_mid_put(world: &mut World) {
    let big = "head -c 60000000 /dev/zero > \"$HEADWORKS_ARTIFACTS/big.bin\"; note made";
    let toml = [head("big"), task(world, "a", "", big)].concat();
    world.dag(&toml.replace("shell = true", "shell = true, outputs = [\"big.bin\"]"));
    let victim = world.start("worker-a", &[]).await;
    let run = world.submit("big").await;
    world.ledger.until(PATIENCE, |it| it.phase == "end").await;
    let moment = world.dice.within(0, 120);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    world.process(victim).kill();
    for object in objects(&world.bench.path("artifacts/objects")) {
        let bytes = std::fs::metadata(&object).expect("there").len();
        let whole = !object.ends_with("big.bin") || bytes == 60_000_000;
        assert!(whole, "{} has {bytes} bytes", object.display());
    }
    world.start("worker-b", &[]).await;
    world.until_succeeded(&[run], PATIENCE).await;
}

/// Files that have an object's name: those outside of hidden folders.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(objects(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// F24: somebody else holds the file's write lock, shorter or longer than a lease lasts. The server
/// waits, and goes on.
pub(crate) async fn f24_locked(world: &mut World) {
    world.dag(&chain(world, "chain", 10));
    let runs = [world.submit("chain").await, world.submit("chain").await];
    let server = world.start("serve", &[]).await;
    world.ledger.until(PATIENCE, |it| it.task == "t2" && it.phase == "start").await;
    let lock = SqliteLock::take(world.url()).await;
    let held = if world.seed.is_multiple_of(2) { TTL + Duration::from_secs(2) } else { TTL / 2 };
    tokio::time::sleep(held).await;
    lock.release().await;
    world.until_succeeded(&runs, PATIENCE).await;
    assert!(world.process(server).is_alive());
}

/// F24: a second server on one file is refused, with the reason.
pub(crate) async fn f24_two_servers(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    let run = world.submit("chain").await;
    world.start("serve-a", &[]).await;
    let second = world.launch("serve-b", &[]);
    let status = world.process(second).ended(PATIENCE).await;
    assert_eq!(status.code(), Some(5));
    let said = world.process(second).said();
    assert!(said.contains("another headworks process owns"), "{said}");
    world.until_succeeded(&[run], PATIENCE).await;
}
