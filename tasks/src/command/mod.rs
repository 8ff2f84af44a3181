//! Kind `command`: a program of the user's as a task, in a child process.
//!
//! Registered by the crate. Arguments are passed literally, without a shell, unless `shell = true`;
//! the environment holds what is declared and nothing else; what the program prints goes to the
//! attempt's log while it runs. What is exchanged with the program is in `exchange`, its life in
//! `child`. It is no sandbox: the child has the worker's user, files and network.

mod child;
mod exchange;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command as Process, ExitStatus};
use std::time::Duration;

use async_trait::async_trait;
use engine::dag::{DependsOn, InputSpec, Isolation, OutputSpec, ParamProblem};
use engine::id::ArtifactName;
use engine::task::{ErrorClass, Task, TaskContext, TaskError, TaskOutput};
use nix::sys::signal::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use exchange::Exchange;

/// "Try again later" in `sysexits.h`: how a program says that its failure is worth a retry.
const EX_TEMPFAIL: i32 = 75;

/// The kind.
pub struct Command;

/// Parameters of `command`. No `Debug`: `env` may hold secrets.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandParams {
    /// The program: a name to look for in PATH, an absolute path, or one with a slash, relative to the project's root.
    /// With `shell = true` a script for /bin/sh.
    pub program: String,
    /// Its arguments, passed as they are; with `shell = true` they are $1, $2 and so on.
    #[serde(default)]
    pub args: Vec<Scalar>,
    /// Variables of its environment; a value may be a secret: { secret = "name" }.
    #[serde(default)]
    pub env: BTreeMap<String, Scalar>,
    /// Names of variables that it gets from the worker's environment, if they are set there.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Values of any shape: each as `HEADWORKS_PARAM_<NAME>` (up to 32 KiB), all in the JSON file $HEADWORKS_PARAMS.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// Names of artifacts that it reads; the JSON file $HEADWORKS_INPUTS says where they are.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Names of artifacts that it makes, as files in the folder $HEADWORKS_ARTIFACTS.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// Whether `program` is a script for /bin/sh.
    #[serde(default)]
    pub shell: bool,
    /// Seconds between SIGTERM and SIGKILL on a cancel; the executor's own cancel_grace_seconds ends it earlier.
    #[serde(default = "default_grace")]
    pub grace: f64,
}

/// Half of the executor's default, which leaves it time to read the end of the output.
fn default_grace() -> f64 {
    5.0
}

/// A value that becomes text: an expression such as `{{params.horizon}}` keeps its type.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// As it is.
    Text(String),
    /// In decimal.
    Whole(i64),
    /// In the shortest form that reads back the same.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Whole(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

#[async_trait]
impl Task for Command {
    type Params = CommandParams;

    const KIND: &'static str = "command";
    const CODE_VERSION: u32 = 2;
    const SUMMARY: &'static str = "Runs a program in a child process";
    // Whoever writes `cache = true` says that the program looks at nothing but what it is handed.
    const DEPENDS_ON: DependsOn = DependsOn::Moment;
    const ISOLATION: Isolation = Isolation::Process;
    // Arguments are for everybody to see, `params` are written to a file, the rest are names.
    const SECRETS: &'static [&'static str] = &["env.*"];

    fn inputs(with: &Value) -> Vec<InputSpec> {
        let input = |name| InputSpec { name, many: true, optional: false };
        names(with, "inputs").map(input).collect()
    }

    fn outputs(with: &Value) -> Vec<OutputSpec> {
        names(with, "outputs").map(|name| OutputSpec { name, summary: "made by the program".to_owned() }).collect()
    }

    fn variables(with: &Value) -> Vec<String> {
        let names = with.get("pass_env").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    }

    fn check(params: &CommandParams) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        let mut problem = |path: &[&str], message: String, help: &str| {
            let path = path.iter().map(|key| (*key).to_owned()).collect();
            problems.push(ParamProblem { path, message, help: Some(help.to_owned()) });
        };
        if params.program.is_empty() {
            problem(&["program"], "is empty".to_owned(), "name a program, or write a script and set shell = true");
        }
        if !(0.0..=3600.0).contains(&params.grace) {
            problem(&["grace"], format!("is {}", params.grace), "give seconds from 0 to 3600");
        }
        for name in params.env.keys().filter(|name| !is_variable(name) || name.starts_with("HEADWORKS_")) {
            let help = "use [A-Za-z_][A-Za-z0-9_]*, but not HEADWORKS_, which the engine sets";
            problem(&["env", name], format!("{name:?} can not be declared"), help);
        }
        for name in params.pass_env.iter().filter(|name| !may_pass(name)) {
            let help = "variables that change how programs are loaded are declared in `env`, not passed on";
            problem(&["pass_env"], format!("{name:?} can not be passed on"), help);
        }
        for name in params.params.keys().filter(|name| !is_param(name)) {
            problem(&["params", name], format!("{name:?} can not become a variable"), "use [a-z][a-z0-9_]*");
        }
        for (key, listed) in [("inputs", &params.inputs), ("outputs", &params.outputs)] {
            for (at, name) in listed.iter().enumerate() {
                if let Err(error) = ArtifactName::parse(name) {
                    problem(&[key], format!("{name:?} is no artifact name"), &error.to_string());
                }
                if listed[..at].contains(name) {
                    problem(&[key], format!("{name:?} is there already"), "name each artifact once");
                }
            }
        }
        problems
    }

    async fn run(&self, context: &TaskContext, params: CommandParams) -> Result<TaskOutput, TaskError> {
        let exchange = Exchange::prepare(context, &params).await?;
        context.check_canceled()?;
        let process = process(context, &params, &exchange);
        let running = child::spawn(process).map_err(|error| spawn_error(&params, error))?;
        let grace = Duration::from_secs_f64(params.grace);
        let ended = running.finish(context, grace).await;
        let ended = ended.map_err(|error| TaskError::transient_from("lost track of the child process", error))?;
        if ended.canceled {
            return Err(TaskError::Canceled);
        }
        judge(&params, ended.status, &ended.last.text())?;
        let outputs = exchange.outputs()?;
        publish(context, &params, &exchange).await?;
        Ok(TaskOutput::new(outputs))
    }
}

