//! `headworks models`: versions with their figures, the decisions about them, and the champion that people choose.

use std::process::ExitCode;

use engine::id::{ModelName, TenantId};
use engine::registry::ModelStatus;
use engine::store::{Change, ModelRow, Moved, OpenMode, Store};
use serde_json::{Value, json};

use super::{Session, actor, tenant};
use crate::args::ModelsCommand;
use crate::exit::Failure;
use crate::repair_args::{PromoteArgs, RollbackArgs};

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &ModelsCommand) -> Result<ExitCode, Failure> {
    match command {
        ModelsCommand::List { tenant: whose } => list(session, whose.as_deref()).await?,
        ModelsCommand::Promote(args) => promote(session, args).await?,
        ModelsCommand::Rollback(args) => roll_back(session, args).await?,
        ModelsCommand::Show { name, tenant: whose } => show(session, name, whose.as_deref()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn metrics(row: &ModelRow) -> Value {
    row.version.metadata.get("metrics").cloned().unwrap_or_else(|| json!({}))
}

fn shape(row: &ModelRow) -> Value {
    let it = &row.version;
    json!({
        "name": it.name, "version": it.version, "status": it.status, "tenant": row.tenant,
        "metrics": metrics(row), "run_id": it.run_id.to_string(), "artifact": it.artifact,
    })
}

fn table(session: &Session<'_>, rows: &[ModelRow]) {
    let figure = |row: &ModelRow, name: &str| match metrics(row).get(name).and_then(Value::as_f64) {
        Some(value) => format!("{value:.4}"),
        None => String::new(),
    };
    let lines = rows.iter().map(|row| {
        let it = &row.version;
        let labels = [
            row.tenant.to_string(),
            it.name.to_string(),
            format!("v{}", it.version),
            it.status.as_str().to_owned(),
            it.metadata.get("model").and_then(Value::as_str).unwrap_or_default().to_owned(),
            figure(row, "wape"),
            figure(row, "bias"),
            it.run_id.to_string(),
        ];
        labels.to_vec()
    });
    session.output.table(&["tenant", "name", "version", "status", "model", "wape", "bias", "run"], lines.collect());
}

async fn list(session: &Session<'_>, whose: Option<&str>) -> Result<(), Failure> {
    let store = session.store(OpenMode::Read).await?;
    let rows = store.models(tenant(whose)?.as_ref(), None).await?;
    if session.output.is_json() {
        let models: Vec<_> = rows.iter().map(shape).collect();
        session.output.document(&json!({ "models": models }));
    } else {
        table(session, &rows);
    }
    Ok(())
}

async fn show(session: &Session<'_>, name: &str, whose: Option<&str>) -> Result<(), Failure> {
    let name = ModelName::parse(name).map_err(|error| Failure::usage(error.to_string()))?;
    let store = session.store(OpenMode::Read).await?;
    let rows = store.models(tenant(whose)?.as_ref(), Some(&name)).await?;
    let whose = only_tenant(&rows, &name)?;
    let decisions = store.decisions(&whose, &name).await?;
    if session.output.is_json() {
        let versions: Vec<_> = rows
            .iter()
            .map(|row| {
                let mut version = shape(row);
                if let Some(fields) = version.as_object_mut() {
                    fields.insert("metadata".into(), row.version.metadata.clone());
                }
                version
            })
            .collect();
        let document = json!({ "name": name, "tenant": whose, "versions": versions, "decisions": decisions });
        session.output.document(&document);
        return Ok(());
    }
    table(session, &rows);
    session.output.line("");
    let text = |decision: &Value, key: &str| match decision.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let lines = decisions.iter().map(|it| ["at", "promoted", "reason", "actor"].map(|key| text(it, key)).to_vec());
    session.output.table(&["decided", "promoted", "reason", "by"], lines.collect());
    Ok(())
}

/// What is asked for, against the champion as it is now.
async fn change(store: &Store, (name, whose): (&str, Option<&str>), reason: Option<&str>) -> Result<Change, Failure> {
    let name = ModelName::parse(name).map_err(|error| Failure::usage(error.to_string()))?;
    let rows = store.models(tenant(whose)?.as_ref(), Some(&name)).await?;
    let whose = only_tenant(&rows, &name)?;
    let champion = rows.iter().find(|row| row.version.status == ModelStatus::Champion);
    let reason = reason.unwrap_or("no reason given").to_owned();
    Ok(Change { tenant: whose, expected: champion.map(|row| row.version.version), name, actor: actor(), reason })
}

async fn promote(session: &Session<'_>, args: &PromoteArgs) -> Result<(), Failure> {
    let store = session.asking().await?;
    let change = change(&store, (&args.name, args.tenant.as_deref()), args.reason.as_deref()).await?;
    let moved = store.promote(&change, args.version, args.force).await?;
    tell(session, &change, moved);
    Ok(())
}

async fn roll_back(session: &Session<'_>, args: &RollbackArgs) -> Result<(), Failure> {
    let store = session.asking().await?;
    let change = change(&store, (&args.name, args.tenant.as_deref()), args.reason.as_deref()).await?;
    let moved = store.roll_back(&change).await?;
    tell(session, &change, moved);
    Ok(())
}

fn tell(session: &Session<'_>, change: &Change, moved: Moved) {
    let Change { tenant, name, .. } = change;
    if session.output.is_json() {
        let document = json!({ "name": name, "tenant": tenant, "from": moved.from, "champion": moved.to });
        session.output.document(&document);
        return;
    }
    let before = moved.from.map_or_else(|| "there was none before".to_owned(), |it| format!("it was version {it}"));
    session.output.line(&format!("the champion of {name} of {tenant} is version {}; {before}", moved.to));
}

fn only_tenant(rows: &[ModelRow], name: &ModelName) -> Result<TenantId, Failure> {
    let mut tenants: Vec<_> = rows.iter().map(|row| row.tenant.clone()).collect();
    tenants.dedup();
    match tenants.as_slice() {
        [tenant] => Ok(tenant.clone()),
        [] => {
            Err(Failure::usage(format!("there is no model {name}")).hint("`headworks models list` shows what there is"))
        }
        _ => {
            let list = tenants.iter().map(TenantId::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::usage(format!("several tenants have a model {name}: {list}")).hint("name one with --tenant"))
        }
    }
}
