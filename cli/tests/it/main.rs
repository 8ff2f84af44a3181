//! The binary's integration tests: the real `headworks` on real files and databases.

mod attempts;
mod bench;
mod dags;
mod errors;
mod heavy;
mod people;
mod replay;
mod resume;
