//! Schedules, queued runs, backfills, pauses and alerts.
//!
//! A row of `schedule` is a tenant's subscription to a DAG, with or without a rule. It is also the lock
//! under which runs of that pair come due and are started: whoever holds it counts what is active. A run
//! that waits to start is a row of `run` without task instances, in the order of `queue_rank`.

use sea_orm_migration::prelude::*;

use crate::execute;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, DOWN).await
    }
}

const UP: &[&str] = &[
    "ALTER TABLE run ADD COLUMN backfill TEXT",
    "ALTER TABLE run ADD COLUMN deadline_at BIGINT",
    // A calendar may put a run off: it does not start before.
    "ALTER TABLE run ADD COLUMN start_at BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE tenant ADD COLUMN retention TEXT NOT NULL DEFAULT '{}'",
    // Among the queued runs of one tenant and DAG, the least goes first.
    "ALTER TABLE run ADD COLUMN queue_rank BIGINT NOT NULL DEFAULT 0",
    "CREATE UNIQUE INDEX run_backfilled_once ON run (tenant, backfill, logical_time) WHERE backfill IS NOT NULL",
    "CREATE INDEX run_queued ON run (tenant, dag, queue_rank) WHERE state = 'queued' AND backfill IS NULL",
    "CREATE INDEX run_queued_pair ON run (tenant, dag) WHERE state = 'queued'",
    "CREATE INDEX run_queued_backfill ON run (tenant, backfill, queue_rank) WHERE state = 'queued' AND backfill IS NOT NULL",
    "CREATE INDEX run_active ON run (tenant, dag) WHERE state IN ('running', 'canceling')",
    "CREATE INDEX run_logical ON run (tenant, dag, logical_time)",
    "CREATE INDEX run_succeeded ON run (tenant, dag, finished_at) WHERE state = 'succeeded'",
    "CREATE INDEX run_ended ON run (finished_at) WHERE finished_at IS NOT NULL",
    "CREATE INDEX run_deadline ON run (deadline_at) WHERE deadline_at IS NOT NULL",
    // Among ready tasks of one priority, those of the run with the nearest deadline go first.
    "ALTER TABLE task_instance ADD COLUMN due_by BIGINT NOT NULL DEFAULT 9223372036854775807",
    "DROP INDEX task_instance_ready",
    "CREATE INDEX task_instance_claim ON task_instance (tenant, priority DESC, due_by, ready_at, run, ordinal) WHERE state = 'ready'",
    // The version that new runs of a DAG are pinned to.
    "CREATE TABLE dag (
        dag TEXT NOT NULL PRIMARY KEY,
        dag_version TEXT NOT NULL REFERENCES dag_version (digest),
        applied_at BIGINT NOT NULL
    )",
    "CREATE TABLE schedule (
        tenant TEXT NOT NULL,
        dag TEXT NOT NULL,
        is_live BOOLEAN NOT NULL,
        rule TEXT,
        timing TEXT,
        trigger_on TEXT,
        overlay TEXT NOT NULL,
        max_active BIGINT,
        overlap TEXT NOT NULL,
        since BIGINT NOT NULL,
        last_fire BIGINT,
        next_at BIGINT,
        owed_at BIGINT,
        version BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        PRIMARY KEY (tenant, dag)
    )",
    "CREATE INDEX schedule_due ON schedule (next_at) WHERE next_at IS NOT NULL",
    "CREATE INDEX schedule_of_dag ON schedule (dag)",
    "CREATE INDEX schedule_triggered ON schedule (tenant, dag) WHERE is_live AND trigger_on IS NOT NULL",
    // tenant = '' pauses a DAG for everybody, dag = '' a tenant's every DAG.
    "CREATE TABLE pause (
        dag TEXT NOT NULL,
        tenant TEXT NOT NULL,
        at BIGINT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT,
        PRIMARY KEY (dag, tenant)
    )",
    "CREATE TABLE backfill (
        tenant TEXT NOT NULL,
        backfill TEXT NOT NULL,
        dag TEXT NOT NULL,
        dag_version TEXT NOT NULL REFERENCES dag_version (digest),
        state TEXT NOT NULL,
        range_start BIGINT NOT NULL,
        range_end BIGINT NOT NULL,
        direction TEXT NOT NULL,
        reprocess TEXT NOT NULL,
        params TEXT NOT NULL,
        max_active BIGINT NOT NULL,
        fires TEXT NOT NULL,
        made BIGINT NOT NULL,
        total BIGINT NOT NULL,
        actor TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        finished_at BIGINT,
        PRIMARY KEY (tenant, backfill)
    )",
    "CREATE INDEX backfill_open ON backfill (tenant, dag) WHERE state IN ('running', 'paused')",
    // Which successes and artifacts a triggered run has used up.
    "CREATE TABLE trigger_use (
        tenant TEXT NOT NULL,
        dag TEXT NOT NULL,
        source TEXT NOT NULL,
        source_run TEXT NOT NULL,
        run TEXT,
        at BIGINT NOT NULL,
        PRIMARY KEY (tenant, dag, source, source_run)
    )",
    // What people have to know. `subject` is what it is about: a run, a logical time, a DAG.
    "CREATE TABLE alert (
        tenant TEXT NOT NULL,
        dag TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        run TEXT,
        message TEXT NOT NULL,
        detail TEXT NOT NULL,
        raised_at BIGINT NOT NULL,
        resolved_at BIGINT,
        PRIMARY KEY (tenant, dag, kind, subject)
    )",
    "CREATE INDEX alert_open ON alert (raised_at) WHERE resolved_at IS NULL",
];

const DOWN: &[&str] = &[
    "DROP TABLE alert",
    "DROP TABLE trigger_use",
    "DROP TABLE backfill",
    "DROP TABLE pause",
    "DROP TABLE schedule",
    "DROP TABLE dag",
    "DROP INDEX task_instance_claim",
    "ALTER TABLE task_instance DROP COLUMN due_by",
    "CREATE INDEX task_instance_ready ON task_instance (tenant, priority DESC, ready_at, run, ordinal) WHERE state = 'ready'",
    "DROP INDEX run_deadline",
    "DROP INDEX run_ended",
    "DROP INDEX run_succeeded",
    "DROP INDEX run_logical",
    "DROP INDEX run_active",
    "DROP INDEX run_queued_backfill",
    "DROP INDEX run_queued",
    "DROP INDEX run_queued_pair",
    "DROP INDEX run_backfilled_once",
    "ALTER TABLE tenant DROP COLUMN retention",
    "ALTER TABLE run DROP COLUMN queue_rank",
    "ALTER TABLE run DROP COLUMN start_at",
    "ALTER TABLE run DROP COLUMN deadline_at",
    "ALTER TABLE run DROP COLUMN backfill",
];
