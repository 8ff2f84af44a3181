//! On SQLite, what grows fastest is kept in its primary key's own tree: one to search and to write for each row,
//! not two. Postgres has no such tables.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::execute;

/// See the module.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        rebuild(manager, " WITHOUT ROWID").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        rebuild(manager, "").await
    }
}

/// Makes the tables anew with their rows.
async fn rebuild(manager: &SchemaManager<'_>, kept: &str) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Sqlite {
        return Ok(());
    }
    for (table, columns) in TABLES {
        let statements = [
            format!("ALTER TABLE {table} RENAME TO {table}_before"),
            format!("CREATE TABLE {table} ({columns}){kept}"),
            format!("INSERT INTO {table} SELECT * FROM {table}_before"),
            format!("DROP TABLE {table}_before"),
        ];
        execute(manager, &statements.each_ref().map(String::as_str)).await?;
    }
    Ok(())
}

const TABLES: [(&str, &str); 2] = [
    (
        "attempt",
        "tenant TEXT NOT NULL,
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
        PRIMARY KEY (tenant, run, task, element, generation, attempt)",
    ),
    (
        "event",
        "tenant TEXT NOT NULL,
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
        PRIMARY KEY (tenant, run, task, element, generation, seq)",
    ),
];
