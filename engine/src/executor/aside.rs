//! Work that may hang, in a thread of its own: a folder on a network that does not answer.
//!
//! Called by `secrets`. A thread that hangs can not be ended. It is none of the runtime's, whose end would wait for
//! it, and there are few for each owner: who comes when they all hang waits, and gives up in time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// Threads at once for one owner: work that does not hang takes a millisecond.
const THREADS: usize = 4;

/// The threads of each owner.
#[derive(Default)]
pub(super) struct Aside(Mutex<HashMap<String, Arc<Semaphore>>>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("there was no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("there is no thread for it: {0}")]
    NoThread(#[from] std::io::Error),
    #[error("its thread ended without an answer")]
    Died,
}

impl Aside {
    /// Does the work, which nobody waits for any longer once `patience` is over.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        (owner, patience): (&str, Duration),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let threads = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(owner.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(THREADS))))
        };
        let answer = async {
            let permit = threads.acquire_owned().await.map_err(|_| NoAnswer::Died)?;
            let (told, answer) = oneshot::channel();
            std::thread::Builder::new().name("aside".to_owned()).spawn(move || {
                // Held for as long as the thread lives, also if it panics.
                let _permit = permit;
                told.send(work()).ok();
            })?;
            answer.await.map_err(|_| NoAnswer::Died)
        };
        tokio::time::timeout(patience, answer).await.unwrap_or(Err(NoAnswer::Late(patience)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn secrets_that_hang_take_few_threads_nobody_elses_and_hold_up_no_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let (aside, (begins, begun)) = (Aside::default(), mpsc::channel());
        let (wakes, sleeps) = mpsc::channel::<()>();
        let sleeps = Arc::new(Mutex::new(sleeps));
        runtime.block_on(async {
            for _ in 0..2 * THREADS {
                let (begins, sleeps) = (begins.clone(), Arc::clone(&sleeps));
                let hang = move || {
                    begins.send(()).ok();
                    sleeps.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
                };
                let answer = aside.run(("acme", SOON), hang).await;
                assert!(matches!(answer, Err(NoAnswer::Late(SOON))), "{answer:?}");
            }
            assert_eq!(aside.run(("beta", LATE), || 7).await.expect("beta's answers"), 7);
        });
        (0..THREADS).for_each(|_| begun.recv_timeout(LATE).expect("a thread that hangs"));
        assert!(begun.try_recv().is_err(), "and no more of them");
        // Waits for its own threads, which is for ever if one of them hangs.
        drop(runtime);
        drop(wakes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            assert_eq!(aside.run(("acme", LATE), || 8).await.expect("it answers again"), 8);
            let answer = aside.run(("acme", LATE), || panic!("as asked")).await;
            assert!(matches!(answer, Err(NoAnswer::Died)), "{answer:?}");
        });
    }
}
