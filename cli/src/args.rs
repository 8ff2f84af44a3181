//! The command line's shape: what can be asked, with the help that users read.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use engine::store::Window;

use crate::plan_args::{AlertsArgs, BackfillArgs, BackfillsCommand, ScheduleCommand, TenantsCommand};
use crate::repair_args::{DrillCommand, PromoteArgs, RollbackArgs};

/// Runs demand-forecasting DAGs for many tenants, and can prove on Monday what happened on Sunday.
#[derive(Debug, Parser)]
#[command(name = "headworks", version, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Print one JSON document on standard output, everything else on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration file [default: headworks.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE", env = "HEADWORKS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a run and execute it here to its end.
    Run(RunArgs),
    /// Report everything that is wrong with DAG files and drills (all of dags/ and docs/runbooks/ if none is named).
    Validate {
        /// DAG files, drill files.
        files: Vec<PathBuf>,
    },
    /// Look at a DAG, compare it with what is in force, put it in force, pause it.
    #[command(subcommand)]
    Dag(DagCommand),
    /// Look at schedules.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Look at tenants, put them in force, pause them.
    #[command(subcommand)]
    Tenants(TenantsCommand),
    /// Make runs for past intervals, below every live run; executed by `serve` and `worker`.
    Backfill(BackfillArgs),
    /// Look at backfills; pause, resume or cancel one.
    #[command(subcommand)]
    Backfills(BackfillsCommand),
    /// List what people have to know: deadlines, quotas, runs that could not be made.
    Alerts(AlertsArgs),
    /// Look at runs, or cancel one.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Say why a task is where it is: the chain of blockers, or the cause of death.
    Why(WhyArgs),
    /// Run again what failed in a run that has ended, and all that depends on it; executed here to its end.
    Retry(RetryArgs),
    /// Make a new run from what an ended one was pinned to, taking over what need not run; executed here to its
    /// end.
    Replay(ReplayArgs),
    /// Look at what runs published.
    #[command(subcommand)]
    Artifacts(ArtifactsCommand),
    /// Look at the model registry; choose another champion.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Rehearse a runbook; look at what earlier rehearsals came to.
    #[command(subcommand)]
    Drill(DrillCommand),
    /// Look after the database.
    #[command(subcommand)]
    Db(DbCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Execute whatever is ready, and do what time causes, until SIGTERM.
    Serve(ServeArgs),
    /// One more worker, on Postgres.
    Worker(WorkerArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Run one attempt, handed over by a worker on standard input.
    #[command(hide = true)]
    Attempt,
}

/// `headworks serve`
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) listen: std::net::SocketAddr,
    /// Attempts at once [default: as configured].
    #[arg(long)]
    pub(crate) slots: Option<usize>,
}

/// `headworks worker`
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// Attempts at once [default: as configured].
    #[arg(long)]
    pub(crate) slots: Option<usize>,
}

/// `headworks bench`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The engine on tasks that do nothing, beside what the database can do.
    Engine(BenchArgs),
    /// The other process of `bench engine --workload w6`.
    #[command(hide = true)]
    Worker {
        /// The benchmark's database.
        #[arg(long, value_name = "URL")]
        store: String,
    },
    /// Schedules that come due, and a backfill beside live runs.
    Scheduler {
        /// An empty database [default: SQLite in a temporary folder].
        #[arg(long, value_name = "URL")]
        store: Option<String>,
    },
}

/// `headworks bench engine`
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Which; all if none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) workload: Vec<Workload>,
    /// An empty database [default: SQLite in a temporary folder].
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Attempts at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) slots: usize,
    /// Where attempts run: in the engine's process, which measures the engine, or in one of their own,
    /// which measures that.
    #[arg(long, value_enum, default_value_t = Isolation::Inline)]
    pub(crate) isolation: Isolation,
}

/// Where a benchmark's attempts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// In the engine's process.
    Inline,
    /// In a process of their own.
    Process,
}

impl Isolation {
    /// As a DAG says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Process => "process",
        }
    }
}

/// A workload of the engine's benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// A chain of 40 no-ops.
    W1,
    /// One, 1,000 at once, one.
    W3,
    /// 100 runs of ten-task chains at once.
    W4,
    /// Ten layers of ten, fully connected.
    W5,
    /// Dispatch latency on an idle engine.
    W6,
    /// 10,000 tasks of 100 ms.
    W7,
    /// Fairness between a tenant with 100,000 ready tasks and one with a task per second.
    W8,
    /// A fan-out to 100,000 elements: made, shown, asked about.
    W9,
}

