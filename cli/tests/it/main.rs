//! The binary's integration tests: the real `headworks` on real files and databases.

mod attempts;
mod bench;
#[expect(clippy::print_stdout, reason = "what a failed scenario leaves behind is told through the test runner")]
mod chaos;
mod dags;
mod drills;
mod errors;
mod heavy;
mod night;
mod people;
mod replay;
mod resume;
mod schedule;
mod secrets;
