//! How a run stands or went: the JSON document, or the table of its tasks and where its report is.
//!
//! Used by `run`, `retry` and `runs show`. Reads no more of a run than its window asks for.

use engine::artifact::ArtifactStore;
use engine::id::{ArtifactName, RunId, TenantId};
use engine::store::{RunView, Store, Window};

use super::shapes;
use crate::exit::Failure;
use crate::output::Output;

/// The report that a run ends with, if it made one.
const REPORT: &str = "report.html";

/// A run that is to be shown.
pub(super) struct Outcome<'a> {
    pub(super) output: &'a Output,
    pub(super) store: &'a Store,
    pub(super) artifacts: &'a ArtifactStore,
    pub(super) tenant: &'a TenantId,
    pub(super) run: RunId,
}

impl Outcome<'_> {
    /// The JSON document.
    pub(super) async fn document(&self, window: &Window) -> Result<(), Failure> {
        let view = self.store.run_page(self.tenant, self.run, window).await?;
        let report = self.report().await?;
        self.output.document(&shapes::run(&view, window.offset, report.as_deref()));
        Ok(())
    }

    /// The table of its tasks; hands back what was read for it: the instances of small tasks.
    pub(super) async fn table(&self, window: &Window) -> Result<RunView, Failure> {
        let groups = self.store.task_groups(self.tenant, self.run).await?;
        let last = window.offset.saturating_add(window.limit);
        let small = Window { offset: 0, limit: last, elements: Some(shapes::ELEMENTS_LISTED) };
        let view = self.store.run_page(self.tenant, self.run, &small).await?;
        let lines = shapes::task_lines(&groups, &view.tasks);
        let all = lines.len();
        let bound = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let shown: Vec<_> = lines.into_iter().skip(bound(window.offset)).take(bound(window.limit)).collect();
        if shown.len() < all {
            let (first, count) = (window.offset, shown.len());
            self.output.note(&format!("{count} of {all} lines, after the first {first}; --offset {last} goes on"));
        }
        self.output.table(&["task", "state", "attempts", "time", "reason"], shown);
        Ok(view)
    }

    /// Where the report is, if there is one.
    pub(super) async fn report_line(&self) -> Result<(), Failure> {
        if let Some(report) = self.report().await? {
            self.output.line(&format!("\nreport: {report}"));
        }
        Ok(())
    }

    async fn report(&self) -> Result<Option<String>, Failure> {
        let name =
            ArtifactName::parse(REPORT).map_err(|error| Failure::bug("the report's name is not valid", error))?;
        let made = self.store.artifact_named(self.tenant, self.run, &name).await?;
        Ok(made.map(|it| self.artifacts.location(&it.artifact.key)))
    }
}
