//! An attempt's log: its output as lines, put to the artifact store by chunk while it runs.
//!
//! Opened and closed by `attempt`; written through [`AttemptLog`] by kinds that run in the worker, and
//! by `child` with what comes from an attempt's own process. One task per attempt owns the chunks, so
//! that their numbers have one writer. What becomes of the bytes is in `lines`.
//!
//! A log never fails its attempt: a chunk that can not be put is named in the next one, and a store
//! that hangs is left behind after a while.

mod lines;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lines::Lines;
use crate::artifact::{ArtifactStore, KeyPrefix};
use crate::clock::{Clock, SystemClock};
use crate::secret::Redactor;
use crate::task::{AttemptLog, LogStream};

/// How long a line waits before it can be read: a person who follows sees life.
const CHUNK_AGE: Duration = Duration::from_secs(2);

/// A chunk this large does not wait: large enough for an object, small enough to hold.
const CHUNK_BYTES: usize = 64 << 10;

/// A pipe's own capacity on Linux: what one read brings is one piece.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces that may wait while a chunk is being put: with the above, 1 MiB per attempt.
const PIECES: usize = 16;

/// After a chunk that could not be put, the next are left out for so long: each would hold up the
/// attempt for as long as the store's retries take.
const DOWN: Duration = Duration::from_secs(10);

/// What the last chunks may take once the attempt has ended: the report of its outcome waits for them.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// The log of an attempt that runs. Costs nothing until something is said: most attempts are silent.
pub(super) struct Log(Arc<LogSender>);

impl Log {
    /// Opens a log of at most `limit` bytes, which keeps none of the secrets that `redactor` knows.
    pub(super) fn open(artifacts: &Arc<ArtifactStore>, attempt: KeyPrefix, limit: u64, redactor: Redactor) -> Self {
        let (artifacts, closing) = (Arc::clone(artifacts), CancellationToken::new());
        Self(Arc::new(LogSender { artifacts, attempt, limit, redactor, closing, started: OnceLock::new() }))
    }

    /// Where the output goes.
    pub(super) fn sender(&self) -> Arc<LogSender> {
        Arc::clone(&self.0)
    }

    /// What the attempt's words are to be without.
    pub(super) fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }

    /// Puts what is left. A context that outlives its attempt writes into nothing from here on.
    pub(super) async fn close(self) {
        self.0.closing.cancel();
        let Some(started) = self.0.started.get() else { return };
        let task = started.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(CLOSE_LIMIT, &mut task).await.is_err() {
            tracing::warn!("the artifact store does not take the end of an attempt's log; it is left behind");
            task.abort();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.closing.cancel();
    }
}

/// The writing end.
pub(super) struct LogSender {
    artifacts: Arc<ArtifactStore>,
    attempt: KeyPrefix,
    limit: u64,
    redactor: Redactor,
    closing: CancellationToken,
    started: OnceLock<Started>,
}

/// A log that something was written to.
struct Started {
    sender: mpsc::Sender<Piece>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl LogSender {
    /// What the attempt's words are to be without.
    pub(super) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    fn start(&self) -> Started {
        let (sender, receiver) = mpsc::channel(PIECES);
        let pump = Pump {
            artifacts: Arc::clone(&self.artifacts),
            attempt: self.attempt.clone(),
            lines: Lines::new(self.limit).without(&self.redactor),
            number: 0,
            since: None,
            lost: 0,
            down_until: None,
            receiver,
        };
        let task = tokio::spawn(pump.run(self.closing.clone()));
        Started { sender, task: Mutex::new(Some(task)) }
    }
}

/// What came in one go.
struct Piece {
    stream: LogStream,
    bytes: Bytes,
}

#[async_trait]
impl AttemptLog for LogSender {
    async fn write(&self, stream: LogStream, bytes: &[u8]) {
        if self.closing.is_cancelled() {
            return;
        }
        let started = self.started.get_or_init(|| self.start());
        for piece in bytes.chunks(PIECE_BYTES) {
            let piece = Piece { stream, bytes: Bytes::copy_from_slice(piece) };
            // Closed: the attempt is over, and nobody waits for what it still says.
            if started.sender.send(piece).await.is_err() {
                return;
            }
        }
    }
}

struct Pump {
    artifacts: Arc<ArtifactStore>,
    attempt: KeyPrefix,
    lines: Lines,
    /// Of the chunk that was put last.
    number: u32,
    /// Since when a line waits.
    since: Option<Instant>,
    /// Bytes that could not be put and were not yet named.
    lost: u64,
    /// Until when nothing is put.
    down_until: Option<Instant>,
    receiver: mpsc::Receiver<Piece>,
}

impl Pump {
    async fn run(mut self, closing: CancellationToken) {
        loop {
            let due = self.since.map(|since| since + CHUNK_AGE);
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                piece = self.receiver.recv() => match piece {
                    Some(piece) => self.take(&piece).await,
                    None => break,
                },
                () = wait => self.put().await,
                () = closing.cancelled() => break,
            }
        }
        // What was sent before the end is part of the log.
        while let Ok(piece) = self.receiver.try_recv() {
            self.take(&piece).await;
        }
        self.receiver.close();
        self.lines.end(SystemClock.now());
        self.down_until = None;
        while self.lines.has_pending() {
            self.put().await;
        }
        if self.lost > 0 {
            self.send(Vec::new()).await;
        }
    }

    async fn take(&mut self, piece: &Piece) {
        self.lines.push(piece.stream, &piece.bytes, SystemClock.now());
        if self.lines.has_pending() && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        while self.lines.pending_bytes() >= CHUNK_BYTES {
            self.put().await;
        }
    }

