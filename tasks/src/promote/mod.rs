//! The `promote` kind: puts the best candidate through the gate and asks the registry for what follows.
//!
//! Reads the evaluation and the saved models, publishes `promotion_decision.json` whichever way it went.
//! The rules are the gate's; the swap is the store's, in the transaction that finishes the attempt.
//! A refusal is a result, not a failure: the task succeeds.

use async_trait::async_trait;
use engine::artifact::ArtifactRef;
use engine::dag::{InputSpec, OutputSpec, ParamProblem};
use engine::id::{Digest, ModelName};
use engine::registry::{ModelVersion, RegistryChange, RegistryError};
use engine::task::{ErrorClass, Task, TaskContext, TaskError, TaskOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::evaluate::{Evaluation, check_registry_name, default_registry_name, error_chain, recipes, registry_name};
use crate::gate::{Champion, Decision, GateContext, GateThresholds, candidate, decide};
use crate::port;

/// Of the metadata of a registered version.
const METADATA_VERSION: u32 = 1;

/// Parameters of `promote`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteParams {
    /// The gate document: `dags/gates/<gate>.toml`.
    pub gate: String,
    /// The model's name in the registry; the same as on evaluate.
    #[serde(default = "default_registry_name")]
    pub registry_name: String,
}

/// The `promote` kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Promote;

/// The candidate's saved bytes and what they were made by.
struct Saved {
    artifact: ArtifactRef,
    card: ArtifactRef,
    recipe_digest: Digest,
}

#[async_trait]
impl Task for Promote {
    type Params = PromoteParams;

    const KIND: &'static str = "promote";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Make the best candidate the champion, if every rule of the gate holds";
    const DOCUMENTS: &'static [(&'static str, &'static str)] = &[("gate", "gates")];

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        vec![
            port::one("evaluation.json"),
            port::optional(port::many("model.json")),
            port::optional(port::many("model.bin")),
        ]
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        vec![port::made("promotion_decision.json", "Figures, thresholds, verdicts and the reason")]
    }

    fn check(params: &Self::Params) -> Vec<ParamProblem> {
        check_registry_name(&params.registry_name).into_iter().collect()
    }

    async fn run(&self, context: &TaskContext, params: Self::Params) -> Result<TaskOutput, TaskError> {
        let thresholds = GateThresholds::parse(context.document("gate")?).map_err(|source| {
            TaskError::permanent_from(ErrorClass::Validation, format!("dags/gates/{}.toml", params.gate), source)
        })?;
        let name = registry_name(&params.registry_name)?;
        let evaluation: Evaluation = context.fetch_json(context.input("evaluation.json")?).await?;
        let champion = champion_of(context.registry().champion(&name).await);
        let saved = match candidate(&evaluation, &thresholds, &champion) {
            Some(model) => saved(context, &evaluation, model).await?,
            None => None,
        };
        let case = GateContext {
            name: name.to_string(),
            champion,
            candidate_artifact: saved.as_ref().map(|saved| saved.artifact.digest),
        };
        let decision = decide(&evaluation, &thresholds, &case);
        context.publish_json("promotion_decision.json", &decision).await?;
        let registry = changes(context, &name, &decision, saved.as_ref(), &evaluation)?;
        Ok(TaskOutput { outputs: outputs(&decision), registry })
    }
}

/// What the gate has to know of what the registry said.
fn champion_of(read: Result<Option<ModelVersion>, RegistryError>) -> Champion {
    match read {
        Ok(None) => Champion::Absent,
        Ok(Some(version)) => Champion::Present(version.version),
        Err(error) => Champion::Unreadable(error_chain(&error)),
    }
}

