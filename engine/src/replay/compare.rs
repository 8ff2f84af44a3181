//! What a verification found: each task instance that ran again beside the one that it proves.
//!
//! Called by `headworks replay --verify`, after the verification ended. Digests decide; files are read only
//! where digests differ, to say what does. A result that differs although its attempt saw the same is a
//! *suspect*: only a second execution tells a task that is not deterministic from code or an environment
//! that has changed ([`settle`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::ReplayError;
use crate::artifact::{ArtifactError, ArtifactRef, ArtifactStore, Difference, diff, diff_json};
use crate::dag::KindCatalog;
use crate::id::{ArtifactName, Digest, InstanceId};
use crate::plan::{ReplayAction, ReplayStep};
use crate::store::{Origin, OriginInstance, Store, Work, memo_key};
use crate::template::render;

/// What there is to say about a task instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same bytes and outputs came out.
    Identical,
    /// Something else came out, and would again.
    Differs,
    /// Two executions that saw the same came to different results.
    Nondeterministic,
    /// It did not run again.
    Reused,
}

impl Verdict {
    /// The word in JSON and on a terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::Differs => "differs",
            Self::Nondeterministic => "nondeterministic",
            Self::Reused => "reused",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A task instance and its proof.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Which.
    pub instance: InstanceId,
    /// What there is to say.
    pub verdict: Verdict,
    /// In one line, for people.
    pub detail: String,
    /// Artifacts that differ, and how.
    pub artifacts: Vec<ArtifactFinding>,
    /// How its outputs differ.
    pub outputs: Option<Difference>,
    /// It saw what the earlier attempt saw, and still came to something else: a second execution decides.
    pub is_suspect: bool,
}

/// An artifact that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct ArtifactFinding {
    /// Its name.
    pub name: ArtifactName,
    /// How; `None` if only one side has it, or its bytes can not be read.
    pub difference: Option<Difference>,
    /// In one line, for people.
    pub words: String,
}

/// Where the proof is made.
pub struct Proof<'a> {
    /// The store.
    pub store: &'a Store,
    /// The artifact store.
    pub artifacts: &'a ArtifactStore,
    /// The kinds, which say what of their outputs is another in each run.
    pub kinds: &'a dyn KindCatalog,
    /// A folder for copies of artifacts that differ.
    pub scratch: &'a Path,
}

/// Compares a verification (`after`) with the run that it proves, step by step.
///
/// # Errors
/// The store's, or the artifact store's where files are to be compared.
pub async fn compare(
    proof: &Proof<'_>,
    (before, after): (&Origin, &Origin),
    steps: &[ReplayStep],
) -> Result<Vec<Finding>, ReplayError> {
    let mut findings = Vec::with_capacity(steps.len());
    let (earlier, later) = (by_instance(before), by_instance(after));
    for step in steps {
        let finding = match (step.action, earlier.get(&step.instance), later.get(&step.instance)) {
            (ReplayAction::Run, Some(one), Some(two)) => pair(proof, (before, one), (after, two)).await?,
            (ReplayAction::Run, None, _) => differs(&step.instance, "the earlier run has no such task instance"),
            (ReplayAction::Run, _, None) => differs(&step.instance, "the verification has no such task instance"),
            _ => Finding { verdict: Verdict::Reused, ..differs(&step.instance, &step.reason) },
        };
        findings.push(finding);
    }
    Ok(findings)
}

/// Decides about the suspects, by what the second execution of each came to.
pub fn settle(findings: &mut [Finding], (first, second): (&Origin, &Origin), kinds: &dyn KindCatalog) {
    let (ones, twos) = (by_instance(first), by_instance(second));
    for finding in findings.iter_mut().filter(|it| it.is_suspect) {
        let (Some(one), Some(two)) = (ones.get(&finding.instance), twos.get(&finding.instance)) else {
            continue;
        };
        let (is_same, how) = match same(kinds, (first, one), (second, two)) {
            true => (true, "twice over: the code or what it finds around it has changed"),
            false => (false, "and a second time in another way, from the same inputs, parameters and seed"),
        };
        finding.verdict = if is_same { Verdict::Differs } else { Verdict::Nondeterministic };
        finding.detail = format!("{}; {how}", finding.detail);
    }
}

/// Runs may have 100,000 instances: not to be looked for one by one.
fn by_instance(origin: &Origin) -> HashMap<&InstanceId, &OriginInstance> {
    origin.instances.iter().map(|it| (&it.instance, it)).collect()
}

fn differs(instance: &InstanceId, detail: &str) -> Finding {
    Finding {
        instance: instance.clone(),
        verdict: Verdict::Differs,
        detail: detail.to_owned(),
        artifacts: Vec::new(),
        outputs: None,
        is_suspect: false,
    }
}

/// Whether two executions came to the same.
fn same(kinds: &dyn KindCatalog, one: (&Origin, &OriginInstance), two: (&Origin, &OriginInstance)) -> bool {
    one.1.state == two.1.state && digests(one.1) == digests(two.1) && outputs(kinds, one) == outputs(kinds, two)
}

fn digests(it: &OriginInstance) -> BTreeMap<&ArtifactName, Digest> {
    it.artifacts.iter().map(|artifact| (&artifact.name, artifact.digest)).collect()
}

