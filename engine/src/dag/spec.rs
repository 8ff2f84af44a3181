//! The shape of a DAG's TOML, with spans.