fn names<'a>(with: &'a Value, key: &str) -> impl Iterator<Item = ArtifactName> + use<'a> {
    // What is no name is reported by `check`; a template is no name either.
    with.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(|name| {
        let name = name.as_str()?;
        ArtifactName::parse(name).ok()
    })
}

fn is_variable(name: &str) -> bool {
    let first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.as_bytes().first().is_some_and(first) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_param(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The loader's variables are meant for the worker; in a child they would run code nobody declared.
fn may_pass(name: &str) -> bool {
    is_variable(name) && !["LD_", "DYLD_", "HEADWORKS_"].iter().any(|prefix| name.starts_with(prefix))
}

fn process(context: &TaskContext, params: &CommandParams, exchange: &Exchange) -> Process {
    let mut process = if params.shell {
        let mut shell = Process::new("/bin/sh");
        // What follows the script is $0, then $1: with a name of its own, the shell's messages start with it.
        shell.arg("-c").arg(&params.program).arg(Command::KIND);
        shell
    } else if params.program.contains('/') {
        Process::new(context.source_path(&params.program))
    } else {
        Process::new(&params.program)
    };
    process.args(params.args.iter().map(Scalar::to_string));
    process.env_clear().envs(exchange.environment(context, params)).current_dir(exchange.work());
    process
}

fn spawn_error(params: &CommandParams, error: io::Error) -> TaskError {
    let program = if params.shell { "/bin/sh" } else { &params.program };
    let permanent = |message: String| TaskError::permanent(ErrorClass::System, message);
    match error.kind() {
        io::ErrorKind::NotFound => permanent(format!(
            "program {program:?} was not found; names are looked for in PATH, which is {} unless `env` declares it, \
             paths are relative to the project's root, and the interpreter in a script's first line has to exist",
            exchange::DEFAULT_PATH
        )),
        io::ErrorKind::PermissionDenied => {
            permanent(format!("program {program:?} may not be executed; is it a program, with its x bit set?"))
        }
        io::ErrorKind::InvalidInput => permanent(format!("an argument or variable of {program:?} holds a NUL byte")),
        io::ErrorKind::ArgumentListTooLong => permanent(format!(
            "the arguments and variables of {program:?} are larger than the system takes; hand them over in `params`, \
             which the program reads from $HEADWORKS_PARAMS"
        )),
        _ => TaskError::transient_from(format!("can not start {program:?}"), error),
    }
}

fn judge(params: &CommandParams, status: ExitStatus, last_lines: &str) -> Result<(), TaskError> {
    let program = if params.shell { "the script" } else { &params.program };
    let printed = if last_lines.is_empty() { String::new() } else { format!("; it printed last:\n{last_lines}") };
    if let Some(signal) = status.signal() {
        let name = Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |name| name.to_string());
        return Err(TaskError::Crashed { message: format!("{program} was killed by {name}{printed}") });
    }
    match status.code() {
        Some(0) => Ok(()),
        Some(EX_TEMPFAIL) => {
            let message = format!("{program} asked for another try (exit code 75){printed}");
            Err(TaskError::Transient { class: ErrorClass::System, message, source: None })
        }
        code => {
            let code = code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit code {code}"));
            Err(TaskError::permanent(ErrorClass::System, format!("{program} ended with {code}{printed}")))
        }
    }
}

async fn publish(context: &TaskContext, params: &CommandParams, exchange: &Exchange) -> Result<(), TaskError> {
    let files: Vec<(&String, PathBuf)> = params.outputs.iter().map(|name| (name, exchange.artifact(name))).collect();
    // A link would publish what lies outside the attempt's folder.
    let is_made = |path: &PathBuf| path.symlink_metadata().is_ok_and(|facts| facts.is_file());
    let missing: Vec<_> = files.iter().filter(|(_, path)| !is_made(path)).map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        let message = format!(
            "the program ended well, but did not make {}; each is to be a regular file in $HEADWORKS_ARTIFACTS",
            missing.join(", ")
        );
        return Err(TaskError::permanent(ErrorClass::System, message));
    }
    for (name, path) in files {
        context.publish_file(name, &path).await?;
    }
    Ok(())
}
