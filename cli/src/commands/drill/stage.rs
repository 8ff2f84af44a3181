//! What a drill takes place on: its tenants, their copies of the input, runs with faults, and commands.
//!
//! Drill tenants are made anew each time, under ids that no file may have; so a drill begins with nothing, and what it
//! leaves is nobody's.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::clock::{Clock, SystemClock};
use engine::dag::Dag;
use engine::drill::{Declared, Drill, Exit, Fault, Trouble};
use engine::id::{DRILL_PREFIX, RunId, TenantId};
use engine::launch::{Request, prepare};
use engine::store::{NewRun, OpenMode, Origin, RunKind, Store};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Notify;
use uuid::Uuid;

use super::super::Session;
use super::input::Input;
use crate::exit::Failure;

/// Where a drill takes place.
pub(super) struct Stage<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) drill: Drill,
    /// This time.
    pub(super) id: Uuid,
    pub(super) dag: Arc<Dag>,
    pub(super) casts: Vec<Cast>,
    /// The run that is cloned.
    pub(super) origin: Option<Origin>,
    /// How the commands' connections call themselves.
    pub(super) application: String,
    _folder: tempfile::TempDir,
}

/// A drill tenant.
pub(super) struct Cast {
    /// Its name within the drill.
    pub(super) label: String,
    pub(super) tenant: TenantId,
    pub(super) input: Option<Input>,
    /// The tenant's parameters.
    params: Map<String, Value>,
}

/// How a command went.
pub(super) struct Told {
    /// The command as a person would type it.
    pub(super) command: String,
    pub(super) exit: Exit,
    pub(super) stdout: String,
    /// Lines of standard error, each with the moment at which it came, in microseconds since 1970.
    pub(super) stderr: Vec<(i64, String)>,
    pub(super) at: i64,
    pub(super) seconds: f64,
}

impl Told {
    /// The JSON document on standard output.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or(Value::Null)
    }
}

impl<'a> Stage<'a> {
    /// Makes the tenants and their inputs; writes nothing into the store. With `clone`, runs are made from what that
    /// run was pinned to.
    pub(super) async fn set(session: &'a Session<'a>, drill: Drill, clone: Option<&str>) -> Result<Self, Failure> {
        let id = Uuid::now_v7();
        let folder =
            tempfile::tempdir().map_err(|error| Failure::file("can not make a folder for the drill", error))?;
        let origin = match clone.or(drill.subject.clone_of.as_deref()) {
            Some(run) => {
                let store = session.store(OpenMode::Read).await?;
                let (whose, run) = store.find_run(run, None).await?;
                Some(store.origin(&whose, run).await?)
            }
            None => None,
        };
        let dag = match &origin {
            Some(origin) => Arc::clone(&origin.dag),
            None => Arc::new(session.project.dag(&drill.subject.dag, session.output)?),
        };
        if origin.is_some() && dag.id.as_str() != drill.subject.dag {
            let message = format!("the drill is of the DAG {}, the run to clone is of {}", drill.subject.dag, dag.id);
            return Err(Failure::usage(message).hint("name a run of the drill's DAG"));
        }
        if origin.is_some() && !drill.subject.params.is_empty() {
            session.output.note("a clone has the parameters and the seed of its run: [run.params] is not used");
        }
        let params = params(session, &drill, &dag, origin.as_ref())?;
        let short = short(id);
        let mut casts = Vec::new();
        for label in &drill.subject.tenants {
            let tenant = TenantId::parse(&format!("{DRILL_PREFIX}{short}-{label}"))
                .map_err(|error| Failure::usage(error.to_string()))?;
            let (input, mut params) = (copy(session, &drill, &params, &folder.path().join(label))?, params.clone());
            if let (Some(input), Some(name)) = (&input, &drill.subject.input) {
                params.insert(name.clone(), json!(input.copy));
            }
            casts.push(Cast { label: label.clone(), tenant, input, params });
        }
        let application = format!("headworks-drill-{short}");
        session.output.note(&format!("drill {} ({id}): {}", drill.id, drill.title));
        Ok(Self { session, drill, id, dag, casts, origin, application, _folder: folder })
    }

    /// Where the evidence goes, unless somebody says otherwise.
    pub(super) fn evidence_folder(&self) -> PathBuf {
        self.session.config.drill.evidence.join(format!("{}-{}", self.drill.id, short(self.id)))
    }

    /// Which tenant is meant, behind the name of a step or a fault; nothing where there is one alone.
    pub(super) fn suffix(&self, label: &str) -> String {
        if self.casts.len() > 1 { format!(" ({label})") } else { String::new() }
    }

