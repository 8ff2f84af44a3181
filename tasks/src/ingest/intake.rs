//! Reads and screens the source on a thread of its own, and hands the rows to DataFusion as a table.
//!
//! What it learns on the way (bad rows, filtered rows, the panel's first and last period) is shared through
//! [`Intake`]. The last period is complete before the first sorted row comes out of the plan, as a sort reads all
//! of its input first; `grid` relies on it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::PartitionStream;
use indexmap::IndexMap;
use tokio_util::sync::CancellationToken;

use super::IngestError;
use super::screen::{self, Screen};
use crate::contract::BadRows;
use crate::source::{Problems, TableReader};

/// Batches between reader and plan: enough to keep both busy, few enough to stay small.
const CHANNEL: usize = 4;

/// What the intake has seen so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Bad rows by code, with places.
    pub(crate) problems: Problems,
    /// Rows that could be read as declared.
    pub(crate) read: u64,
    /// Rows that do not count, by filter.
    pub(crate) filtered: IndexMap<String, u64>,
    /// Rows that went on.
    pub(crate) kept: u64,
    /// First and last period among them, in days since 1970-01-01.
    pub(crate) range: Option<(i32, i32)>,
}

/// The shared view of a running intake.
#[derive(Clone, Default)]
pub(crate) struct Intake {
    seen: Arc<Mutex<Seen>>,
    failure: Arc<Mutex<Option<IngestError>>>,
}

impl Intake {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The panel's last period.
    pub(super) fn last_time(&self) -> Option<i32> {
        self.seen().range.map(|(_, last)| last)
    }

    /// What was seen.
    pub(super) fn take(&self) -> Seen {
        self.seen().clone()
    }

    /// The intake's own failure, which the plan only passed on; else the plan's.
    pub(super) fn verdict(&self, streamed: Result<(), IngestError>, canceled: bool) -> Result<(), IngestError> {
        if canceled {
            return Err(IngestError::Canceled);
        }
        let failure = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        failure.map_or(streamed, Err)
    }

    fn fail(&self, error: IngestError) -> DataFusionError {
        let text = error.to_string();
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
        DataFusionError::Execution(text)
    }
}

/// The work of one intake.
struct Work {
    reader: TableReader,
    screen: Screen,
    bad_rows: BadRows,
    intake: Intake,
    cancel: CancellationToken,
}

/// The screened source as one partition of a table; can be read once.
pub(super) struct IntakeStream {
    schema: SchemaRef,
    work: Mutex<Option<Work>>,
}

impl IntakeStream {
    pub(super) fn new(
        reader: TableReader,
        screen: Screen,
        bad_rows: BadRows,
        (intake, cancel): (Intake, CancellationToken),
    ) -> Self {
        let schema = screen.schema();
        Self { schema, work: Mutex::new(Some(Work { reader, screen, bad_rows, intake, cancel })) }
    }
}

impl fmt::Debug for IntakeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntakeStream")
    }
}

impl PartitionStream for IntakeStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let work = self.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), CHANNEL);
        let sender = builder.tx();
        builder.spawn_blocking(move || {
            let Some(mut work) = work else {
                return Err(DataFusionError::Internal("the source was read twice; a plan may scan it once".into()));
            };
            while let Some(batch) = work.next()? {
                if batch.num_rows() > 0 && sender.blocking_send(Ok(batch)).is_err() {
                    // The plan ended early; its own error is the one to show.
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}

impl Work {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.cancel.is_cancelled() {
            return Err(self.intake.fail(IngestError::Canceled));
        }
        let mut seen = self.intake.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let batch = match self.reader.next(&mut seen.problems) {
            Ok(Some(batch)) => batch,
            Ok(None) if seen.problems.count() > 0 && self.bad_rows == BadRows::Fail => {
                let summary = seen.problems.summary();
                return Err(self.intake.fail(IngestError::Rows(summary)));
            }
            Ok(None) if seen.kept == 0 => {
                let what = format!("no row is left of {} that were read; look at the filters", seen.read);
                return Err(self.intake.fail(IngestError::Rows(what)));
            }
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.intake.fail(error.into())),
        };
        let seen = &mut *seen;
        seen.read = self.reader.rows();
        let screened = self.screen.apply(batch, &mut seen.filtered, &mut seen.problems).map_err(|error| {
            let message = format!("the contract's SQL failed on a row: {}", screen::first_line(&error));
            self.intake.fail(IngestError::Rows(message))
        })?;
        seen.kept += screened.num_rows() as u64;
        if let Some((first, last)) = screen::time_range(&screened) {
            let (low, high) = seen.range.unwrap_or((first, last));
            seen.range = Some((low.min(first), high.max(last)));
        }
        Ok(Some(screened))
    }
}
