//! DataFusion as the task kinds use it: bounded memory, spilling to the attempt's scratch, names as they are written.
//!
//! `ingest` and `validate` open their sessions here. Nothing is read from the environment.

use std::path::Path;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

/// Memory that the plans of one attempt may hold before they spill, unless the DAG says otherwise.
pub const DEFAULT_MEMORY_MB: u32 = 512;

/// Opens a session whose plans hold at most `memory_mb` and spill the rest below `scratch`.
///
/// `partitions` sets the parallelism; results must not depend on it.
///
/// # Errors
/// The scratch folder can not be used.
pub fn open(memory_mb: u32, scratch: &Path, partitions: usize) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_mb as usize * 1024 * 1024)))
        .with_temp_file_path(scratch)
        .build_arc()?;
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions.max(1))
        // Side tables are small and on the build side; the source streams past them.
        .with_repartition_joins(false)
        .with_information_schema(false);
    let options = config.options_mut();
    // `UnitPrice` in a contract means the column UnitPrice, without quotes.
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    // The planner splits common expressions out of aggregates and then finds their nullability changed, which its
    // own sanity check takes for a fault. The names and types that we read are checked where they are read.
    options.execution.skip_physical_aggregate_schema_check = true;
    // The sorts' merge phase must find room even if all else is full: a tenth, at most DataFusion's own 10 MiB.
    options.execution.sort_spill_reservation_bytes = (memory_mb as usize * 1024 * 1024 / 10).min(10 << 20);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// As many partitions as there are processors, at most 8: more only adds memory to these plans.
pub fn partitions() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(8)
}

/// An SQL identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