    /// The store, to look at what happened.
    pub(super) async fn look(&self) -> Result<Arc<Store>, Failure> {
        self.session.asking().await
    }

    /// Makes a drill run with the faults that are declared for the step.
    pub(super) async fn make_run(
        &self,
        (step, cast): (&str, &Cast),
        params: &Map<String, Value>,
    ) -> Result<RunId, Failure> {
        let run = RunId::from_uuid(Uuid::now_v7());
        let mut new = match &self.origin {
            Some(origin) => cloned(origin, (run, cast), params),
            None => self.prepared((run, cast), params)?,
        };
        new.faults = self.faults(step, cast);
        let store = self.session.store(OpenMode::Own).await?;
        store.create_run(&new).await?;
        Ok(run)
    }

    fn prepared(&self, (run, cast): (RunId, &Cast), params: &Map<String, Value>) -> Result<NewRun, Failure> {
        let request = Request {
            run,
            dag: Arc::clone(&self.dag),
            kind: RunKind::Drill,
            tenant: cast.tenant.clone(),
            tenant_params: cast.params.clone(),
            params: params.clone(),
            seed: self.drill.subject.seed,
            logical_time: SystemClock.now(),
            interval: None,
            queue_rank: None,
            start_at: 0,
        };
        let (project, read) = (&self.session.project, |path: &Path| std::fs::read_to_string(path));
        Ok(prepare(request, project.kinds(), project.dags(), &read)?)
    }

    fn faults(&self, step: &str, cast: &Cast) -> Vec<Fault> {
        let of_step = self.troubles(step, cast);
        of_step
            .filter_map(|(_, it)| if let Trouble::Attempt(fault) = it { Some(fault.clone()) } else { None })
            .collect()
    }

    /// What is declared to go wrong with a step of a tenant, each with its place among the drill's faults.
    pub(super) fn troubles<'b>(&'b self, step: &'b str, cast: &'b Cast) -> impl Iterator<Item = (usize, &'b Trouble)> {
        let is_his = move |it: &Declared| it.tenant.as_ref().is_none_or(|tenant| *tenant == cast.label);
        let all = self.drill.faults.iter().enumerate();
        all.filter(move |(_, it)| it.step == step && is_his(it)).map(|(at, it)| (at, &it.what))
    }

    /// Gives a command of this binary and waits for its end. `started` is told when `task` has started.
    pub(super) async fn command(&self, args: &[&str], signal: Option<(&str, &Notify)>) -> Result<Told, Failure> {
        let failed = |error| Failure::file("can not start a command of this drill", error);
        let at = SystemClock.now();
        let since = Instant::now();
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        if let Some(file) = &self.session.config_file {
            command.arg("--config").arg(file);
        }
        command.args(args).envs(self.variables()).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let stdout = async {
            let mut text = String::new();
            if let Some(mut out) = out {
                out.read_to_string(&mut text).await?;
            }
            Ok::<_, std::io::Error>(text)
        };
        let stderr = async {
            let mut heard = Vec::new();
            let Some(err) = err else { return Ok(heard) };
            let mut lines = BufReader::new(err).lines();
            while let Some(line) = lines.next_line().await? {
                if let Some((task, started)) = signal.filter(|(task, _)| says_started(&line, task)) {
                    tracing::debug!(task, "the signal of a fault");
                    started.notify_one();
                }
                heard.push((SystemClock.now(), line));
            }
            Ok::<_, std::io::Error>(heard)
        };
        let (stdout, stderr, status) = tokio::join!(stdout, stderr, child.wait());
        let status = status.map_err(failed)?;
        let exit = exit(status);
        let command = format!("headworks {}", args.join(" "));
        let seconds = since.elapsed().as_secs_f64();
        Ok(Told { command, exit, stdout: stdout.map_err(failed)?, stderr: stderr.map_err(failed)?, at, seconds })
    }

    /// The configuration of the commands: that of this process, with a short lease.
    fn variables(&self) -> HashMap<&'static str, String> {
        let config = &self.session.config;
        HashMap::from([
            ("HEADWORKS_STORE_URL", config.store.url.clone()),
            ("HEADWORKS_ARTIFACTS_URL", config.artifacts.url.clone()),
            ("HEADWORKS_DAGS_PATH", config.dags.path.display().to_string()),
            ("HEADWORKS_EXECUTOR_LEASE_TTL_SECONDS", config.drill.lease_ttl_seconds.to_string()),
            // libpq's own variable: whose connections a fault of the database ends, and nobody else's.
            ("PGAPPNAME", self.application.clone()),
        ])
    }

    /// Restarts the database by the configured command; `None` if there is none, or nothing that it could restart.
    pub(super) async fn restart_database(&self) -> Result<Option<Duration>, Failure> {
        if !self.session.config.store.url.starts_with("postgres") {
            return Ok(None);
        }
        let Some((program, args)) = self.session.config.drill.restart_database.split_first() else { return Ok(None) };
        let since = Instant::now();
        let output = Command::new(program).args(args).stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| Failure::file(format!("can not start {program}"), error))?;
        if output.status.success() {
            return Ok(Some(since.elapsed()));
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::usage(format!(
            "{program}, which is to restart the database, ended with {}: {said}",
            output.status
        ))
        .hint("see [drill] restart_database in the configuration"))
    }
}