impl Workload {
    /// As it is named on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::W1 => "w1",
            Self::W3 => "w3",
            Self::W4 => "w4",
            Self::W5 => "w5",
            Self::W6 => "w6",
            Self::W7 => "w7",
            Self::W8 => "w8",
            Self::W9 => "w9",
        }
    }
}

/// `headworks run`
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// A DAG's id, or a DAG file.
    #[arg(required_unless_present = "resume")]
    pub(crate) dag: Option<String>,
    /// Whose run; may be left out where one tenant takes this DAG.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// A parameter of the DAG, as name=value; again for more.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// The data interval, half-open: two RFC 3339 instants with a slash between them.
    #[arg(long, value_name = "START/END")]
    pub(crate) interval: Option<String>,
    /// The run's seed: the same one gives the same bytes.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Go on with a run whose process ended; what had finished stays finished.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["params", "interval", "seed"])]
    pub(crate) resume: Option<String>,
}

/// `headworks dag`
#[derive(Debug, Subcommand)]
pub(crate) enum DagCommand {
    /// Show the graph.
    Show {
        /// A DAG's id, or a DAG file.
        dag: String,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
        format: GraphFormat,
    },
    /// Say what putting a file in force would change: tasks, what is computed anew, fire times, runs, pools.
    Plan {
        /// A DAG's id, or a DAG file.
        dag: String,
    },
    /// Put DAG files in force, with the tenants that take them: new runs are pinned to these versions.
    Apply {
        /// DAG files (all of dags/ if none is named).
        files: Vec<PathBuf>,
    },
    /// Let nothing of a DAG come due or start; what runs goes on.
    Pause(PauseArgs),
    /// End a pause; `catchup` says what becomes of the fires in between.
    Resume(PauseArgs),
}

/// `headworks dag pause` and `resume`
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// A DAG's id.
    pub(crate) dag: String,
    /// For this tenant only.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

/// How a graph is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Levels, for people.
    Text,
    /// Graphviz.
    Dot,
    /// For scripts.
    Json,
}

