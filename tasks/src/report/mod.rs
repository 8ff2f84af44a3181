//! The `report` kind: one HTML file per run that opens offline and says what happened and why.
//!
//! Registered with the other kinds; reads what upstreams left, all of it optional, so that a run whose
//! training or gate failed gets its report, too. It decides nothing and computes no figure of record.

mod backtest;
mod documents;
mod figure;
mod gather;
mod material;
mod number;
mod page;
mod render;
mod sample;
mod sections;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use engine::dag::{InputSpec, OutputSpec, ParamProblem};
use engine::id::ArtifactName;
use engine::task::{Task, TaskContext, TaskError, TaskOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The artifact.
const OUTPUT: &str = "report.html";
/// Above this the page is a catalog, and browsers begin to crawl.
const MAX_SERIES: usize = 24;

/// `with` of the `report` kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportParams {
    /// Heading of the page; by default it names the DAG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How many series are drawn one by one, 1 to 24: the extremes and the middle of the portfolio.
    #[serde(default = "default_series")]
    pub series: usize,
}

/// Two columns of four: fits two screens, and shows each extreme once.
fn default_series() -> usize {
    8
}

/// The `report` kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReportTask;

#[async_trait]
impl Task for ReportTask {
    type Params = ReportParams;

    const KIND: &'static str = "report";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "One self-contained HTML report of the run";
    // The page's own key, which has the run's id in it.
    const VOLATILE: &'static [&'static str] = &["report"];

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        gather::INPUTS
            .iter()
            .map(|(name, ..)| InputSpec { name: artifact_name(name), many: true, optional: true })
            .collect()
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        vec![OutputSpec { name: artifact_name(OUTPUT), summary: "the report; opens offline".to_owned() }]
    }

    fn check(params: &ReportParams) -> Vec<ParamProblem> {
        if (1..=MAX_SERIES).contains(&params.series) {
            return Vec::new();
        }
        vec![ParamProblem {
            path: vec!["series".to_owned()],
            message: format!("{} series can not be drawn", params.series),
            help: Some(format!("use 1 to {MAX_SERIES}")),
        }]
    }

    async fn run(&self, context: &TaskContext, params: ReportParams) -> Result<TaskOutput, TaskError> {
        let fetched = gather::fetch(context, &params).await?;
        context.check_canceled()?;
        let series = params.series;
        let (html, gaps) = tokio::task::spawn_blocking(move || {
            let material = fetched.finish(series);
            render::html(&sections::page(&material)).map(|html| (html, material.gaps.len()))
        })
        .await
        .map_err(gather::bug)?
        .map_err(gather::bug)?;
        context.check_canceled()?;
        let artifact = context.publish_bytes(OUTPUT, html).await?;
        Ok(TaskOutput::new(json!({ "report": artifact.key, "bytes": artifact.bytes, "gaps": gaps })))
    }
}

fn artifact_name(name: &str) -> ArtifactName {
    ArtifactName::parse(name).expect("a constant of this module that keeps to the rule")
}
