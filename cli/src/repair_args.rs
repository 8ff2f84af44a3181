//! The command line's shape for rehearsals and repairs: drills, and the champion that people choose.

use std::path::PathBuf;

use clap::Subcommand;

/// `headworks drill`
#[derive(Debug, Subcommand)]
pub(crate) enum DrillCommand {
    /// Rehearse a runbook: make drill runs, inject what the file declares, do its steps, check what it expects. Exit
    /// code 4 if something does not hold.
    Run(DrillRunArgs),
    /// List the latest drills, newest first.
    List {
        /// Of this one only.
        drill: Option<String>,
        /// How many at the most.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Show what a drill came to.
    Show {
        /// The drill's id (its latest time), or that of one time as `drill list` prints it.
        drill: String,
        /// Write its evidence (evidence.json, evidence.html, incident.md) into this folder.
        #[arg(long, value_name = "FOLDER")]
        evidence: Option<PathBuf>,
    },
}

/// `headworks drill run`
#[derive(Debug, clap::Args)]
pub(crate) struct DrillRunArgs {
    /// The drill's file.
    pub(crate) file: PathBuf,
    /// Use a database and an artifact store of its own, in a temporary folder: nothing of the configured ones is
    /// touched, and nothing but the evidence stays.
    #[arg(long)]
    pub(crate) scratch: bool,
    /// Make the drill's runs from what this run was pinned to, in place of the project's files.
    #[arg(long, value_name = "RUN", conflicts_with = "scratch")]
    pub(crate) clone: Option<String>,
    /// The folder of the evidence [default: one of its own below that of the configuration].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) evidence: Option<PathBuf>,
}

/// `headworks models promote`
#[derive(Debug, clap::Args)]
pub(crate) struct PromoteArgs {
    /// The model's name.
    pub(crate) name: String,
    /// The version.
    pub(crate) version: u32,
    /// Whose model; may be left out where one tenant has it.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Also a version to which no gate has said yes.
    #[arg(long, requires = "reason")]
    pub(crate) force: bool,
    /// Why, for the record.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

/// `headworks models rollback`
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// The model's name.
    pub(crate) name: String,
    /// Whose model; may be left out where one tenant has it.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}