/// The bytes of the candidate, made by the element whose recipe was evaluated under its name.
async fn saved(context: &TaskContext, evaluation: &Evaluation, model: &str) -> Result<Option<Saved>, TaskError> {
    let ranked = evaluation.ranking.iter().find(|ranked| ranked.model == model);
    let Some(digest) = ranked.and_then(|ranked| ranked.recipe_digest) else { return Ok(None) };
    let Some(made) = recipes(context).await?.into_iter().find(|recipe| recipe.digest == digest) else {
        return Ok(None);
    };
    let of = |name: &str| {
        let inputs = context.inputs(name).into_iter();
        inputs.filter(|input| input.producer == made.producer).map(|input| input.artifact.clone()).next()
    };
    Ok(of("model.bin").zip(of("model.json")).map(|(artifact, card)| Saved { artifact, card, recipe_digest: digest }))
}

/// The candidate is registered also when it is refused, so that a decision can be looked into later.
fn changes(
    context: &TaskContext,
    name: &ModelName,
    decision: &Decision,
    saved: Option<&Saved>,
    evaluation: &Evaluation,
) -> Result<Vec<RegistryChange>, TaskError> {
    let mut changes = Vec::new();
    if let Some(saved) = saved {
        changes.push(RegistryChange::Register {
            name: name.clone(),
            artifact: saved.artifact.clone(),
            metadata: metadata(context, decision, saved, evaluation),
        });
    }
    changes.push(RegistryChange::Decide {
        name: name.clone(),
        promoted: decision.promoted,
        reason: decision.reason.clone(),
        decision: serde_json::to_value(decision).map_err(|source| {
            TaskError::permanent_from(ErrorClass::System, "a decision could not be written as JSON", source)
        })?,
    });
    if decision.promoted {
        changes.push(RegistryChange::Promote { name: name.clone(), expected: decision.from_version });
    }
    Ok(changes)
}

/// What the registry keeps of a version. `recipe` is what a later evaluation refits.
fn metadata(context: &TaskContext, decision: &Decision, saved: &Saved, evaluation: &Evaluation) -> Value {
    let ranked = evaluation.ranking.iter().find(|ranked| Some(&ranked.model) == decision.candidate.as_ref());
    json!({
        "format_version": METADATA_VERSION,
        "model": decision.candidate,
        "recipe": ranked.and_then(|ranked| ranked.recipe.as_ref()),
        "recipe_digest": saved.recipe_digest,
        "metrics": decision.figures.candidate,
        "horizon": evaluation.horizon,
        "origins": evaluation.origins,
        "card": saved.card,
        "run": context.facts(),
    })
}

/// What other tasks' templates and the CLI see.
fn outputs(decision: &Decision) -> Value {
    json!({
        "promoted": decision.promoted,
        "reason": decision.reason,
        "model": decision.candidate,
        "name": decision.name,
        "from": decision.from_version,
        "to": decision.to,
    })
}

#[cfg(test)]
mod tests {
    use testkit::{Done, TaskBench};

    use super::*;
    use crate::evaluate::Evaluate;
    use crate::evaluate::tests::{bench, champion};

    const GATE: &str = include_str!("../../../dags/gates/demand_default.toml");

    /// Evaluates, then promotes, as a DAG would.
    async fn promoted(bench: &mut TaskBench) -> Done {
        let evaluated = bench.run(Evaluate, json!({})).await.expect("evaluated");
        bench.input_done("evaluate", &evaluated).document("gate", GATE);
        bench.run(Promote, json!({ "gate": "demand_default" })).await.expect("a decision, whichever way")
    }

    fn decision(done: &Done) -> Decision {
        serde_json::from_str(&done.text("promotion_decision.json")).expect("a decision")
    }

