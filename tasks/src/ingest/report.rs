//! The account of an ingest: as JSON for programs, as Markdown for the people who own the data.
//!
//! Written in every case; a refusal says why and where. Nothing here decides anything.

use std::fmt::Write;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Value, json};

use super::grid::{Account, Grid, shown_day};
use super::intake::Seen;
use super::policy::{Decisions, Nulls};
use super::{IngestError, Job};
use crate::contract::{PanelType, Policies, Role, SeriesRule};
use crate::source::{Problem, Problems, SourceError, SourceFile};

/// What became of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    #[default]
    Accepted,
    Refused,
    RequiresCustomAdapter,
}

/// Name, version and digest of the contract.
#[derive(Debug, Clone, Default, Serialize)]
struct ContractId {
    name: String,
    version: u32,
    digest: String,
}

/// Rows from the file to the panel.
#[derive(Debug, Clone, Default, Serialize)]
struct Rows {
    /// Rows that could be read as declared, and those that could not.
    read: u64,
    /// ... that could not.
    bad: u64,
    /// Rows that do not count, by filter.
    filtered: IndexMap<String, u64>,
    /// Rows left out as exact duplicates of another.
    exact_duplicates: u64,
    /// Rows behind the panel.
    kept: u64,
}

/// The panel's shape.
#[derive(Debug, Clone, Default, Serialize)]
struct PanelFacts {
    rows: u64,
    series: u64,
    series_excluded: u64,
    excluded_examples: Vec<String>,
    first_time: Option<String>,
    last_time: Option<String>,
}

/// `contract_validation_report.json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    format_version: u32,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    contract: ContractId,
    source: Vec<SourceFile>,
    side_tables: Vec<SourceFile>,
    rows: Rows,
    bad_rows: IndexMap<&'static str, Problem>,
    unknown_columns: Vec<String>,
    notes: Vec<String>,
    policies: Option<Policies>,
    series_rule: SeriesRule,
    decisions: Decisions,
    policy_examples: IndexMap<&'static str, Problem>,
    covariate_nulls: IndexMap<String, Nulls>,
    static_conflicts: IndexMap<String, u64>,
    unmatched: IndexMap<String, u64>,
    panel: PanelFacts,
    #[serde(skip)]
    grid_problems: Problems,
}

impl Report {
    /// Notes what is known before a row is read.
    pub(super) fn job(&mut self, job: &Job) {
        let header = &job.contract.contract;
        self.format_version = 1;
        self.contract = ContractId { name: header.name.clone(), version: header.version, digest: job.digest.clone() };
        self.source.clone_from(&job.files);
        self.policies = Some(job.contract.policies.clone());
        self.series_rule = job.contract.series.clone();
    }

    /// Notes the side tables.
    pub(super) fn sides(&mut self, files: &[SourceFile]) {
        self.side_tables = files.to_vec();
    }

    /// Notes what reading and completing the grid found.
    pub(super) fn rows(&mut self, seen: &Seen, grid: &Grid) {
        let account = &grid.account;
        self.bad_rows.clone_from(seen.problems.found());
        self.unknown_columns = seen.problems.unknown_columns().to_vec();
        self.notes = seen.problems.notes().to_vec();
        self.rows = Rows {
            read: seen.read + seen.problems.count(),
            bad: seen.problems.count(),
            filtered: seen.filtered.clone(),
            exact_duplicates: account.decisions.exact_duplicates,
            kept: account.rows_kept,
        };
        self.account(account);
    }

