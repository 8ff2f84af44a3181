//! `[schedule]` as a DAG declares it: from the JSON of the section to a checked [`Schedule`].
//!
//! Called by whoever loads DAGs. A schedule says what is wanted; bound to calendars it becomes a
//! [`Timetable`](super::Timetable), which says when. The section's shape is `dag`'s; what its values
//! mean is checked here.

use std::time::Duration;

use serde_json::{Map, Value};

use super::duration;
use super::jitter::jitter_offset;
use super::rule::Rule;
use super::timeline::{Dst, Gap, Overlap};
use super::zone::Zone;
use crate::id::{DagId, TenantId};

const KEYS: [&str; 9] =
    ["cron", "every", "timezone", "dst", "catchup", "catchup_window", "calendars", "jitter", "tenants"];

/// Tenants that run without being asked for: all but those that are suspended.
const USUAL_TENANTS: [&str; 2] = ["active", "trial"];

/// Why a section is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ScheduleError {
    /// The key, such as `schedule.cron`.
    pub key: String,
    /// What is wrong with its value.
    pub problem: String,
    /// How to mend it.
    pub help: String,
}

impl ScheduleError {
    pub(crate) fn new(key: &str, problem: impl Into<String>, help: impl Into<String>) -> Self {
        let key = if key.is_empty() { "schedule".to_owned() } else { format!("schedule.{key}") };
        Self { key, problem: problem.into(), help: help.into() }
    }
}

/// What becomes of fires that nobody was there to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// Nothing: the next run is that of the next fire.
    None,
    /// The newest one runs.
    #[default]
    Latest,
    /// All run, the oldest first.
    All,
}

/// What a day of an excluded calendar does to the fires of that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blackout {
    /// They do not happen; their data intervals have no run.
    #[default]
    Skip,
    /// Their runs start on the next day that is not excluded, at the same local time.
    Delay,
}

/// A checked `[schedule]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub(crate) rule: Rule,
    pub(crate) zone: Zone,
    pub(crate) dst: Dst,
    pub(crate) catch_up: CatchUp,
    pub(crate) window: Option<Duration>,
    pub(crate) exclude: Vec<String>,
    pub(crate) blackout: Blackout,
    jitter: Duration,
    tenants: Vec<String>,
    /// The section that it was made of, which overrides are laid over.
    source: Map<String, Value>,
}

impl Schedule {
    /// Reads the `[schedule]` section as `dag` keeps it: a JSON object with its keys.
    ///
    /// Without `timezone` it is UTC, without `dst` shift and first, without `catchup` latest.
    ///
    /// # Errors
    /// The first key that is unknown, missing or has a value that can not be meant.
    pub fn from_json(section: &Value) -> Result<Self, ScheduleError> {
        let Value::Object(source) = section else {
            return Err(ScheduleError::new("", format!("{} is no section", brief(section)), "write keys and values"));
        };
        Keys { map: source, path: "" }.allow(&KEYS)?;
        let keys = Keys { map: source, path: "" };
        let zone = zone(&keys)?;
        let calendars = keys.section("calendars", &["exclude", "policy"])?;
        let blackout = calendars
            .as_ref()
            .map_or(Ok(None), |keys| keys.one_of("policy", &[("skip", Blackout::Skip), ("delay", Blackout::Delay)]))?;
        let exclude = calendars.map_or(Ok(None), |keys| keys.texts("exclude"))?;
        let catch_up =
            keys.one_of("catchup", &[("none", CatchUp::None), ("latest", CatchUp::Latest), ("all", CatchUp::All)])?;
        Ok(Self {
            rule: rule(&keys, &zone)?,
            zone,
            dst: dst(&keys)?,
            catch_up: catch_up.unwrap_or_default(),
            window: keys.duration("catchup_window")?,
            exclude: exclude.unwrap_or_default(),
            blackout: blackout.unwrap_or_default(),
            jitter: keys.duration("jitter")?.unwrap_or_default(),
            tenants: tenants(&keys)?,
            source: source.clone(),
        })
    }

    /// The schedule with a tenant's overrides: keys of `overrides` replace those of the DAG, keys of
    /// its sections those of the DAG's sections, `null` takes a key away (RFC 7396, JSON merge patch).
    /// A rule of the tenant's replaces the DAG's, be it `cron` or `every`.
    ///
    /// # Errors
    /// As [`Schedule::from_json`]; `tenants` is the DAG's and can not be overridden.
    pub fn overlay(&self, overrides: &Value) -> Result<Self, ScheduleError> {
        let Value::Object(overrides) = overrides else {
            let problem = format!("{} is no section", brief(overrides));
            return Err(ScheduleError::new("", problem, "write keys and values"));
        };
        if overrides.contains_key("tenants") {
            let help = "take the key out; which tenants a DAG runs for is said in the DAG";
            return Err(ScheduleError::new("tenants", "a tenant can not override it", help));
        }
        let mut merged = self.source.clone();
        for (rule, other) in [("cron", "every"), ("every", "cron")] {
            if overrides.get(rule).is_some_and(|value| !value.is_null()) {
                merged.remove(other);
            }
        }
        merge(&mut merged, overrides);
        Self::from_json(&Value::Object(merged))
    }

