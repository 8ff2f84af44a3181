//! Memo keys: which task instance computed what `cache = true` may link to again.
//!
//! A row names the generation and the epoch that computed it; it counts only while that generation has
//! succeeded under that epoch, so that a row is never true by itself. Artifacts stay where they are.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(MEMO).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared("DROP TABLE memo").await?;
        Ok(())
    }
}

const MEMO: &str = "CREATE TABLE memo (
    tenant TEXT NOT NULL,
    memo_key TEXT NOT NULL,
    run TEXT NOT NULL,
    task TEXT NOT NULL,
    element BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, memo_key, run, task, element, generation)
)";