    fn registered(done: &Done) -> Value {
        match &done.output.registry[0] {
            RegistryChange::Register { metadata, .. } => metadata.clone(),
            other => panic!("not registered first: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_first_champion_is_registered_decided_and_promoted() {
        let mut bench = bench(1.02).await;
        let done = promoted(&mut bench).await;
        let decision = decision(&done);
        assert!(decision.promoted, "{}", decision.reason);
        let [RegistryChange::Register { artifact, .. }, RegistryChange::Decide { promoted: true, .. }, promote] =
            &done.output.registry[..]
        else {
            panic!("{:?}", done.output.registry);
        };
        assert!(matches!(promote, RegistryChange::Promote { expected: None, .. }));
        let own = bench.context().inputs("model.bin")[2].artifact.clone();
        assert_eq!(*artifact, own, "the bytes of the element that trained gbdt");
        assert_eq!(decision.to.as_ref().and_then(|to| to.artifact), Some(own.digest));
        assert_eq!(done.output.outputs["promoted"], true);
        assert_eq!(registered(&done)["metrics"]["wape"], json!(decision.figures.candidate.and_then(|f| f.wape)));
    }

    #[tokio::test]
    async fn the_next_run_compares_with_what_was_registered() {
        let metadata = registered(&promoted(&mut bench(1.02).await).await);
        let mut next = bench(1.02).await;
        next.model(champion(metadata));
        let done = promoted(&mut next).await;
        let decision = decision(&done);
        assert_eq!((decision.promoted, decision.from_version), (false, Some(7)));
        let failed: Vec<_> = decision.checks.iter().filter(|check| !check.passed).map(|c| c.name.as_str()).collect();
        assert_eq!(failed, ["wape_vs_champion"], "{}", decision.reason);
        assert!(decision.reason.contains("own recipe"));
        assert!(matches!(done.output.registry[..], [RegistryChange::Register { .. }, RegistryChange::Decide { .. }]));
    }

    #[tokio::test]
    async fn a_better_recipe_replaces_the_champion_that_was_read() {
        let mut bench = bench(1.02).await;
        let baseline = json!({ "model": "seasonal_naive", "horizon": 7, "features_digest": Digest::of(b"rules") });
        bench.model(champion(json!({ "recipe": baseline })));
        let done = promoted(&mut bench).await;
        assert!(matches!(done.output.registry[2], RegistryChange::Promote { expected: Some(7), .. }));
    }

    #[tokio::test]
    async fn a_bad_or_unjudged_case_is_refused_and_the_task_succeeds() {
        let mut biased = bench(1.2).await;
        let reason = decision(&promoted(&mut biased).await).reason;
        assert!(reason.contains("absolute bias 0.2000 is above 0.1000"), "{reason}");
        let mut unknown = bench(1.02).await;
        unknown.model(champion(json!({ "recipe": null })));
        let done = promoted(&mut unknown).await;
        assert!(decision(&done).reason.contains("could not be compared"));
        assert_eq!(done.output.outputs["promoted"], false);
    }

    #[tokio::test]
    async fn a_champion_that_came_after_the_evaluation_is_not_replaced() {
        let mut bench = bench(1.02).await;
        let evaluated = bench.run(Evaluate, json!({})).await.expect("evaluated");
        bench.input_done("evaluate", &evaluated).document("gate", GATE).model(champion(json!({})));
        let done = bench.run(Promote, json!({ "gate": "demand_default" })).await.expect("a decision");
        assert!(decision(&done).reason.contains("changed since the evaluation: none then, version 7 now"));
    }

    #[tokio::test]
    async fn a_gate_document_that_is_not_whole_fails_the_task() {
        let mut bench = bench(1.02).await;
        let evaluated = bench.run(Evaluate, json!({})).await.expect("evaluated");
        bench.input_done("evaluate", &evaluated).document("gate", "format_version = 1");
        let error = bench.run(Promote, json!({ "gate": "demand_default" })).await.err();
        assert!(matches!(error, Some(TaskError::Permanent { class: ErrorClass::Validation, .. })), "{error:?}");
    }

    #[test]
    fn a_registry_that_does_not_answer_is_no_missing_champion() {
        let champion = champion_of(Err(RegistryError("connection refused".into())));
        assert_eq!(champion, Champion::Unreadable("can not read the model registry: connection refused".into()));
    }
}
