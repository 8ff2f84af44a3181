//! Drills: the faults that a run is pinned to, those that were injected, and what drills came to.
//!
//! `run.faults` is set for runs of kind `drill` alone. A row of `drill_fault` is written before its fault is
//! injected. A row of `drill` is a drill's evidence, whole, as one JSON document.

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
    "ALTER TABLE run ADD COLUMN faults TEXT",
    "CREATE TABLE drill_fault (
        tenant TEXT NOT NULL,
        run TEXT NOT NULL,
        task TEXT NOT NULL,
        element BIGINT NOT NULL,
        attempt BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        ordinal BIGINT NOT NULL,
        at BIGINT NOT NULL,
        fault TEXT NOT NULL,
        PRIMARY KEY (tenant, run, task, element, attempt, epoch, ordinal)
    )",
    "CREATE TABLE drill (
        drill TEXT NOT NULL,
        id TEXT NOT NULL,
        verdict TEXT NOT NULL,
        started_at BIGINT NOT NULL,
        finished_at BIGINT NOT NULL,
        evidence TEXT NOT NULL,
        PRIMARY KEY (id)
    )",
    "CREATE INDEX drill_recent ON drill (started_at)",
];

const DOWN: &[&str] = &["DROP TABLE drill", "DROP TABLE drill_fault", "ALTER TABLE run DROP COLUMN faults"];
