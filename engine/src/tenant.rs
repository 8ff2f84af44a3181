//! A tenant's file, `dags/tenants/<id>.toml`: whose data, quota, schedule and model it is.
//!
//! The CLI and the scheduler read tenants here; mistakes are diagnostics like those of a DAG, under
//! codes of their own. Nothing here reads a file or knows a database.

use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dag::json::{self, to_json};
use crate::dag::lints::secrets_in;
use crate::dag::read::{self, Section, Sink};
use crate::dag::secrets::refuse;
use crate::dag::{Diagnostic, Diagnostics, spec};
use crate::id::{DagId, TenantId};

/// A tenant as its file says.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantSpec {
    /// The id; equals the stem of its file.
    pub id: TenantId,
    /// Whether it may run.
    pub status: TenantStatus,
    /// Its share of the workers against other tenants; 1 is ordinary.
    pub weight: f64,
    /// What it may use at once.
    pub quotas: Quotas,
    /// How long what it made is kept.
    pub retention: Retention,
    /// Values that overlay the parameters of DAGs, and that templates see as `tenant.<name>`.
    pub parameters: Map<String, Value>,
    /// DAGs that it takes, each with the table written for it.
    pub dags: IndexMap<DagId, Value>,
}

impl TenantSpec {
    /// Its parameters for a DAG: those written for the DAG over those for all.
    pub fn params_for(&self, dag: &DagId) -> Map<String, Value> {
        let mut params = self.parameters.clone();
        let own = self.dags.get(dag).and_then(|table| table.get("params")).and_then(Value::as_object);
        params.extend(own.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
        params
    }

    /// Its own keys over a DAG's `[schedule]`.
    pub fn schedule_for(&self, dag: &DagId) -> Option<&Value> {
        self.dags.get(dag)?.get("schedule")
    }

    /// Whether the tenant takes a DAG.
    pub fn takes(&self, dag: &DagId) -> bool {
        self.dags.contains_key(dag)
    }
}

/// Whether a tenant may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantStatus {
    /// Runs, and is not billed yet.
    Trial,
    /// Runs.
    Active,
    /// Starts nothing.
    Suspended,
}

impl TenantStatus {
    /// The name in TOML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// What a tenant may use at once; `None` = no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quotas {
    /// Attempts that run at the same time.
    pub running_tasks: Option<u32>,
    /// Runs that wait to start.
    pub queued_runs: Option<u32>,
    /// Bytes of artifacts that are kept.
    pub artifact_bytes: Option<u64>,
}

/// How long what has ended is kept, counted from the end of its run; `None` = as the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Runs, with all that belongs to them.
    pub runs: Option<Duration>,
    /// Artifacts; the run stays, and what it made is gone.
    pub artifacts: Option<Duration>,
    /// Events.
    pub events: Option<Duration>,
}

impl Retention {
    /// With `defaults` where it says nothing.
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            runs: self.runs.or(defaults.runs),
            artifacts: self.artifacts.or(defaults.artifacts),
            events: self.events.or(defaults.events),
        }
    }
}

/// Parses the text of `file`. Returns the tenant with its warnings, or all diagnostics if one is an error.
///
/// # Errors
/// Every mistake in the file.
pub fn parse(file: &str, source: &str) -> Result<(TenantSpec, Diagnostics), Diagnostics> {
    let mut sink = Sink::new(source);
    let tenant = read::parse(source, &mut sink)
        .and_then(|document| read_tenant(file, &Section::root(document.get_ref()), &mut sink));
    let mut diagnostics = sink.finish(file);
    for item in &mut diagnostics.items {
        item.code = code(item.code);
    }
    match tenant {
        Some(tenant) if !diagnostics.has_errors() => Ok((tenant, diagnostics)),
        _ => Err(diagnostics),
    }
}

