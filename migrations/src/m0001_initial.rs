//! The first schema: tenants, DAG versions, runs, task instances, attempts, events, artifacts, models.
//!
//! What can not be added cheaply later is here from the start: the tenant in every key, generation,
//! epoch, session, incarnation, operation ids, the digest of the DAG version, the seed, append-only
//! attempts and events. Instants are microseconds since 1970 (BIGINT), documents are JSON (TEXT),
//! an `element` of -1 is a task without a matrix. `version` counts the events of a row: the next
//! event's `seq`, so that each row's events have no gap, without a counter that all rows share.

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
        for table in TABLES.iter().rev() {
            manager.get_connection().execute_unprepared(&format!("DROP TABLE {table}")).await?;
        }
        Ok(())
    }
}

const TABLES: &[&str] = &[
    "installation",
    "tenant",
    "pool",
    "dag_version",
    "document",
    "run",
    "run_document",
    "task_instance",
    "attempt",
    "event",
    "artifact",
    "attempt_input",
    "worker_session",
    "operation",
    "model_version",
    "model_decision",
];

const UP: &[&str] = &[
    // One row per fact about this database; `incarnation` fences whole restored worlds.
    "CREATE TABLE installation (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    "INSERT INTO installation (name, value) VALUES ('incarnation', '1')",
    "CREATE TABLE tenant (
        tenant TEXT NOT NULL PRIMARY KEY,
        status TEXT NOT NULL,
        weight DOUBLE PRECISION NOT NULL,
        quotas TEXT NOT NULL,
        running_tasks BIGINT,
        parameters TEXT NOT NULL,
        updated_at BIGINT NOT NULL
    )",
    // Slots that tasks of a name share; without a row here there is no limit.
    "CREATE TABLE pool (pool TEXT NOT NULL PRIMARY KEY, slots BIGINT NOT NULL)",
    // Shared by all tenants, as the DAG files are: content-addressed and immutable.
    "CREATE TABLE dag_version (
        digest TEXT NOT NULL PRIMARY KEY,
        dag TEXT NOT NULL,
        source TEXT NOT NULL,
        created_at BIGINT NOT NULL
    )",
    "CREATE TABLE document (digest TEXT NOT NULL PRIMARY KEY, content TEXT NOT NULL)",
    "CREATE TABLE run (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        dag TEXT NOT NULL,
        dag_version TEXT NOT NULL REFERENCES dag_version (digest),
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        version BIGINT NOT NULL,
        incarnation BIGINT NOT NULL,
        seed BIGINT NOT NULL,
        params TEXT NOT NULL,
        tenant_params TEXT NOT NULL,
        logical_time BIGINT NOT NULL,
        interval_start BIGINT,
        interval_end BIGINT,
        parent_run TEXT,
        priority BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        started_at BIGINT,
        finished_at BIGINT,
        PRIMARY KEY (tenant, run)
    )",
    // P7: at most one run per (tenant, DAG, logical time) of a schedule.
    "CREATE UNIQUE INDEX run_scheduled_once ON run (tenant, dag, logical_time) WHERE kind = 'scheduled'",
    "CREATE INDEX run_recent ON run (tenant, created_at)",
    // Which documents a run is pinned to: the contract, suite or gate that a parameter names.
    "CREATE TABLE run_document (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        param TEXT NOT NULL,
        path TEXT NOT NULL,
        digest TEXT NOT NULL REFERENCES document (digest),
        PRIMARY KEY (tenant, run, task, element, param)
    )",
    "CREATE TABLE task_instance (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        generation BIGINT NOT NULL,
        current BOOLEAN NOT NULL,
        ordinal BIGINT NOT NULL,
        dag TEXT NOT NULL,
        state TEXT NOT NULL,
        version BIGINT NOT NULL,
        incarnation BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        session TEXT,
        attempts BIGINT NOT NULL,
        failures BIGINT NOT NULL,
        losses BIGINT NOT NULL,
        seed BIGINT NOT NULL,
        priority BIGINT NOT NULL,
        pool TEXT,
        up_total BIGINT NOT NULL,
        up_succeeded BIGINT NOT NULL,
        up_failed BIGINT NOT NULL,
        up_upstream_failed BIGINT NOT NULL,
        up_skipped BIGINT NOT NULL,
        not_before BIGINT,
        ready_at BIGINT,
        started_at BIGINT,
        finished_at BIGINT,
        outputs TEXT,
        reason TEXT,
        item TEXT,
        queue_limit BIGINT,
        total_limit BIGINT,
        queue_by BIGINT,
        end_by BIGINT,
        PRIMARY KEY (tenant, run, task, element, generation)
    )",
    "CREATE INDEX task_instance_ready ON task_instance (tenant, priority DESC, ready_at, run, ordinal) WHERE state = 'ready'",
    "CREATE INDEX task_instance_retry ON task_instance (not_before) WHERE state = 'retry_wait'",
    "CREATE INDEX task_instance_held ON task_instance (session) WHERE state = 'running'",
    // What has waited too long.
    "CREATE INDEX task_instance_queue_by ON task_instance (queue_by) WHERE state = 'ready' AND queue_by IS NOT NULL",
    "CREATE INDEX task_instance_end_by ON task_instance (end_by) WHERE state IN ('ready', 'retry_wait') AND end_by IS NOT NULL",
    // Elements of a fan-out that wait for others to end.
    "CREATE INDEX task_instance_held_back ON task_instance (tenant, run, task, element) WHERE state = 'waiting' AND element > 0",
    // Slots in use, of tenants and of pools.
    "CREATE INDEX task_instance_slots ON task_instance (tenant) WHERE state = 'running'",
    "CREATE INDEX task_instance_pool ON task_instance (pool) WHERE state = 'running' AND pool IS NOT NULL",
    // Whether a run is over, and how, without a count of its tasks.
    "CREATE INDEX task_instance_open ON task_instance (tenant, run) WHERE current AND state IN ('waiting', 'ready', 'running', 'retry_wait')",
    "CREATE INDEX task_instance_bad ON task_instance (tenant, run) WHERE current AND state IN ('failed', 'upstream_failed', 'quarantined')",
    "CREATE INDEX run_open ON run (state) WHERE state IN ('queued', 'running', 'canceling')",
    "CREATE TABLE attempt (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        generation BIGINT NOT NULL,
        attempt BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        session TEXT NOT NULL,
        state TEXT NOT NULL,
        started_at BIGINT NOT NULL,
        finished_at BIGINT,
        error_class TEXT,
        message TEXT,
        PRIMARY KEY (tenant, run, task, element, generation, attempt)
    )",
    // task = '' (element -1, generation 0) is the run itself.
    "CREATE TABLE event (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        generation BIGINT NOT NULL,
        seq BIGINT NOT NULL,
        at BIGINT NOT NULL,
        event TEXT NOT NULL,
        state TEXT NOT NULL,
        attempt BIGINT,
        epoch BIGINT,
        session TEXT,
        op_id TEXT NOT NULL,
        detail TEXT,
        PRIMARY KEY (tenant, run, task, element, generation, seq)
    )",
    "CREATE TABLE artifact (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        generation BIGINT NOT NULL,
        name TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        key TEXT NOT NULL,
        digest TEXT NOT NULL,
        bytes BIGINT NOT NULL,
        row_count BIGINT,
        schema_digest TEXT,
        linked_from TEXT,
        created_at BIGINT NOT NULL,
        PRIMARY KEY (tenant, run, task, element, generation, name, epoch)
    )",
    "CREATE INDEX artifact_digest ON artifact (tenant, digest)",
    // Lineage: what each attempt read. What it wrote stands in `artifact`.
    "CREATE TABLE attempt_input (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        generation BIGINT NOT NULL,
        attempt BIGINT NOT NULL,
        key TEXT NOT NULL,
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (tenant, run, task, element, generation, attempt, key)
    )",
    "CREATE INDEX attempt_input_digest ON attempt_input (tenant, digest)",
    "CREATE TABLE worker_session (
        session TEXT NOT NULL PRIMARY KEY,
        incarnation BIGINT NOT NULL,
        kind TEXT NOT NULL,
        pid BIGINT NOT NULL,
        binary_version TEXT NOT NULL,
        started_at BIGINT NOT NULL,
        heartbeat_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        revoked BOOLEAN NOT NULL
    )",
    // Each mutating transaction leaves its id, so that an unknown COMMIT can be looked up.
    "CREATE TABLE operation (op_id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL)",
    "CREATE INDEX operation_at ON operation (at)",
    "CREATE TABLE model_version (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        version BIGINT NOT NULL,
        status TEXT NOT NULL,
        run TEXT NOT NULL,
        artifact TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        PRIMARY KEY (tenant, name, version)
    )",
    "CREATE UNIQUE INDEX model_one_champion ON model_version (tenant, name) WHERE status = 'champion'",
    "CREATE TABLE model_decision (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        seq BIGINT NOT NULL,
        at BIGINT NOT NULL,
        run TEXT NOT NULL,
        promoted BOOLEAN NOT NULL,
        from_version BIGINT,
        to_version BIGINT,
        reason TEXT NOT NULL,
        decision TEXT NOT NULL,
        actor TEXT NOT NULL,
        PRIMARY KEY (tenant, name, seq)
    )",
];
