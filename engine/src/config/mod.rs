//! Configuration: one struct, parsed once at the edge, passed down.
//!
//! `headworks.toml`, overridden by `HEADWORKS_<SECTION>_<KEY>`, overridden by flags. The commented
//! default file beside this module is what `headworks config default` prints; a test holds that it
//! says what [`Config::default`] does. Called by the CLI; nothing else reads the environment, but
//! for the S3 credentials that `artifact` takes from `AWS_*`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The commented default file.
pub const DEFAULT_FILE: &str = include_str!("default.toml");

/// The prefix of environment variables that override keys.
const PREFIX: &str = "HEADWORKS_";

/// Variables with the prefix that mean something else: they name the file, or belong to tests.
const NOT_KEYS: [&str; 2] = ["HEADWORKS_CONFIG", "HEADWORKS_LOG"];

/// Variables that the program of a task is handed, which may be `headworks` itself.
const OF_A_TASK: [&str; 17] = [
    "ARTIFACTS",
    "INPUTS",
    "OUTPUTS",
    "PARAMS",
    "PROJECT",
    "TENANT",
    "DAG",
    "RUN",
    "TASK",
    "GENERATION",
    "ATTEMPT",
    "EPOCH",
    "LOGICAL_TIME",
    "SEED",
    "INTERVAL_START",
    "INTERVAL_END",
    "MARK",
];

/// What variables that hold tenants' secrets begin with, behind the prefix: look-ups of the executor read them.
const SECRETS: &str = "SECRET__";

/// 1 TiB, in MiB: beyond that, a figure is a slip.
const MOST: u64 = 1 << 20;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct Config {
    /// Where state is kept.
    pub store: StoreConfig,
    /// Where outputs are kept.
    pub artifacts: ArtifactsConfig,
    /// Where DAGs and their documents are.
    pub dags: DagsConfig,
    /// How attempts are executed.
    pub executor: ExecutorConfig,
    /// What an attempt may use and say.
    pub attempts: AttemptsConfig,
    /// Where the secrets of tenants are.
    pub secrets: SecretsConfig,
    /// What time causes, and how often it is looked at.
    pub scheduler: SchedulerConfig,
    /// How long what has ended is kept, where a tenant's file does not say.
    pub retention: RetentionConfig,
    /// How runbooks are rehearsed.
    pub drill: DrillConfig,
    /// Slots by pool; a pool that is not named has no limit.
    pub pools: BTreeMap<String, u32>,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite://PATH` or `postgres://...`.
    pub url: String,
    /// Seconds after which a call that Postgres does not answer has failed.
    pub timeout_seconds: f64,
}

/// `[artifacts]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactsConfig {
    /// A folder, or `s3://bucket/prefix`.
    pub url: String,
}

/// `[dags]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DagsConfig {
    /// The folder of the DAGs; its parent is the project's root.
    pub path: PathBuf,
}

/// `[executor]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorConfig {
    /// Attempts at once; 0 = one per core.
    pub slots: usize,
    /// Seconds that a session lives without a heartbeat.
    pub lease_ttl_seconds: f64,
    /// Seconds that an attempt gets to stop.
    pub cancel_grace_seconds: f64,
    /// Seconds that attempts get to end by themselves after SIGTERM, before they are handed back.
    pub drain_grace_seconds: f64,
    /// The folder of attempts' own folders; empty = below the system's.
    pub scratch: PathBuf,
}

/// `[attempts]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttemptsConfig {
    /// MiB of address space of one process; 0 = no limit.
    pub memory_mb: u64,
    /// Open files of one process; 0 = as many as the worker.
    pub open_files: u64,
    /// How willingly the kernel ends it when memory is short.
    pub oom_score_adj: u16,
    /// MiB that an attempt's log may weigh.
    pub log_mb: u64,
}

/// `[secrets]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// The folder with a folder per tenant, in which each secret is a file; empty = none.
    pub folder: PathBuf,
}

