//! `headworks artifacts verify`: every object against what its row says, streamed, a page of rows at a time.
//!
//! Reads only. What is wrong is named by run, task and key; nothing is mended, since the evidence stays.

use std::process::ExitCode;

use engine::artifact::{ArtifactError, ArtifactStore, Condition};
use engine::id::TenantId;
use engine::store::{CatalogEntry, CatalogScope, OpenMode, Store};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{Session, tenant};
use crate::exit::Failure;

/// Rows read at a time: a megabyte or so.
const PAGE: u32 = 2_000;
/// Objects read at once: enough to keep a disk or a bucket busy, a few megabytes of buffers.
const AT_ONCE: usize = 8;

/// An object that is not as it was published.
struct Problem {
    entry: CatalogEntry,
    text: String,
}

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, run: Option<&str>, whose: Option<&str>) -> Result<ExitCode, Failure> {
    let store = session.store(OpenMode::Read).await?;
    let whose = tenant(whose)?;
    let scope = match run {
        Some(run) => {
            let (tenant, run) = store.find_run(run, whose.as_ref()).await?;
            CatalogScope { tenant: Some(tenant), run: Some(run) }
        }
        None => CatalogScope { tenant: whose, run: None },
    };
    let artifacts = ArtifactStore::open(&session.config.artifacts.url)?;
    let (mut checked, mut problems) = (0_u64, Vec::new());
    let mut last: Option<CatalogEntry> = None;
    loop {
        let page = store.catalog_page(&scope, last.as_ref(), PAGE).await?;
        let Some(end) = page.last().cloned() else { break };
        checked += page.len() as u64;
        problems.extend(examine(&store, &artifacts, scope.tenant.as_ref(), page).await?);
        if session.output.is_terminal() {
            session.output.note(&format!("{checked} checked, {} problems", problems.len()));
        }
        last = Some(end);
    }
    tell(session, checked, &problems);
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

/// The problems of a page.
async fn examine(
    store: &Store,
    artifacts: &ArtifactStore,
    whose: Option<&TenantId>,
    page: Vec<CatalogEntry>,
) -> Result<Vec<Problem>, Failure> {
    let looked = stream::iter(page).map(|entry| async move {
        let condition = artifacts.examine(&entry.artifact).await?;
        Ok::<_, ArtifactError>((entry, condition))
    });
    let found: Vec<_> = looked
        .buffered(AT_ONCE)
        .try_filter(|(entry, condition)| std::future::ready(*condition != Condition::Intact || is_foreign(entry)))
        .try_collect()
        .await?;
    let mut problems = Vec::with_capacity(found.len());
    for (entry, condition) in found {
        let text = match condition {
            Condition::Intact => format!("foreign: its key is not one of tenant {}", entry.tenant),
            Condition::Missing => "missing: there is no object under its key".to_owned(),
            Condition::Altered { digest, bytes } => match store.twin_of(whose, digest, &entry.artifact.key).await? {
                Some(twin) => format!("swapped: it holds the bytes of {}", twin.artifact.key),
                None => format!(
                    "altered: {} bytes with digest {} were published, {bytes} bytes with digest {digest} are there",
                    entry.artifact.bytes, entry.artifact.digest
                ),
            },
        };
        problems.push(Problem { entry, text });
    }
    Ok(problems)
}

/// A row that names another tenant's object: no attempt can have written it.
fn is_foreign(entry: &CatalogEntry) -> bool {
    entry.artifact.key.split('/').next() != Some(entry.tenant.as_str())
}

fn tell(session: &Session<'_>, checked: u64, problems: &[Problem]) {
    let output = session.output;
    if output.is_json() {
        let problems: Vec<_> = problems.iter().map(problem).collect();
        output.document(&json!({ "checked": checked, "problems": problems }));
        return;
    }
    for Problem { entry, text } in problems {
        let (run, instance, name) = (entry.run, &entry.instance, &entry.artifact.name);
        output.line(&format!("run {run}, {instance}, {name}: {text}\n  {}", entry.artifact.key));
    }
    output.line(&format!("{checked} artifact(s) checked, {} problem(s)", problems.len()));
}

fn problem(it: &Problem) -> Value {
    let entry = &it.entry;
    json!({
        "run_id": entry.run.to_string(), "tenant": entry.tenant, "task": entry.instance.task,
        "index": entry.instance.index, "name": entry.artifact.name, "key": entry.artifact.key, "problem": it.text,
    })
}
