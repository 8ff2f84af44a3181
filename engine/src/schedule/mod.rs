//! Schedules: from a rule, a zone, calendars and a moment to what is due.
//!
//! Called by `scheduler` (what is due now), by `launch` and the command line (next fires, backfill) and
//! by whoever checks DAGs (errors and lints). Pure: no clock, no I/O, no randomness, nothing remembered
//! between calls. Instants are microseconds since 1970-01-01T00:00Z; fires are from year 1 to 9999.
//!
//! ```text
//! cron_text -> cron (bits)  \
//! every                      > rule \
//!                             zone   > timeline (nominal fires, clock changes) -> timetable -> due
//! calendar_text -> calendar (days) ------------------------------------------------^
//! spec ([schedule] as JSON) makes all of it;   jitter, lint beside
//! ```
//!
//! Read `timeline` for what happens when clocks change, `timetable` for data intervals and calendars,
//! `due` for catch-up, `cron_text` for the grammar.

mod bits;
mod calendar;
mod calendar_text;
mod civil;
mod cron;
mod cron_text;
mod due;
pub(crate) mod duration;
mod jitter;
mod lint;
mod rule;
mod spec;
mod timeline;
mod timetable;
mod zone;

#[cfg(test)]
mod tests;

pub use calendar::{Calendar, CalendarError, Calendars};
pub use civil::Date;
pub use cron_text::CronError;
pub use due::Due;
pub use duration::parse as parse_duration;
pub use jitter::jitter_offset;
pub use lint::{Lint, lint};
pub use rule::{Rule, check};
pub use spec::{Blackout, CatchUp, Schedule, ScheduleError};
pub use timeline::{Dst, Gap, Overlap};
pub use timetable::local_date;
pub use timetable::{Fire, Intervals, Order, Timetable};
pub use zone::tzdb_version;