    /// Puts one chunk.
    async fn put(&mut self) {
        let Some(chunk) = self.lines.take_chunk(CHUNK_BYTES) else { return };
        self.since = self.lines.has_pending().then(Instant::now);
        if self.down_until.is_some_and(|until| Instant::now() < until) {
            self.lost += chunk.len() as u64;
        } else {
            self.send(chunk).await;
        }
    }

    /// Puts these lines, after one that names what was lost.
    async fn send(&mut self, lines: Vec<u8>) {
        // A number is used once: a put that failed may have arrived all the same.
        self.number += 1;
        let size = lines.len() as u64;
        let chunk = match self.lost {
            0 => lines,
            lost => [lines::lost(lost, SystemClock.now()), lines].concat(),
        };
        match self.artifacts.put_log(&self.attempt, self.number, Bytes::from(chunk)).await {
            Ok(()) => (self.lost, self.down_until) = (0, None),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, number = self.number, "a chunk of an attempt's log could not be put");
                self.lost += size;
                self.down_until = Some(Instant::now() + DOWN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::artifact::LogChunk;
    use crate::id::{DagId, Epoch, Generation, InstanceId, RunId, TaskId, TenantId};
    use crate::task::LogLine;

    struct Bed {
        artifacts: Arc<ArtifactStore>,
        attempt: KeyPrefix,
        folder: tempfile::TempDir,
    }

    impl Bed {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let artifacts = ArtifactStore::open(&folder.path().display().to_string()).expect("opens");
            let attempt = KeyPrefix {
                tenant: TenantId::parse("acme").expect("an id"),
                dag: DagId::parse("retail").expect("an id"),
                run: RunId::from_uuid(Uuid::nil()),
                instance: InstanceId::new(TaskId::parse("a").expect("an id"), None),
                generation: Generation(1),
                epoch: Epoch(1),
            };
            Self { artifacts: Arc::new(artifacts), attempt, folder }
        }

        fn log(&self, limit: u64) -> Log {
            Log::open(&self.artifacts, self.attempt.clone(), limit, Redactor::default())
        }

        async fn chunks(&self) -> Vec<LogChunk> {
            let it = &self.attempt;
            self.artifacts.logs(&it.tenant, &it.dag, it.run, None).await.expect("listed")
        }

        async fn lines(&self) -> Vec<LogLine> {
            let mut lines = Vec::new();
            for chunk in self.chunks().await {
                let bytes = self.artifacts.read_log(&chunk).await.expect("read");
                let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
                lines.extend(text.lines().map(|line| serde_json::from_str::<LogLine>(line).expect("a line")));
            }
            lines
        }
    }

    #[tokio::test]
    async fn lines_can_be_read_while_the_attempt_runs_and_after() {
        let bed = Bed::new();
        let log = bed.log(1 << 20);
        log.sender().write(LogStream::Stdout, b"one\ntw").await;
        let deadline = Instant::now() + 10 * CHUNK_AGE;
        while bed.chunks().await.is_empty() {
            assert!(Instant::now() < deadline, "no chunk while the attempt runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let early: Vec<_> = bed.lines().await.into_iter().map(|it| it.line).collect();
        assert_eq!(early, ["one"], "a line is whole or not there yet");
        log.sender().write(LogStream::Stdout, b"o\nlast").await;
        let late = log.sender();
        log.close().await;
        let all: Vec<_> = bed.lines().await.into_iter().map(|it| (it.stream, it.line)).collect();
        assert_eq!(all, ["one", "two", "last"].map(|line| (LogStream::Stdout, line.to_owned())));
        late.write(LogStream::Stdout, b"too late\n").await;
        assert_eq!(bed.chunks().await.len(), 2);
    }

    #[tokio::test]
    async fn much_output_is_many_small_chunks_up_to_the_limit() {
        let bed = Bed::new();
        let log = bed.log(512 << 10);
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..10_000 {
            log.sender().write(LogStream::Stderr, line.as_bytes()).await;
        }
        log.close().await;
        let chunks = bed.chunks().await;
        let stored: u64 = chunks.iter().map(|chunk| chunk.bytes).sum();
        assert!(stored <= 512 << 10, "{stored} bytes");
        assert!(chunks.iter().all(|chunk| chunk.bytes <= 2 * CHUNK_BYTES as u64), "{chunks:?}");
        let lines = bed.lines().await;
        let cut: Vec<_> = lines.iter().filter(|line| line.stream == LogStream::Engine).collect();
        assert_eq!(cut.len(), 1);
        assert!(cut[0].line.contains("were cut here"), "{}", cut[0].line);
    }

    #[tokio::test]
    async fn an_attempt_that_says_nothing_leaves_nothing() {
        let bed = Bed::new();
        bed.log(1 << 20).close().await;
        assert!(bed.chunks().await.is_empty());
    }

    #[tokio::test]
    async fn a_chunk_that_can_not_be_put_is_named_in_the_next() {
        let bed = Bed::new();
        // Somebody else holds the first number.
        bed.artifacts.put_log(&bed.attempt, 1, Bytes::from("")).await.expect("put");
        let log = bed.log(1 << 20);
        log.sender().write(LogStream::Stdout, b"lost\n").await;
        log.close().await;
        let lines = bed.lines().await;
        assert_eq!(lines.len(), 1);
        assert!(lines[0].line.contains("could not be stored"), "{}", lines[0].line);
        drop(bed.folder);
    }
}