/// The readers are those of a DAG; a script that looks for mistakes in DAGs must not find these.
fn code(code: &'static str) -> &'static str {
    match code {
        "dag::syntax" => "tenant::syntax",
        "dag::too_large" => "tenant::too_large",
        "dag::too_deep" => "tenant::too_deep",
        "dag::too_many_mistakes" => "tenant::too_many_mistakes",
        "dag::unknown_key" => "tenant::unknown_key",
        "dag::missing_key" => "tenant::missing_key",
        "dag::wrong_type" => "tenant::wrong_type",
        "dag::out_of_range" => "tenant::out_of_range",
        "dag::bad_value" => "tenant::bad_value",
        "dag::bad_id" => "tenant::bad_id",
        "dag::secret_not_here" => "tenant::secret_not_here",
        "dag::id_differs" => "tenant::id_differs",
        "dag::nul" => "tenant::nul",
        "dag::bad_duration" => "tenant::bad_duration",
        other => other,
    }
}

fn read_tenant(file: &str, root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<TenantSpec> {
    root.allow(&["tenant", "quotas", "retention", "parameters", "dags"], sink);
    root.require("tenant", "add [tenant] with id = \"<the file's stem>\"", sink);
    let quotas = read_quotas(root, sink);
    let retention = read_retention(root, sink);
    let parameters = read_parameters(root, sink);
    let dags = read_dags(root, sink);
    let section = root.section("tenant", sink)?;
    section.allow(&["id", "status", "weight"], sink);
    let status = match section.one_of("status", &["trial", "active", "suspended"], sink) {
        Some("trial") => TenantStatus::Trial,
        Some("suspended") => TenantStatus::Suspended,
        _ => TenantStatus::Active,
    };
    // A thousandth to a thousand: beyond, one of two tenants would never run.
    let weight = section.float("weight", 0.001..=1000.0, sink).unwrap_or(1.0);
    Some(TenantSpec { id: read_id(file, &section, sink)?, status, weight, quotas, retention, parameters, dags })
}

fn read_id(file: &str, section: &Section<'_, '_>, sink: &mut Sink<'_>) -> Option<TenantId> {
    section.require("id", "add id = \"<the file's stem>\"", sink)?;
    let (text, span) = section.text("id", sink)?;
    match TenantId::parse(text) {
        Ok(id) => {
            if id.is_drill() {
                sink.push(
                    Diagnostic::error(
                        "tenant::reserved",
                        span.clone(),
                        format!("{text:?} is the id of a drill tenant"),
                    )
                    .label("reserved for drills")
                    .help("drills make their tenants themselves: use an id that does not begin with drill-"),
                );
            }
            spec::check_stem(file, text, span, sink);
            Some(id)
        }
        Err(error) => {
            spec::bad_id(&error, span, sink);
            None
        }
    }
}

fn read_quotas(root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Quotas {
    let Some(section) = root.section("quotas", sink) else {
        return Quotas::default();
    };
    section.allow(&["running_tasks", "queued_runs", "artifact_bytes"], sink);
    let mut count = |key| section.integer(key, 1..=1_000_000, sink).and_then(|count| u32::try_from(count).ok());
    let (running_tasks, queued_runs) = (count("running_tasks"), count("queued_runs"));
    let bytes = section.integer("artifact_bytes", 1..=i64::MAX, sink);
    Quotas { running_tasks, queued_runs, artifact_bytes: bytes.and_then(|bytes| u64::try_from(bytes).ok()) }
}

fn read_retention(root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Retention {
    let Some(section) = root.section("retention", sink) else {
        return Retention::default();
    };
    section.allow(&["runs", "artifacts", "events"], sink);
    let mut kept = |key| section.duration(key, sink);
    Retention { runs: kept("runs"), artifacts: kept("artifacts"), events: kept("events") }
}

fn read_parameters(root: &Section<'_, '_>, sink: &mut Sink<'_>) -> Map<String, Value> {
    let (Some(section), Some(node)) = (root.section("parameters", sink), root.get("parameters")) else {
        return Map::new();
    };
    let value = to_json("parameters", node, sink);
    if section.get("id").is_some() {
        sink.push(
            Diagnostic::error("tenant::reserved", section.key_span("id"), "a parameter can not be called \"id\"")
                .label("`tenant.id` is the tenant's id")
                .help("use another name"),
        );
    }
    for pointer in secrets_in(&value) {
        let message = format!("parameters.{} looks like a secret", pointer.join("."));
        sink.push(
            Diagnostic::warning("lint::plain_secret", json::span_at(node, &pointer), message)
                .label("a secret in plain sight")
                .help(
                    "parameters are stored with every run: let the DAG refer to it, { secret = \"name\" } in a task's \
                     `with`; each tenant has a value of its own",
                ),
        );
    }
    refuse((&value, node), ("parameters", 1), sink);
    value.as_object().cloned().unwrap_or_default()
}

fn read_dags(root: &Section<'_, '_>, sink: &mut Sink<'_>) -> IndexMap<DagId, Value> {
    let mut dags = IndexMap::new();
    let Some(section) = root.section("dags", sink) else {
        return dags;
    };
    for (key, node) in section.table {
        match DagId::parse(key.get_ref()) {
            Ok(id) => {
                if Section::of(section.path(id.as_str()), key.span(), node, sink).is_some() {
                    let value = to_json(&section.path(id.as_str()), node, sink);
                    // `params` is a table of names.
                    refuse((&value, node), (&section.path(id.as_str()), 2), sink);
                    dags.insert(id, value);
                }
            }
            Err(error) => spec::bad_id(&error, key.span(), sink),
        }
    }
    dags
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const GOOD: &str = "[tenant]\nid = \"acme\"\nstatus = \"trial\"\nweight = 2\n\
        [quotas]\nrunning_tasks = 4\nqueued_runs = 10\nartifact_bytes = 10_000_000_000\n\
        [parameters]\nsource = \"data/{{x}}.csv\"\nhorizon = 14\n\
        [dags.retail_demand]\n[dags.other]\nparams = { horizon = 7 }\n";

    fn codes(source: &str) -> Vec<&'static str> {
        let found = match parse("dags/tenants/acme.toml", source) {
            Ok((_, found)) | Err(found) => found,
        };
        assert!(found.items.iter().all(|item| source.get(item.span.clone()).is_some() && !item.help.is_empty()));
        found.items.iter().map(|item| item.code).collect()
    }

    #[test]
    fn a_tenant_is_read() {
        let (tenant, warnings) = parse("dags/tenants/acme.toml", GOOD).expect("good");
        assert_eq!(warnings.items, []);
        assert_eq!((tenant.id.as_str(), tenant.status, tenant.weight), ("acme", TenantStatus::Trial, 2.0));
        let quotas = Quotas { running_tasks: Some(4), queued_runs: Some(10), artifact_bytes: Some(10_000_000_000) };
        assert_eq!(tenant.quotas, quotas);
        assert_eq!(Value::Object(tenant.parameters.clone()), json!({"source": "data/{{x}}.csv", "horizon": 14}));
        let id = |text| DagId::parse(text).expect("an id");
        assert!(tenant.takes(&id("retail_demand")) && !tenant.takes(&id("rossmann")));
        assert_eq!(tenant.dags[&id("other")], json!({"params": {"horizon": 7}}));
        let (small, _) = parse("-", "[tenant]\nid = \"a\"\n").expect("all else has a default");
        assert_eq!((small.status, small.weight, small.quotas), (TenantStatus::Active, 1.0, Quotas::default()));
    }

    #[test]
    fn mistakes_have_codes_of_their_own() {
        let cases = [
            ("id = \"acme\"", "id = \"other\"", "tenant::id_differs"),
            ("id = \"acme\"", "id = \"../acme\"", "tenant::bad_id"),
            ("id = \"acme\"", "", "tenant::missing_key"),
            ("\"trial\"", "\"trail\"", "tenant::bad_value"),
            ("weight = 2", "weight = 0", "tenant::out_of_range"),
            ("weight = 2", "weight = nan", "tenant::out_of_range"),
            ("weight = 2", "wieght = 2", "tenant::unknown_key"),
            ("running_tasks = 4", "running_tasks = -4", "tenant::out_of_range"),
            ("running_tasks = 4", "running_tasks = 99999999999999999999", "tenant::out_of_range"),
            ("running_tasks = 4", "running_tasks = \"4\"", "tenant::wrong_type"),
            ("horizon = 14", "id = 14", "tenant::reserved"),
            ("horizon = 14", "horizon = \"a\\u0000\"", "tenant::nul"),
            ("horizon = 14", "api_key = \"abc\"", "lint::plain_secret"),
            ("horizon = 14", "api = { key = { secret = \"a\" } }", "tenant::secret_not_here"),
            ("horizon = 7 }", "horizon = { secret = \"a\" } }", "tenant::secret_not_here"),
            ("horizon = 14", "horizon = ", "tenant::syntax"),
            ("[dags.other]", "[dags.\"../x\"]", "tenant::bad_id"),
            ("[dags.other]\nparams", "[dags]\nother", "tenant::wrong_type"),
            ("[quotas]", "[quota]", "tenant::unknown_key"),
            ("[quotas]", "[retention]\nruns = \"0d\"\n[quotas]", "tenant::bad_duration"),
        ];
        for (from, to, code) in cases {
            let source = GOOD.replacen(from, to, 1).replace("other = { horizon = 7 }", "other = 7");
            assert_eq!(codes(&source), [code], "{to}");
        }
        assert_eq!(codes(&"x".repeat(2 << 20)), ["tenant::too_large"]);
        assert_eq!(codes(&format!("a = {}", "[".repeat(1_000))), ["tenant::too_deep"]);
        assert_eq!(codes(""), ["tenant::missing_key"]);
    }

    proptest! {
        #[test]
        fn a_mangled_file_never_panics(at in 0..GOOD.len(), cut in 0..30_usize, put in "[\\[\\]{}=.,\"'\n a-z0-9]{0,6}") {
            let end = (at + cut).min(GOOD.len());
            codes(&format!("{}{put}{}", &GOOD[..at], &GOOD[end..]));
        }
    }
}