/// `[retention]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Days that runs are kept after their end; 0 = for ever.
    pub runs_days: u32,
    /// Days that their artifacts are kept; 0 = as long as the run.
    pub artifacts_days: u32,
    /// Days that their events are kept; 0 = as long as the run.
    pub events_days: u32,
    /// Hours after which an object that nothing names is deleted.
    pub orphan_hours: f64,
    /// Hours between two looks.
    pub sweep_hours: f64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        // Nothing is lost unless somebody says so; a night's reruns are over within a day.
        Self { runs_days: 0, artifacts_days: 0, events_days: 0, orphan_hours: 24.0, sweep_hours: 6.0 }
    }
}

/// `[drill]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrillConfig {
    /// The folder below which evidence is written.
    pub evidence: PathBuf,
    /// Seconds that the session of a drill's worker lives without a heartbeat.
    pub lease_ttl_seconds: f64,
    /// A program and its arguments that restart the database; empty = its connections are ended instead.
    pub restart_database: Vec<String>,
    /// Days that the runs of drill tenants are kept; 0 = for ever.
    pub keep_days: u32,
}

impl Default for DrillConfig {
    fn default() -> Self {
        // Nobody waits a minute for a rehearsal, and a busy machine still renews in time; a month is the distance
        // between two.
        Self {
            evidence: "artifacts/drills".into(),
            lease_ttl_seconds: 8.0,
            restart_database: Vec::new(),
            keep_days: 30,
        }
    }
}

/// `[scheduler]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Seconds between two looks for workers that are gone.
    pub reap_seconds: f64,
    /// Seconds between two looks for runs that nothing moves.
    pub reconcile_seconds: f64,
    /// Seconds between two looks for what is due and what may start.
    pub tick_seconds: f64,
    /// Seconds between two looks at deadlines.
    pub watch_seconds: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        // With a lease of 60 s an orphan runs again after 75 s at the latest.
        Self { reap_seconds: 10.0, reconcile_seconds: 30.0, tick_seconds: 1.0, watch_seconds: 30.0 }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: "sqlite://artifacts/headworks.db".into(), timeout_seconds: 20.0 }
    }
}

impl Default for ArtifactsConfig {
    fn default() -> Self {
        Self { url: "artifacts/objects".into() }
    }
}

impl Default for DagsConfig {
    fn default() -> Self {
        Self { path: "dags".into() }
    }
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        // An orphan runs again within a minute; a well-behaved task stops within a second.
        Self {
            slots: 0,
            lease_ttl_seconds: 60.0,
            cancel_grace_seconds: 10.0,
            drain_grace_seconds: 20.0,
            scratch: PathBuf::new(),
        }
    }
}

impl Default for AttemptsConfig {
    fn default() -> Self {
        // Half of the way to "this one first"; a log that a person can still open.
        Self { memory_mb: 0, open_files: 4096, oom_score_adj: 500, log_mb: 16 }
    }
}

impl DagsConfig {
    /// The project's root: what relative sources are below.
    pub fn project_root(&self) -> PathBuf {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }
}

impl ExecutorConfig {
    /// The time-to-live of a session.
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_secs_f64(self.lease_ttl_seconds)
    }

    /// The grace of a cancel.
    pub fn cancel_grace(&self) -> Duration {
        Duration::from_secs_f64(self.cancel_grace_seconds)
    }

    /// Attempts at once, on a machine of `cores`.
    pub fn slots_on(&self, cores: usize) -> usize {
        if self.slots == 0 { cores } else { self.slots }
    }

    /// The folder of attempts' own folders.
    pub fn scratch_root(&self) -> PathBuf {
        if self.scratch.as_os_str().is_empty() { std::env::temp_dir().join("headworks") } else { self.scratch.clone() }
    }
}

