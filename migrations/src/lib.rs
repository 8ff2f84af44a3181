//! The database's schema, as a list of migrations that only grows.
//!
//! Called by `engine::store` when it opens a database and by `headworks db`. The statements are
//! plain SQL that SQLite and Postgres both read: one schema, not two. A migration that has been
//! released is never edited; a new one is appended to [`Migrator::migrations`].

mod m0001_initial;
mod m0002_schedules;
mod m0003_memo;
mod m0004_drills;
mod m0005_lookups;
mod m0006_clustered;

use sea_orm_migration::prelude::*;

pub use sea_orm_migration::MigratorTrait;

/// Applies and reports migrations.
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_initial::Migration),
            Box::new(m0002_schedules::Migration),
            Box::new(m0003_memo::Migration),
            Box::new(m0004_drills::Migration),
            Box::new(m0005_lookups::Migration),
            Box::new(m0006_clustered::Migration),
        ]
    }
}

/// Executes statements, one after the other.
async fn execute(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    for sql in statements {
        manager.get_connection().execute_unprepared(sql).await?;
    }
    Ok(())
}