    fn account(&mut self, account: &Account) {
        self.decisions = account.decisions.clone();
        self.policy_examples.clone_from(account.problems.found());
        self.covariate_nulls.clone_from(&account.nulls);
        self.static_conflicts =
            account.static_conflicts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), *n)).collect();
        self.unmatched.clone_from(&account.unmatched);
        self.panel = PanelFacts {
            rows: account.panel_rows,
            series: account.series,
            series_excluded: account.series_excluded,
            excluded_examples: account.excluded.clone(),
            first_time: account.range.map(|(first, _)| shown_day(first)),
            last_time: account.range.map(|(_, last)| shown_day(last)),
        };
    }

    /// Where the grid's problems go.
    pub(super) fn problems(&mut self) -> &mut Problems {
        &mut self.grid_problems
    }

    /// Notes why there is no panel.
    pub(super) fn refuse(&mut self, error: &IngestError) {
        self.format_version = 1;
        self.status = match error {
            IngestError::NeedsAdapter(_) | IngestError::Source(SourceError::NeedsAdapter { .. }) => {
                Status::RequiresCustomAdapter
            }
            _ => Status::Refused,
        };
        self.reason = Some(error.to_string());
    }

    /// The task's outputs.
    pub(super) fn outputs(&self) -> Value {
        let bad: IndexMap<&str, u64> = self.bad_rows.iter().map(|(code, problem)| (*code, problem.count)).collect();
        let source = self.source.first();
        json!({
            "rows_read": self.rows.read,
            "rows_kept": self.rows.kept,
            "series": self.panel.series,
            "series_excluded": self.panel.series_excluded,
            "panel_rows": self.panel.rows,
            "first_time": self.panel.first_time,
            "last_time": self.panel.last_time,
            "source": source,
            "sources": self.source.len(),
            "rejected": {
                "bad_rows": bad,
                "filtered": self.rows.filtered,
                "exact_duplicates": self.rows.exact_duplicates,
            },
        })
    }

    /// `canonical_schema_snapshot.json`.
    pub(super) fn snapshot(&self, job: &Job, grid: &Grid) -> Value {
        let contract = &job.contract;
        let schema = grid.schema();
        let columns: Vec<Value> = schema.fields().iter().map(|field| column(contract, field.name())).collect();
        json!({
            "format_version": 1,
            "frequency": contract.contract.frequency,
            "grain": contract.grain.keys().collect::<Vec<_>>(),
            "columns": columns,
            "policies": contract.policies,
            "contract": self.contract,
            "contract_digest": self.contract.digest,
            "rows": self.panel.rows,
            "series": self.panel.series,
            "first_time": self.panel.first_time,
            "last_time": self.panel.last_time,
        })
    }

    /// The report for people.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        self.render(&mut text).expect("writing to a String can not fail");
        text
    }

    fn render(&self, text: &mut String) -> std::fmt::Result {
        let verdict = match self.status {
            Status::Accepted => "accepted",
            Status::Refused => "refused",
            Status::RequiresCustomAdapter => "requires a custom adapter",
        };
        writeln!(text, "# Contract {} v{}: {verdict}\n", self.contract.name, self.contract.version)?;
        if let Some(reason) = &self.reason {
            writeln!(text, "**{reason}**\n")?;
        }
        writeln!(text, "| file | bytes | sha256 |\n|---|---:|---|")?;
        for file in self.source.iter().chain(&self.side_tables) {
            writeln!(text, "| {} | {} | `{}` |", cell(&file.shown), file.bytes, file.sha256)?;
        }
        self.render_rows(text)?;
        for (title, problems) in [("Bad rows", &self.bad_rows), ("Rows that a policy looked at", &self.policy_examples)]
        {
            render_problems(text, title, problems)?;
        }
        for column in &self.unknown_columns {
            writeln!(text, "* column `{}` is in the file and not in the contract: not read", cell(column))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(text, "* {}", cell(note)))
    }

    fn render_rows(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n## From rows to the panel\n\n| | count |\n|---|---:|")?;
        let mut line = |name: &str, count: u64| writeln!(text, "| {} | {count} |", cell(name));
        line("rows in the source", self.rows.read)?;
        line("bad rows", self.rows.bad)?;
        for (name, count) in &self.rows.filtered {
            line(&format!("left out by filter {name}"), *count)?;
        }
        line("left out as exact duplicates", self.rows.exact_duplicates)?;
        line("rows behind the panel's series, before [series]", self.rows.kept)?;
        let decisions = &self.decisions;
        for (name, count) in [
            ("series and periods made of several rows", decisions.aggregated),
            ("negative demand", decisions.negative),
            ("demand above the outlier bound", decisions.outliers),
            ("demand missing in the source", decisions.missing),
            ("... given a value", decisions.missing_filled),
            ("periods without rows, between first and last", decisions.gaps),
            ("periods without rows, after the last", decisions.after_last),
            ("closed periods", decisions.closed),
            ("... with demand, now unknown", decisions.closed_with_demand),
            ("series left out by [series]", self.panel.series_excluded),
            ("series in the panel", self.panel.series),
            ("rows in the panel", self.panel.rows),
        ] {
            line(name, count)?;
        }
        for (name, nulls) in &self.covariate_nulls {
            line(&format!("{name}: null (in source rows: {}; filled: {})", nulls.in_rows, nulls.filled), nulls.found)?;
        }
        for (name, count) in &self.static_conflicts {
            line(&format!("{name}: series with several values, the first taken"), *count)?;
        }
        for (name, count) in &self.unmatched {
            line(&format!("rows without a match in {name}"), *count)?;
        }
        Ok(())
    }
}

fn render_problems(text: &mut String, title: &str, problems: &IndexMap<&'static str, Problem>) -> std::fmt::Result {
    if problems.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n## {title}\n\n| code | rows | file | row | column | value | what |\n|---|---:|---|---:|---|---|---|"
    )?;
    for (code, problem) in problems {
        for example in &problem.examples {
            writeln!(
                text,
                "| {code} | {} | {} | {} | {} | {} | {} |",
                problem.count,
                cell(&example.file),
                example.row,
                cell(example.column.as_deref().unwrap_or("")),
                cell(example.value.as_deref().unwrap_or("")),
                cell(&example.message),
            )?;
        }
    }
    writeln!(text)
}

/// Text from a file within a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn column(contract: &crate::contract::Contract, name: &str) -> Value {
    let (kind, role, description) = match name {
        "series" => ("utf8", "series", "grain values, joined with |".to_owned()),
        "time" => ("date32", "time", "first day of the period".to_owned()),
        "closed" => ("boolean", "known_future", "nothing could be sold; null = unknown".to_owned()),
        _ => {
            let column = &contract.columns[name];
            let kind = if column.kind == PanelType::Utf8 { "utf8" } else { "float64" };
            let role = match column.role {
                None => "demand",
                Some(Role::Static) => "static",
                Some(Role::PastOnly) => "past_only",
                Some(Role::KnownFuture) => "known_future",
            };
            (kind, role, column.description.clone())
        }
    };
    json!({"name": name, "type": kind, "role": role, "description": description})
}