/// Why the configuration can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can not be read.
    #[error("can not read the configuration {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key or value that means nothing.
    #[error("the configuration {} is not valid", path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: toml::de::Error,
    },
    /// A variable that looks like a key, but is none.
    #[error("{name} overrides no key of the configuration: {help}")]
    Variable {
        /// Its name.
        name: String,
        /// What would be right.
        help: String,
    },
    /// A number that can not be.
    #[error("{key} = {value} is out of range: {help}")]
    Range {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What would be right.
        help: &'static str,
    },
}

impl Config {
    /// Reads `file`, or where that is `None` `headworks.toml` if there is one, then `variables`.
    ///
    /// # Errors
    /// Unreadable, unknown keys, values of the wrong type or out of range; each says which.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let path = file.map_or_else(|| PathBuf::from("headworks.toml"), Path::to_owned);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::File { path, source }),
        };
        let invalid = |source| ConfigError::Toml { path: path.clone(), source };
        let mut table: Table = toml::from_str(&text).map_err(invalid)?;
        // First as it stands, so that a wrong file is blamed on the file, with its line.
        let _: Self = toml::from_str(&text).map_err(invalid)?;
        for (name, value) in variables {
            override_key(&mut table, &name, &value)?;
        }
        let config: Self = Value::Table(table).try_into().map_err(invalid)?;
        config.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        let seconds = [
            ("store.timeout_seconds", self.store.timeout_seconds, 0.1),
            ("executor.lease_ttl_seconds", self.executor.lease_ttl_seconds, 0.1),
            ("drill.lease_ttl_seconds", self.drill.lease_ttl_seconds, 0.1),
            ("executor.cancel_grace_seconds", self.executor.cancel_grace_seconds, 0.0),
            ("executor.drain_grace_seconds", self.executor.drain_grace_seconds, 0.0),
            ("scheduler.reap_seconds", self.scheduler.reap_seconds, 0.01),
            ("scheduler.reconcile_seconds", self.scheduler.reconcile_seconds, 0.01),
            ("scheduler.tick_seconds", self.scheduler.tick_seconds, 0.01),
            ("scheduler.watch_seconds", self.scheduler.watch_seconds, 0.01),
            ("retention.orphan_hours", self.retention.orphan_hours, 0.0),
            ("retention.sweep_hours", self.retention.sweep_hours, 0.001),
        ];
        for (key, value, least) in seconds {
            // Written so that NaN fails too; a day is more than any lease or grace should last.
            if !(least..=86_400.0).contains(&value) {
                return Err(ConfigError::Range { key, value, help: "use seconds, at most 86400" });
            }
        }
        let AttemptsConfig { memory_mb, open_files, oom_score_adj, log_mb } = self.attempts;
        let whole = [
            // With less, a process can not even start its threads.
            ("attempts.memory_mb", memory_mb, memory_mb == 0 || memory_mb >= 256, "use 256 or more, or 0 for no limit"),
            (
                "attempts.open_files",
                open_files,
                open_files == 0 || open_files >= 64,
                "use 64 or more, or 0 for no limit",
            ),
            ("attempts.oom_score_adj", u64::from(oom_score_adj), oom_score_adj <= 1000, "use a number from 0 to 1000"),
            ("attempts.log_mb", log_mb, log_mb >= 1, "use 1 or more"),
        ];
        for (key, value, fits, help) in whole {
            if !fits || value > MOST {
                #[expect(clippy::cast_precision_loss, reason = "only shown, and far out of range where it matters")]
                return Err(ConfigError::Range { key, value: value as f64, help });
            }
        }
        Ok(self)
    }
}