/// `headworks runs`
#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List the latest runs, newest first.
    List {
        /// Of one tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Of one DAG.
        #[arg(long)]
        dag: Option<String>,
        /// How many at the most.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Show one run with its tasks and artifacts. The table sums up a task with more than 20 elements by
    /// state; --json lists them all, up to the limit.
    Show {
        /// The run's id, or at least its first eight characters.
        run: String,
        /// Whose run it is.
        #[arg(long)]
        tenant: Option<String>,
        /// How many lines of the table, or task instances of the JSON document, at the most.
        #[arg(long, default_value_t = Window::DEFAULT_LIMIT)]
        limit: u64,
        /// How many of them to pass over.
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Show what happened in a run, in order of time.
    Events {
        /// The run's id, or at least its first eight characters.
        run: String,
        /// Of one task, all its generations; `train[2]` for an element of a matrix.
        #[arg(long)]
        task: Option<String>,
        /// Whose run it is.
        #[arg(long)]
        tenant: Option<String>,
        /// How many at the most.
        #[arg(long, default_value_t = 200)]
        limit: u64,
        /// How many to pass over.
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Cancel a run: what waits ends at once, what runs is told to stop, wherever it runs.
    Cancel {
        /// The run's id, or at least its first eight characters.
        run: String,
        /// Whose run it is.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Say how a night went: one line per tenant and DAG, with why it failed, waits or did not run.
    Summary {
        /// Of this DAG only.
        #[arg(long)]
        dag: Option<String>,
        /// RFC 3339; runs created since [default: a day ago].
        #[arg(long)]
        since: Option<String>,
    },
    /// Print what a run's attempts printed.
    Logs(LogsArgs),
}

/// `headworks runs logs`
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The run's id, or at least its first eight characters.
    pub(crate) run: String,
    /// Of one task; `train[2]` for an element of a matrix.
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// Go on until the run has ended. With --json, one document per line.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Whose run it is.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `headworks why`
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// The run's id, or at least its first eight characters.
    pub(crate) run: String,
    /// The task; `train[2]` for an element of a matrix. Without an element, the most telling one is picked.
    pub(crate) task: String,
    /// The element of a task with a matrix, from 0.
    #[arg(long, value_name = "N")]
    pub(crate) index: Option<u32>,
    /// Whose run it is.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `headworks retry`
#[derive(Debug, clap::Args)]
pub(crate) struct RetryArgs {
    /// The run's id, or at least its first eight characters.
    pub(crate) run: String,
    /// This task, however it ended, in place of all that failed; `train[2]` for an element of a matrix.
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Whose run it is.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `headworks replay`
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct ReplayArgs {
    /// The run's id, or at least its first eight characters.
    pub(crate) run: String,
    /// What did not end well, and all below it.
    #[arg(long, value_enum, group = "what")]
    pub(crate) from: Option<ReplayFrom>,
    /// This task, and all below it; `train[2]` for an element of a matrix.
    #[arg(long, group = "what")]
    pub(crate) task: Option<String>,
    /// Everything.
    #[arg(long, group = "what")]
    pub(crate) all: bool,
    /// What the run was pinned to, or the DAG, the tenant's file and the documents as they are now. Then what
    /// has changed runs, too.
    #[arg(long, value_enum, default_value_t = ReplayVersion::Pinned)]
    pub(crate) version: ReplayVersion,
    /// A parameter in place of the earlier run's, as name=value; again for more. Only with --version latest.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Say what would run, what would be reused, and why; change nothing.
    #[arg(long)]
    pub(crate) plan: bool,
    /// Compare what comes out with what came out then; nothing is promoted. Exit code 4 unless all is identical.
    #[arg(long, conflicts_with = "plan")]
    pub(crate) verify: bool,
    /// Whose run it is.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplayFrom {
    /// At what did not end well.
    Failed,
}

/// What a replay is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplayVersion {
    /// What the earlier run was pinned to.
    Pinned,
    /// What there is now.
    Latest,
}

/// `headworks artifacts`
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactsCommand {
    /// List what a run published.
    List {
        /// The run's id, or at least its first eight characters.
        run: String,
        /// Whose run it is.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Copy an artifact out of the store, its digest checked.
    Get {
        /// The run's id, or at least its first eight characters.
        run: String,
        /// The task that made it; `train[2]` for an element of a matrix.
        task: String,
        /// Its name.
        name: String,
        /// The file to write [default: the artifact's name; - = standard output].
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Whose run it is.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Read every object of a run, or of all runs, and name those that are missing or are not what was published.
    /// Exit code 4 if there is one.
    Verify {
        /// The run's id, or at least its first eight characters [default: all runs].
        run: Option<String>,
        /// Of one tenant.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show what an artifact was made from, and what was made from it, through all runs.
    Lineage(LineageArgs),
    /// Find the first of the runs between two whose artifact is bad, by halves.
    Bisect(BisectArgs),
}

/// `headworks artifacts lineage`
#[derive(Debug, clap::Args)]
pub(crate) struct LineageArgs {
    /// The run's id, or at least its first eight characters.
    pub(crate) run: String,
    /// The task that made it; `train[2]` for an element of a matrix.
    pub(crate) task: String,
    /// Its name.
    pub(crate) name: String,
    /// Only what it was made from.
    #[arg(long, conflicts_with = "down")]
    pub(crate) up: bool,
    /// Only what was made from it.
    #[arg(long)]
    pub(crate) down: bool,
    /// How to show it.
    #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
    pub(crate) format: GraphFormat,
    /// Whose run it is.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `headworks artifacts bisect`
#[derive(Debug, clap::Args)]
pub(crate) struct BisectArgs {
    /// The task that makes it; `train[2]` for an element of a matrix.
    pub(crate) task: String,
    /// Its name.
    pub(crate) name: String,
    /// A run of which it is known to be good.
    #[arg(long, value_name = "RUN")]
    pub(crate) good: String,
    /// A later run of the same DAG of which it is known to be bad.
    #[arg(long, value_name = "RUN")]
    pub(crate) bad: String,
    /// A program that judges it, with its arguments, run without a shell on a checked copy, whose path is added
    /// as the last argument: 0 = good, 125 = can not tell, any other code = bad. Comes last. Without it, good is
    /// what has the digest of the good run's.
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) check: Vec<String>,
    /// Whose runs they are.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `headworks models`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List model versions, newest first.
    List {
        /// Of one tenant.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Make a version the champion: one to which the gate has said yes, or any with --force.
    Promote(PromoteArgs),
    /// Make the champion before this one the champion again.
    Rollback(RollbackArgs),
    /// Show a model's versions, figures and decisions.
    Show {
        /// The model's name.
        name: String,
        /// Whose model; may be left out where one tenant has it.
        #[arg(long)]
        tenant: Option<String>,
    },
}

/// `headworks db`
#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Bring the database to this binary's schema.
    Migrate,
    /// Show which migrations the database has.
    Status,
}

/// `headworks config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the commented default configuration.
    Default,
}
