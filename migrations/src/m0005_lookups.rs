//! Indexes of what is looked up when old runs go: by the key of an object, and by the run that is named.

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
    "CREATE INDEX artifact_key ON artifact (tenant, key)",
    "CREATE INDEX memo_run ON memo (tenant, run)",
    "CREATE INDEX trigger_use_source ON trigger_use (tenant, source_run)",
    "CREATE INDEX model_version_run ON model_version (tenant, run)",
];

const DOWN: &[&str] = &[
    "DROP INDEX model_version_run",
    "DROP INDEX trigger_use_source",
    "DROP INDEX memo_run",
    "DROP INDEX artifact_key",
];