/// The part of an id that tells drills apart for people: its random end.
fn short(id: Uuid) -> String {
    id.simple().to_string().chars().skip(24).collect()
}

/// SIGKILL is what a drill asks for; any other signal is a code as a shell has it.
fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(9)) => Exit::Killed,
        (None, signal) => Exit::Code(128 + signal.unwrap_or_default()),
    }
}

/// `  train[2] started` or `  features started, attempt 2`
fn says_started(line: &str, task: &str) -> bool {
    let rest = line.trim_start().strip_prefix(task);
    rest.is_some_and(|rest| rest.starts_with([' ', '[']) && rest.contains(" started"))
}

/// The tenant's parameters: those of the run that is cloned, or of the tenant that the drill is like, with the drill's
/// own over them.
fn params(
    session: &Session<'_>,
    drill: &Drill,
    dag: &Dag,
    origin: Option<&Origin>,
) -> Result<Map<String, Value>, Failure> {
    if let Some(origin) = origin {
        return Ok(origin.params.as_object().cloned().unwrap_or_default());
    }
    let like = drill.subject.like.as_deref().map(TenantId::parse).transpose();
    let like = like.map_err(|error| Failure::usage(error.to_string()))?;
    let mut params = match like {
        Some(like) => session.project.tenant_for(&dag.id, Some(&like))?.params_for(&dag.id),
        None => Map::new(),
    };
    params.extend(drill.subject.params.clone());
    Ok(params)
}

fn copy(
    session: &Session<'_>,
    drill: &Drill,
    params: &Map<String, Value>,
    folder: &Path,
) -> Result<Option<Input>, Failure> {
    let Some(name) = &drill.subject.input else { return Ok(None) };
    let Some(path) = params.get(name).and_then(Value::as_str) else {
        let message = format!("the drill's input is the parameter {name:?}, which has no value");
        return Err(Failure::usage(message).hint("set it in [run.params], or name a tenant that has it with `like`"));
    };
    Input::copied(&session.project.root().join(path), folder).map(Some)
}

/// The run of a drill that is what an earlier run was.
fn cloned(origin: &Origin, (run, cast): (RunId, &Cast), own: &Map<String, Value>) -> NewRun {
    let mut params = cast.params.clone();
    params.extend(own.clone());
    let mut tenant_params = origin.tenant_params.as_object().cloned().unwrap_or_default();
    tenant_params.insert("id".into(), json!(cast.tenant));
    for (name, value) in &params {
        if tenant_params.contains_key(name) {
            tenant_params.insert(name.clone(), value.clone());
        }
    }
    NewRun {
        tenant: cast.tenant.clone(),
        run,
        dag: Arc::clone(&origin.dag),
        kind: RunKind::Drill,
        seed: origin.summary.seed,
        params: Value::Object(params),
        tenant_params: Value::Object(tenant_params),
        logical_time: origin.logical_time,
        interval: origin.interval,
        queue_rank: origin.logical_time,
        start_at: 0,
        documents: origin.documents.clone(),
        faults: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sigkill_is_a_kill() {
        // As wait(2) has them: a signal in the low byte, a code in the next one.
        for (raw, expected) in [(9, Exit::Killed), (15, Exit::Code(143)), (4 << 8, Exit::Code(4)), (0, Exit::Code(0))] {
            assert_eq!(exit(ExitStatus::from_raw(raw)), expected);
        }
    }

    #[test]
    fn the_signal_is_the_tasks_own_line() {
        for (line, is_it) in [
            ("  train started", true),
            ("  train[2] started, attempt 2", true),
            ("  trainer started", false),
            ("  ok train succeeded after 1.0 s", false),
            ("run x of train for y: started", false),
        ] {
            assert_eq!(says_started(line, "train"), is_it, "{line}");
        }
    }
}
