//! Putting a project in force: its DAGs' versions, its tenants, who takes what and when.
//!
//! `serve` does so when it starts, and goes on without what is broken: one bad file must not hold up a
//! night of many tenants. `dag apply` and `tenants apply` refuse what is broken.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use engine::clock::{Clock, SystemClock};
use engine::dag::Dag;
use engine::scheduler::subscribe::{SubscribeError, subscriptions};
use engine::store::{OpenMode, Retired, Store, Subscription};
use engine::tenant::TenantSpec;
use serde_json::json;

use super::Session;
use crate::exit::Failure;

impl Session<'_> {
    /// Puts the whole project in force; what is broken is told and left as it was.
    pub(super) async fn apply_project(&self, store: &Store) -> Result<(), Failure> {
        let (dags, broken) = self.project.all_dags()?;
        let (tenants, bad_tenants) = self.project.all_tenants()?;
        for diagnostics in broken.iter().chain(&bad_tenants) {
            self.output.diagnostics(diagnostics);
            self.output.note(&format!("{} is left out: what was in force before stays so", diagnostics.file));
        }
        let (calendars, now) = (self.project.calendars()?, SystemClock.now());
        let (rows, errors) = subscriptions(&dags, &tenants, &calendars, now);
        for error in &errors {
            self.output.note(&format!("{error}; what was in force before stays so"));
        }
        let mut retired = scope(&tenants, &dags);
        // Where a file can not be read, nobody knows whom it would have named.
        retired.all = broken.is_empty() && bad_tenants.is_empty() && errors.is_empty();
        if !errors.is_empty() {
            retired.tenants.clear();
        }
        store.apply_limits(&tenants, &self.config.pools).await?;
        Ok(store.apply_schedules(&dags, &rows, &retired, now).await?)
    }

    /// Puts DAGs and tenants in force, or nothing if anything of them is broken.
    pub(super) async fn apply_strictly(
        &self,
        store: &Store,
        dags: &[Arc<Dag>],
        tenants: &[TenantSpec],
    ) -> Result<Vec<Subscription>, Failure> {
        let (calendars, now) = (self.project.calendars()?, SystemClock.now());
        let (rows, errors) = subscriptions(dags, tenants, &calendars, now);
        if !errors.is_empty() {
            return Err(misfits(&errors));
        }
        store.apply_limits(tenants, &self.config.pools).await?;
        store.apply_schedules(dags, &rows, &scope(tenants, dags), now).await?;
        Ok(rows)
    }
}

/// What tenants' files and DAGs' files say all about, between them.
fn scope(tenants: &[TenantSpec], dags: &[Arc<Dag>]) -> Retired {
    Retired {
        tenants: tenants.iter().map(|it| it.id.clone()).collect(),
        dags: dags.iter().map(|it| it.id.clone()).collect(),
        all: false,
    }
}

/// Schedules, overrides or calendars that do not fit.
pub(super) fn misfits(errors: &[SubscribeError]) -> Failure {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::usage(all.join("; ")).hint("mend the files named above; nothing was changed")
}

/// `headworks dag apply`
pub(super) async fn dags(session: &Session<'_>, files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let files = if files.is_empty() { session.project.dag_files()? } else { files.to_vec() };
    let mut dags = Vec::new();
    for file in &files {
        dags.push(Arc::new(session.project.dag(&file.display().to_string(), session.output)?));
    }
    let tenants = session.project.tenants()?;
    let store = session.store(OpenMode::Ask).await?;
    let rows = session.apply_strictly(&store, &dags, &tenants).await?;
    let applied: Vec<_> = dags
        .iter()
        .map(|dag| {
            let takers = rows.iter().filter(|row| row.dag == dag.id && row.is_live).count();
            json!({ "dag": dag.id, "dag_version": dag.version.to_string(), "tenants": takers })
        })
        .collect();
    if session.output.is_json() {
        session.output.document(&json!({ "applied": applied }));
        return Ok(ExitCode::SUCCESS);
    }
    for it in &applied {
        let (dag, version) = (it["dag"].as_str().unwrap_or_default(), it["dag_version"].as_str().unwrap_or_default());
        session.output.line(&format!("{dag}: version {version} is in force for {} tenant(s)", it["tenants"]));
    }
    Ok(ExitCode::SUCCESS)
}