    /// The section that it was made of, a tenant's overrides included.
    pub fn section(&self) -> &Map<String, Value> {
        &self.source
    }

    /// When it fires, without zone and calendars.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The name of its time zone.
    pub fn timezone(&self) -> &str {
        self.zone.name()
    }

    /// Its policy for changes of the clock.
    pub fn dst(&self) -> Dst {
        self.dst
    }

    /// Its policy for fires that were missed.
    pub fn catch_up(&self) -> CatchUp {
        self.catch_up
    }

    /// The calendars on whose days it does not run, by name.
    pub fn excluded(&self) -> &[String] {
        &self.exclude
    }

    /// Whether tenants of a status ("trial", "active", "suspended") get runs.
    pub fn admits(&self, status: &str) -> bool {
        self.tenants.iter().any(|admitted| admitted == status)
    }

    /// How much later than its fire a tenant's run starts, in microseconds; always the same, from 0 to
    /// the declared `jitter`.
    pub fn jitter(&self, dag: &DagId, tenant: &TenantId) -> i64 {
        jitter_offset(dag, tenant, self.jitter)
    }
}

fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (_, Value::Null) => {
                into.shift_remove(key);
            }
            (Some(Value::Object(section)), Value::Object(overrides)) => merge(section, overrides),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

fn rule(keys: &Keys<'_>, zone: &Zone) -> Result<Rule, ScheduleError> {
    match (keys.text("cron")?, keys.duration("every")?) {
        (Some(line), None) => Rule::parse(line).map_err(|error| {
            ScheduleError::new("cron", format!("{:?}: {error}", line.chars().take(80).collect::<String>()), error.help)
        }),
        (None, Some(interval)) => Rule::every(interval, zone.name() == "UTC").ok_or_else(|| {
            ScheduleError::new("every", format!("{} is too short", duration::format(interval)), "write 1s or more")
        }),
        (Some(_), Some(_)) => Err(ScheduleError::new("every", "there is cron, too", "keep one of the two")),
        (None, None) => Err(ScheduleError::new(
            "",
            "there is neither cron nor every",
            "add cron = \"15 2 * * *\" or every = \"1h\"",
        )),
    }
}

fn zone(keys: &Keys<'_>) -> Result<Zone, ScheduleError> {
    let name = keys.text("timezone")?.unwrap_or("UTC");
    let shown = name.chars().take(64).collect::<String>();
    Zone::find(name).map_err(|help| ScheduleError::new("timezone", format!("there is no time zone {shown:?}"), help))
}

fn dst(keys: &Keys<'_>) -> Result<Dst, ScheduleError> {
    let Some(keys) = keys.section("dst", &["gap", "overlap"])? else { return Ok(Dst::default()) };
    let overlaps = [("first", Overlap::First), ("last", Overlap::Last), ("both", Overlap::Both)];
    Ok(Dst {
        gap: keys.one_of("gap", &[("shift", Gap::Shift), ("skip", Gap::Skip)])?.unwrap_or_default(),
        overlap: keys.one_of("overlap", &overlaps)?.unwrap_or_default(),
    })
}

fn tenants(keys: &Keys<'_>) -> Result<Vec<String>, ScheduleError> {
    let statuses = keys.section("tenants", &["status"])?.map_or(Ok(None), |keys| keys.texts("status"))?;
    let statuses = statuses.unwrap_or_else(|| USUAL_TENANTS.map(str::to_owned).to_vec());
    match statuses.iter().find(|status| !["trial", "active", "suspended"].contains(&status.as_str())) {
        None => Ok(statuses),
        Some(odd) => {
            let problem = format!("there is no status {:?}", odd.chars().take(40).collect::<String>());
            Err(ScheduleError::new("tenants.status", problem, "the statuses are trial, active, suspended"))
        }
    }
}

/// A section's keys; `path` is empty or ends with a dot.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> Keys<'a> {
    fn error(&self, key: &str, problem: impl Into<String>, help: impl Into<String>) -> ScheduleError {
        ScheduleError::new(&format!("{}{key}", self.path), problem, help)
    }

    fn wrong(&self, key: &str, value: &Value, what: &str) -> ScheduleError {
        self.error(key, format!("{} is not {what}", brief(value)), format!("write {what}"))
    }

    fn allow(&self, known: &[&str]) -> Result<(), ScheduleError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let key = key.chars().take(40).collect::<String>();
                Err(self.error(&key, "there is no such key", format!("there are: {}", known.join(", "))))
            }
        }
    }

    fn section(&self, key: &'static str, known: &[&str]) -> Result<Option<Keys<'a>>, ScheduleError> {
        let path = match key {
            "dst" => "dst.",
            "calendars" => "calendars.",
            _ => "tenants.",
        };
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let keys = Keys { map, path };
                keys.allow(known).map(|()| Some(keys))
            }
            Some(other) => Err(self.wrong(key, other, "a section")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ScheduleError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a text")),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<String>>, ScheduleError> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        let texts = value.as_array().map(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.flatten().map(Some).ok_or_else(|| self.wrong(key, value, "a list of texts"))
    }

    fn duration(&self, key: &str) -> Result<Option<Duration>, ScheduleError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        duration::parse(text).map(Some).map_err(|problem| {
            let shown = text.chars().take(40).collect::<String>();
            self.error(key, format!("{shown:?}: {problem}"), "write a duration such as 15m, 1h30m or 2d")
        })
    }

    fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, ScheduleError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            let shown = text.chars().take(40).collect::<String>();
            self.error(key, format!("it can not be {shown:?}"), format!("the words are {known}"))
        })
    }
}

