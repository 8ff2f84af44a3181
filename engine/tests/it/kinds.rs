//! A catalog of task kinds for tests: the pipeline's names, inputs and outputs, without their work.

use std::collections::BTreeMap;

use headworks_engine::dag::{DependsOn, InputSpec, Isolation, KindCatalog, KindInfo, OutputSpec, ParamProblem};
use headworks_engine::id::ArtifactName;
use serde_json::{Value, json};

/// Every kind of the sample pipeline, and `work`, whose inputs and outputs stand in `with`.
pub struct TestKinds(BTreeMap<&'static str, KindInfo>);

impl KindCatalog for TestKinds {
    fn kind(&self, name: &str) -> Option<&KindInfo> {
        self.0.get(name)
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().copied().collect()
    }
}

pub fn test_kinds() -> TestKinds {
    let text = json!({"type": "string"});
    let count = json!({"type": "integer", "minimum": 1, "maximum": 365});
    let counts = json!({"type": "array", "items": {"type": "integer", "minimum": 1}});
    let names = json!({"type": "array", "items": {"type": "string"}});
    let model = json!({"enum": ["seasonal_naive", "weekday_mean", "gbdt"]});
    let mut kinds = BTreeMap::new();
    let mut add = |name, required: &[&str], properties: Value, (inputs, outputs): Ports| {
        let params = json!({
            "type": "object", "additionalProperties": false, "required": required, "properties": properties
        });
        let check = match name {
            "features" => check_features,
            "ingest" => check_ingest,
            _ => |_: &Value| Vec::new(),
        };
        kinds.insert(
            name,
            KindInfo {
                name,
                code_version: 1,
                summary: "a kind for tests",
                params,
                check,
                inputs,
                outputs,
                documents: &[],
                secrets: if name == "ingest" { &["password"] } else { &[] },
                does_io: name == "ingest",
                isolation: if name == "train" { Isolation::Process } else { Isolation::Inline },
                depends_on: if name == "ingest" { DependsOn::Outside } else { DependsOn::Inputs },
                volatile: &[],
            },
        );
    };
    add("ingest", &["source"], json!({"source": text, "contract": text, "password": text}), INGEST);
    add("validate", &["suite"], json!({"suite": text, "on_failure": {"enum": ["fail", "warn"]}}), VALIDATE);
    add("features", &["horizon"], json!({"horizon": count, "lags": counts, "rolling": counts}), FEATURES);
    add("train", &["model", "horizon"], json!({"model": model, "horizon": count, "windows": count}), TRAIN);
    add("evaluate", &[], json!({"windows": count}), EVALUATE);
    add("promote", &["gate"], json!({"gate": text}), PROMOTE);
    add("report", &[], json!({"title": text}), REPORT);
    add("work", &[], json!({"reads": names, "reads_many": names, "makes": names, "note": true}), WORK);
    TestKinds(kinds)
}

type Ports = (fn(&Value) -> Vec<InputSpec>, fn(&Value) -> Vec<OutputSpec>);

const INGEST: Ports = (|_| Vec::new(), |_| makes(&["panel.parquet", "canonical_schema_snapshot.json"]));
const VALIDATE: Ports = (|_| one(&["panel.parquet"]), |_| makes(&["panel.parquet", "validation_result.json"]));
const FEATURES: Ports =
    (|_| one(&["panel.parquet", "canonical_schema_snapshot.json"]), |_| makes(&["features.parquet", "features.json"]));
const TRAIN: Ports =
    (|_| one(&["features.parquet", "features.json"]), |_| makes(&["backtest.parquet", "model.bin", "model.json"]));
const EVALUATE: Ports = (
    |_| {
        [many(&["backtest.parquet", "model.json"], false), many(&["model.bin"], true), one(&["features.json"])].concat()
    },
    |_| makes(&["metrics.json", "evaluation.json"]),
);
const PROMOTE: Ports = (
    |_| [one(&["evaluation.json"]), many(&["model.json", "model.bin"], false)].concat(),
    |_| makes(&["promotion_decision.json"]),
);
const REPORT: Ports = (
    |_| many(&["metrics.json", "evaluation.json", "promotion_decision.json", "model.json"], true),
    |_| makes(&["report.html"]),
);
const WORK: Ports = (
    |with| {
        let mut inputs = specs(&listed(with, "reads"), false, false);
        inputs.extend(specs(&listed(with, "reads_many"), true, false));
        inputs
    },
    |with| makes(&listed(with, "makes")),
);

fn listed<'v>(with: &'v Value, key: &str) -> Vec<&'v str> {
    with[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn specs(names: &[&str], many: bool, optional: bool) -> Vec<InputSpec> {
    let names = names.iter().filter_map(|name| ArtifactName::parse(name).ok());
    names.map(|name| InputSpec { name, many, optional }).collect()
}

fn one(names: &[&str]) -> Vec<InputSpec> {
    specs(names, false, false)
}

fn many(names: &[&str], optional: bool) -> Vec<InputSpec> {
    specs(names, true, optional)
}

fn makes(names: &[&str]) -> Vec<OutputSpec> {
    let names = names.iter().filter_map(|name| ArtifactName::parse(name).ok());
    names.map(|name| OutputSpec { name, summary: "for tests".to_owned() }).collect()
}

fn check_ingest(with: &Value) -> Vec<ParamProblem> {
    let is_pattern = with["source"].as_str().is_some_and(|source| source.contains('*'));
    let problem = || ParamProblem { path: vec!["source".into()], message: "is a pattern".into(), help: None };
    is_pattern.then(problem).into_iter().collect()
}

fn check_features(with: &Value) -> Vec<ParamProblem> {
    let horizon = with["horizon"].as_i64().unwrap_or(1);
    let lags = with["lags"].as_array().cloned().unwrap_or_default();
    let short = lags.iter().enumerate().filter(|(_, lag)| lag.as_i64().is_some_and(|lag| lag < horizon));
    short
        .map(|(index, lag)| ParamProblem {
            path: vec!["lags".into(), index.to_string()],
            message: format!("a lag of {lag} looks into the horizon of {horizon}"),
            help: Some("use lags of at least the horizon".into()),
        })
        .collect()
}
