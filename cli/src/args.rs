//! The command line's shape: what can be asked, with the help that users read.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

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
    /// Report everything that is wrong with DAG files (all of dags/ if none is named).
    Validate {
        /// DAG files.
        files: Vec<PathBuf>,
    },
    /// Look at a DAG.
    #[command(subcommand)]
    Dag(DagCommand),
    /// Look at runs.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Look at what runs published.
    #[command(subcommand)]
    Artifacts(ArtifactsCommand),
    /// Look at the model registry.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Look after the database.
    #[command(subcommand)]
    Db(DbCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run one attempt, handed over by a worker on standard input.
    #[command(hide = true)]
    Attempt,
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
    /// Show one run with its tasks and artifacts.
    Show {
        /// The run's id, or at least its first eight characters.
        run: String,
        /// Whose run it is.
        #[arg(long)]
        tenant: Option<String>,
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