/// The outputs without what the kind says to be another in each run.
fn outputs(kinds: &dyn KindCatalog, (origin, it): (&Origin, &OriginInstance)) -> Value {
    let mut outputs = it.outputs.clone().unwrap_or_default();
    let kind = origin.dag.task(&it.instance.task).and_then(|task| kinds.kind(&task.kind));
    if let (Some(kind), Some(fields)) = (kind, outputs.as_object_mut()) {
        fields.retain(|name, _| !kind.volatile.contains(&name.as_str()));
    }
    outputs
}

async fn pair(
    proof: &Proof<'_>,
    one: (&Origin, &OriginInstance),
    two: (&Origin, &OriginInstance),
) -> Result<Finding, ReplayError> {
    let instance = &one.1.instance;
    if same(proof.kinds, one, two) {
        let count = one.1.artifacts.len();
        let detail =
            format!("{} again, {count} artifact{} and its outputs", one.1.state, if count == 1 { "" } else { "s" });
        return Ok(Finding { verdict: Verdict::Identical, ..differs(instance, &detail) });
    }
    let mut parts = Vec::new();
    if one.1.state != two.1.state {
        let reason = two.1.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        parts.push(format!("{} before, {} now{reason}", one.1.state, two.1.state));
    }
    let artifacts = changed_artifacts(proof, one.1, two.1).await?;
    parts.extend(artifacts.iter().map(|it| format!("{}: {}", it.name, it.words)));
    let (before, after) = (outputs(proof.kinds, one), outputs(proof.kinds, two));
    let outputs = (before != after).then(|| diff_json(&before, &after));
    parts.extend(outputs.iter().map(|it| format!("outputs: {}", it.words())));
    let seen = (sight(proof, one).await?, sight(proof, two).await?);
    let because = other_sight(&seen.0, &seen.1);
    let is_suspect = because.is_none();
    parts.extend(because);
    Ok(Finding { artifacts, outputs, is_suspect, ..differs(instance, &parts.join("; ")) })
}

/// What an attempt saw.
struct Sight {
    /// As one digest; `None` if its parameters do not render.
    key: Option<Digest>,
    work: Work,
}

async fn sight(proof: &Proof<'_>, (origin, it): (&Origin, &OriginInstance)) -> Result<Sight, ReplayError> {
    let work = proof.store.work(&origin.claim(it)).await?;
    let task = work.task()?;
    let with = render(&task.with, &work.scope).ok();
    let key = with.zip(proof.kinds.kind(&task.kind)).map(|(with, kind)| memo_key(kind, &with, &work));
    Ok(Sight { key, work })
}

/// What was different for the second attempt; `None` if it saw the same.
fn other_sight(one: &Sight, two: &Sight) -> Option<String> {
    if one.key.is_some() && one.key == two.key {
        return None;
    }
    let of = |sight: &Sight| -> BTreeSet<(InstanceId, ArtifactName, Digest)> {
        let inputs = sight.work.inputs.iter();
        inputs.map(|it| (it.producer.clone(), it.artifact.name.clone(), it.artifact.digest)).collect()
    };
    let (before, after) = (of(one), of(two));
    let other = after.difference(&before).next().or_else(|| before.difference(&after).next());
    Some(match other {
        Some((producer, name, _)) => format!("it reads {name} of {producer}, which is not the same"),
        None => "its parameters render differently".to_owned(),
    })
}

async fn changed_artifacts(
    proof: &Proof<'_>,
    one: &OriginInstance,
    two: &OriginInstance,
) -> Result<Vec<ArtifactFinding>, ReplayError> {
    let after: BTreeMap<&ArtifactName, &ArtifactRef> = two.artifacts.iter().map(|it| (&it.name, it)).collect();
    let before: BTreeSet<&ArtifactName> = one.artifacts.iter().map(|it| &it.name).collect();
    let mut findings = Vec::new();
    for artifact in &one.artifacts {
        let name = artifact.name.clone();
        match after.get(&name) {
            None => findings.push(ArtifactFinding { name, difference: None, words: "was not made again".into() }),
            Some(other) if other.digest != artifact.digest => findings.push(files(proof, artifact, other).await?),
            Some(_) => {}
        }
    }
    for artifact in two.artifacts.iter().filter(|it| !before.contains(&it.name)) {
        let name = artifact.name.clone();
        findings.push(ArtifactFinding { name, difference: None, words: "was not there before".into() });
    }
    Ok(findings)
}

async fn files(proof: &Proof<'_>, one: &ArtifactRef, two: &ArtifactRef) -> Result<ArtifactFinding, ReplayError> {
    let name = one.name.clone();
    let fetched = async {
        let before = proof.artifacts.fetch(one, proof.scratch).await?;
        let after = proof.artifacts.fetch(two, proof.scratch).await?;
        let text = name.to_string();
        // It reads and compares: not on a thread that others wait for.
        let compared = tokio::task::spawn_blocking(move || diff(&text, &before, &after)).await;
        match compared {
            Ok(compared) => compared,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ArtifactError::file("compare", &one.key)(std::io::ErrorKind::Interrupted.into())),
            },
        }
    };
    match fetched.await {
        Ok(difference) => {
            let words = difference.words();
            Ok(ArtifactFinding { name, difference: Some(difference), words })
        }
        // The digests differ in any case; what was there before can not be shown any more.
        Err(
            error @ (ArtifactError::Integrity { .. } | ArtifactError::Missing { .. } | ArtifactError::Parquet { .. }),
        ) => {
            let words = format!("differs, and can not be compared: {error}");
            Ok(ArtifactFinding { name, difference: None, words })
        }
        Err(error) => Err(error.into()),
    }
}
