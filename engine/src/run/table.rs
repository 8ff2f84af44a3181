//! The transition tables: every legal move of a run, a task instance and an attempt, one per line.
//!
//! Read by [`super::transition`] and [`super::is_terminal`]. A state without a line on its left side is
//! terminal; so is one that only a rerun leaves, which a person asks for.

use super::AttemptEvent as AE;
use super::RunEvent as RE;
use super::TaskEvent as TE;
use super::{AttemptEvent, AttemptState, RunEvent, RunState, TaskEvent, TaskState};

/// Runs.
pub const RUN_TABLE: &[(RunState, RunEvent, RunState)] = &[
    (RunState::Queued, RE::Started, RunState::Running),
    (RunState::Queued, RE::CancelRequested, RunState::Canceling),
    (RunState::Running, RE::CancelRequested, RunState::Canceling),
    (RunState::Running, RE::Succeeded, RunState::Succeeded),
    (RunState::Running, RE::Failed, RunState::Failed),
    (RunState::Canceling, RE::Canceled, RunState::Canceled),
    (RunState::Succeeded, RE::RerunRequested, RunState::Running),
    (RunState::Failed, RE::RerunRequested, RunState::Running),
    (RunState::Canceled, RE::RerunRequested, RunState::Running),
];

/// Task instances.
pub const TASK_TABLE: &[(TaskState, TaskEvent, TaskState)] = &[
    (TaskState::Waiting, TE::BecameReady, TaskState::Ready),
    (TaskState::Waiting, TE::Reused, TaskState::Succeeded),
    (TaskState::Waiting, TE::Skipped, TaskState::Skipped),
    (TaskState::Waiting, TE::UpstreamFailed, TaskState::UpstreamFailed),
    (TaskState::Waiting, TE::Failed, TaskState::Failed),
    (TaskState::Waiting, TE::Canceled, TaskState::Canceled),
    (TaskState::Ready, TE::Claimed, TaskState::Running),
    (TaskState::Ready, TE::Failed, TaskState::Failed),
    (TaskState::Ready, TE::Canceled, TaskState::Canceled),
    (TaskState::Running, TE::Succeeded, TaskState::Succeeded),
    (TaskState::Running, TE::RetryScheduled, TaskState::RetryWait),
    (TaskState::Running, TE::Failed, TaskState::Failed),
    (TaskState::Running, TE::Orphaned, TaskState::Ready),
    (TaskState::Running, TE::Quarantined, TaskState::Quarantined),
    (TaskState::Running, TE::Canceled, TaskState::Canceled),
    (TaskState::RetryWait, TE::RetryCameDue, TaskState::Ready),
    (TaskState::RetryWait, TE::Failed, TaskState::Failed),
    (TaskState::RetryWait, TE::Canceled, TaskState::Canceled),
];

/// Attempts.
pub const ATTEMPT_TABLE: &[(AttemptState, AttemptEvent, AttemptState)] = &[
    (AttemptState::Running, AE::Succeeded, AttemptState::Succeeded),
    (AttemptState::Running, AE::Failed, AttemptState::Failed),
    (AttemptState::Running, AE::TimedOut, AttemptState::TimedOut),
    (AttemptState::Running, AE::Lost, AttemptState::Lost),
    (AttemptState::Running, AE::Canceled, AttemptState::Canceled),
    (AttemptState::Running, AE::Superseded, AttemptState::Superseded),
];