/// Sets the key that `HEADWORKS_<SECTION>_<KEY>` names.
fn override_key(table: &mut Table, name: &str, text: &str) -> Result<(), ConfigError> {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(()) };
    if NOT_KEYS.contains(&name) || rest.starts_with("TEST_") || rest.starts_with("UPDATE_") {
        return Ok(());
    }
    if OF_A_TASK.contains(&rest) || rest.starts_with("PARAM_") || rest.starts_with(SECRETS) {
        return Ok(());
    }
    let lower = rest.to_ascii_lowercase();
    let defaults = Table::try_from(Config::default()).unwrap_or_default();
    let known = lower.split_once('_').and_then(|(section, key)| Some((section, key, defaults.get(section)?.get(key)?)));
    let Some((section, key, default)) = known else {
        let keys: Vec<_> = defaults
            .iter()
            .flat_map(|(section, keys)| keys.as_table().into_iter().flatten().map(move |(key, _)| (section, key)))
            .map(|(section, key)| format!("{PREFIX}{}_{}", section.to_uppercase(), key.to_uppercase()))
            .collect();
        return Err(ConfigError::Variable { name: name.to_owned(), help: format!("there are {}", keys.join(", ")) });
    };
    let wrong = |what: &str| ConfigError::Variable { name: name.to_owned(), help: format!("{text:?} is no {what}") };
    let value = match default {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("whole number"))?),
        Value::Float(_) => Value::Float(text.parse().map_err(|_| wrong("number"))?),
        Value::Array(_) => Value::Array(text.split_whitespace().map(|word| Value::String(word.to_owned())).collect()),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        _ => Value::String(text.to_owned()),
    };
    let slot = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Some(keys) = slot.as_table_mut() {
        keys.insert(key.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("headworks.toml");
        std::fs::write(&path, text).expect("a file");
        Config::load(Some(&path), variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_default_file_says_what_the_defaults_are() {
        assert_eq!(load(DEFAULT_FILE, &[]).expect("valid"), Config::default());
        let table: Table = toml::from_str(DEFAULT_FILE).expect("valid");
        assert_eq!(table, Table::try_from(Config::default()).expect("a table"), "every key stands in the file");
    }

    #[test]
    fn variables_override_the_file() {
        let config = load(
            "[store]\nurl = \"sqlite://a.db\"\n[executor]\nslots = 3\n",
            &[
                ("HEADWORKS_STORE_URL", "postgres://db/hw"),
                ("HEADWORKS_EXECUTOR_LEASE_TTL_SECONDS", "2.5"),
                ("HEADWORKS_SECRETS_FOLDER", "/run/secrets"),
                ("HEADWORKS_SECRET__ACME__TOKEN", "no key of the configuration"),
                ("PATH", "/bin"),
            ],
        )
        .expect("valid");
        assert_eq!(config.store.url, "postgres://db/hw");
        assert_eq!(config.secrets.folder, Path::new("/run/secrets"));
        assert_eq!((config.executor.slots, config.executor.lease_ttl_seconds), (3, 2.5));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let error = load("[store]\nurk = \"x\"\n", &[]).expect_err("an unknown key");
        assert!(std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("urk")));
        let error = load("", &[("HEADWORKS_STORE_URK", "x")]).expect_err("an unknown variable");
        assert!(error.to_string().contains("HEADWORKS_STORE_URL"), "{error}");
        let error = load("", &[("HEADWORKS_SECRET_ACME_TOKEN", "hunter2")]).expect_err("one underscore is missing");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = load("", &[("HEADWORKS_EXECUTOR_SLOTS", "many")]).expect_err("no number");
        assert!(error.to_string().contains("many"), "{error}");
        for wrong in ["-1.0", "nan", "0.0", "1e9"] {
            assert!(load(&format!("[executor]\nlease_ttl_seconds = {wrong}\n"), &[]).is_err(), "{wrong}");
        }
        for wrong in ["memory_mb = 1", "open_files = 3", "oom_score_adj = 1001", "log_mb = 0", "log_mb = -1"] {
            assert!(load(&format!("[attempts]\n{wrong}\n"), &[]).is_err(), "{wrong}");
        }
        assert!(load("[attempts]\nmemory_mb = 0\nopen_files = 0\noom_score_adj = 0\n", &[]).is_ok());
    }
}
