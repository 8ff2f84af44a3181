//! The command line of what comes due: schedules, tenants, backfills, alerts.
//!
//! Parsed with the rest in `args`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

/// `headworks schedule`
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Print the next fire times, with their data intervals.
    Next(NextArgs),
    /// List who takes which DAG, and when it comes due.
    List {
        /// Only this DAG's.
        #[arg(long)]
        dag: Option<String>,
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
        /// How many at the most.
        #[arg(long, default_value_t = 200)]
        limit: u64,
    },
}

/// `headworks schedule next`
#[derive(Debug, clap::Args)]
pub(crate) struct NextArgs {
    /// A DAG's id, or a DAG file.
    #[arg(required_unless_present = "cron", conflicts_with_all = ["cron", "timezone"])]
    pub(crate) dag: Option<String>,
    /// A rule in place of a DAG: five-field Unix cron, six fields with seconds, seven with a year, @daily.
    #[arg(long, value_name = "EXPR")]
    pub(crate) cron: Option<String>,
    /// A name of the IANA database.
    #[arg(long, value_name = "TZ", requires = "cron", default_value = "UTC")]
    pub(crate) timezone: String,
    /// A fire time that the clock leaves out: at the end of the gap, or not at all.
    #[arg(long, value_enum, requires = "cron", default_value_t = GapArg::Shift)]
    pub(crate) gap: GapArg,
    /// A fire time that the clock shows twice: the first time, the last, or both.
    #[arg(long, value_enum, requires = "cron", default_value_t = OverlapArg::First)]
    pub(crate) overlap: OverlapArg,
    /// With this tenant's own schedule and jitter.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// RFC 3339; fires after this instant [default: now].
    #[arg(long, value_name = "T")]
    pub(crate) from: Option<String>,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 10)]
    pub(crate) count: usize,
}

/// What becomes of a fire time in a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GapArg {
    /// It fires at the end of the gap.
    Shift,
    /// It does not fire.
    Skip,
}

/// What becomes of a fire time in an overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverlapArg {
    /// It fires the first time.
    First,
    /// It fires the last time.
    Last,
    /// It fires both times.
    Both,
}

/// `headworks tenants`
#[derive(Debug, Subcommand)]
pub(crate) enum TenantsCommand {
    /// List tenants: those of the files, or of the database where there is one.
    List,
    /// Put tenants' files in force: status, weight, quotas, parameters, schedules.
    Apply {
        /// Tenants' files (all of dags/tenants/ if none is named).
        files: Vec<PathBuf>,
    },
    /// Put one new tenant's file in force, and show what it will run and when.
    Onboard {
        /// The tenant's file.
        file: PathBuf,
    },
    /// Let nothing of a tenant come due or start; what runs goes on.
    Pause {
        /// The tenant.
        tenant: String,
        /// Why, for the record.
        #[arg(long)]
        reason: Option<String>,
    },
    /// End a pause.
    Resume {
        /// The tenant.
        tenant: String,
    },
}

/// `headworks backfill`
#[derive(Debug, clap::Args)]
pub(crate) struct BackfillArgs {
    /// A DAG's id.
    pub(crate) dag: String,
    /// RFC 3339, or a date in the schedule's zone: the first interval begins here or later.
    #[arg(long, value_name = "A")]
    pub(crate) from: String,
    /// RFC 3339, or a date: the last interval ends here or earlier.
    #[arg(long, value_name = "B")]
    pub(crate) to: String,
    /// Whose runs.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Which intervals first.
    #[arg(long, value_enum, default_value_t = OrderArg::Asc)]
    pub(crate) order: OrderArg,
    /// Which intervals that have a run already are run again.
    #[arg(long, value_enum, default_value_t = ReprocessArg::None)]
    pub(crate) reprocess: ReprocessArg,
    /// Runs of it that are active at once [default: the DAG's `max_active_runs`, or 4].
    #[arg(long, value_name = "N")]
    pub(crate) max_active: Option<u32>,
    /// A parameter, `name=value`; may be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Say what it would do, and change nothing.
    #[arg(long)]
    pub(crate) plan: bool,
}

/// The order of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    /// The oldest.
    Asc,
    /// The newest.
    Desc,
}

/// What of the past is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReprocessArg {
    /// Nothing: only intervals without a run.
    None,
    /// What failed or was canceled.
    Failed,
    /// Everything.
    All,
}

/// `headworks backfills`
#[derive(Debug, Subcommand)]
pub(crate) enum BackfillsCommand {
    /// List backfills, the newest first.
    List {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
        /// How many at the most.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Let nothing of a backfill start; what runs goes on.
    Pause(BackfillId),
    /// Go on with a paused backfill.
    Resume(BackfillId),
    /// End a backfill: its queued runs are canceled at once, those that run are told to stop.
    Cancel(BackfillId),
}

/// Which backfill.
#[derive(Debug, clap::Args)]
pub(crate) struct BackfillId {
    /// The backfill's id, or its first characters.
    pub(crate) backfill: String,
    /// Whose.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `headworks alerts`
#[derive(Debug, clap::Args)]
pub(crate) struct AlertsArgs {
    /// Only this tenant's.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Also those that are resolved.
    #[arg(long)]
    pub(crate) all: bool,
    /// How many at the most.
    #[arg(long, default_value_t = 200)]
    pub(crate) limit: u64,
}