fn brief(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_section_of_the_manual() {
        let schedule = Schedule::from_json(&json!({
            "cron": "15 2 * * *", "timezone": "America/Chicago", "dst": {"gap": "skip", "overlap": "both"},
            "catchup": "all", "catchup_window": "7d", "calendars": {"exclude": ["stock_take"], "policy": "delay"},
            "jitter": "5m", "tenants": {"status": ["active"]},
        }))
        .expect("a schedule");
        assert_eq!(schedule.timezone(), "America/Chicago");
        assert_eq!(schedule.dst(), Dst { gap: Gap::Skip, overlap: Overlap::Both });
        assert_eq!((schedule.catch_up(), schedule.blackout), (CatchUp::All, Blackout::Delay));
        assert_eq!(schedule.excluded(), ["stock_take"]);
        assert!(schedule.admits("active") && !schedule.admits("trial"));
    }

    #[test]
    fn what_is_not_said() {
        let schedule = Schedule::from_json(&json!({"every": "15m"})).expect("a schedule");
        assert_eq!((schedule.timezone(), schedule.dst()), ("UTC", Dst::default()));
        assert_eq!((schedule.catch_up(), schedule.blackout), (CatchUp::Latest, Blackout::Skip));
        assert!(schedule.admits("active") && schedule.admits("trial") && !schedule.admits("suspended"));
    }

    #[test]
    fn mistakes_name_their_key() {
        let cases = [
            (json!(null), "schedule: null is no section"),
            (json!({}), "schedule: there is neither cron nor every"),
            (json!({"cron": "@daily", "every": "1h"}), "schedule.every: there is cron, too"),
            (json!({"cron": "61 * * * *"}), "schedule.cron: \"61 * * * *\": minute: 61 is not in 0 to 59"),
            (json!({"cron": 5}), "schedule.cron: 5 is not a text"),
            (json!({"every": "10ms"}), "schedule.every: 10ms is too short"),
            (json!({"every": "1x"}), "schedule.every: \"1x\": \"x\" is no unit"),
            (json!({"every": "1h", "zone": "UTC"}), "schedule.zone: there is no such key"),
            (json!({"every": "1h", "timezone": "Chicago/America"}), "schedule.timezone: there is no time zone"),
            (json!({"every": "1h", "dst": {"gap": "jump"}}), "schedule.dst.gap: it can not be \"jump\""),
            (json!({"every": "1h", "dst": {"hole": 1}}), "schedule.dst.hole: there is no such key"),
            (json!({"every": "1h", "dst": "shift"}), "schedule.dst: \"shift\" is not a section"),
            (json!({"every": "1h", "calendars": {"exclude": "a"}}), "schedule.calendars.exclude: \"a\" is not a list"),
            (json!({"every": "1h", "tenants": {"status": ["x"]}}), "schedule.tenants.status: there is no status \"x\""),
        ];
        for (section, message) in cases {
            let error = Schedule::from_json(&section).expect_err(message);
            assert!(error.to_string().starts_with(message), "{error}");
            assert!(!error.help.is_empty());
        }
    }

    #[test]
    fn overrides_of_a_tenant() {
        let dag = Schedule::from_json(&json!({"cron": "15 2 * * *", "dst": {"gap": "skip"}, "jitter": "5m"}));
        let dag = dag.expect("a schedule");
        let tenant = dag.overlay(&json!({"timezone": "Europe/Paris", "dst": {"overlap": "last"}, "jitter": null}));
        let tenant = tenant.expect("overrides");
        assert_eq!(tenant.dst(), Dst { gap: Gap::Skip, overlap: Overlap::Last });
        assert_eq!((tenant.timezone(), tenant.jitter), ("Europe/Paris", Duration::ZERO));
        assert_eq!(dag.overlay(&json!({})).as_ref(), Ok(&dag));
        let other = dag.overlay(&json!({"every": "1h"})).expect("another rule");
        assert_eq!(other.rule().elapsed(), Some(3_600_000_000));
        for bad in [json!({"tenants": {}}), json!({"cron": null}), json!([]), json!({"cron": "x"})] {
            assert!(dag.overlay(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(key in proptest::sample::select(&KEYS[..]), text in "\\PC{0,20}", number in any::<i64>()) {
            for value in [json!(text), json!(number), json!([text]), json!({text.as_str(): number}), json!(null)] {
                let _ = Schedule::from_json(&json!({"cron": "@daily", key: value}));
            }
        }
    }
}
