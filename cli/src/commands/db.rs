//! `headworks db`: migrate the database, or look at its migrations.

use std::process::ExitCode;

use engine::store::{Migration, OpenMode, Store};
use serde_json::json;

use super::Session;
use crate::args::DbCommand;
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &DbCommand) -> Result<ExitCode, Failure> {
    if matches!(command, DbCommand::Migrate) {
        session.store(OpenMode::Own).await?;
    }
    let migrations = Store::migrations(&session.config.store.url).await?;
    show(session, &migrations);
    Ok(ExitCode::SUCCESS)
}

fn show(session: &Session<'_>, migrations: &[Migration]) {
    if session.output.is_json() {
        let pending = migrations.iter().filter(|it| !it.applied).count();
        session.output.document(&json!({ "migrations": migrations, "pending": pending }));
        return;
    }
    let state = |applied: bool| if applied { "applied" } else { "pending" }.to_owned();
    let rows = migrations.iter().map(|it| vec![it.name.clone(), state(it.applied)]).collect();
    session.output.table(&["migration", "state"], rows);
}
