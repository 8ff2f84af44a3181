//! Where it all came from: the run as pinned, and every artifact that the report was made from.

use crate::report::material::Material;
use crate::report::number::{bytes, count};
use crate::report::page::{Cell, Section, Table};

const ID: &str = "lineage";
const TITLE: &str = "Lineage";

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    let run = &material.run;
    let lead = "The same DAG version, parameters, seed and inputs give the same bytes again.";
    let mut section = Section::new(ID, TITLE, lead);
    let mut pinned = Table::new("The run as pinned", &["What", "Value"]);
    pinned.row(vec![Cell::text("Run"), Cell::code(&run.run_id)]);
    pinned.row(vec![Cell::text("DAG version"), Cell::code(&run.dag_version)]);
    pinned.row(vec![Cell::text("Seed"), Cell::code(run.seed.to_string())]);
    for (name, value) in &run.params {
        pinned.row(vec![Cell::text(format!("Parameter {name}")), Cell::code(value)]);
    }
    section.table(pinned);
    if material.sources.is_empty() {
        section.heading("Inputs", "No upstream task handed anything to this report.");
        return section;
    }
    let mut inputs = Table::new(
        "Artifacts that this report was made from",
        &["Artifact", "Made by", "#Size", "#Rows", "blake3 digest"],
    );
    for source in &material.sources {
        inputs.row(vec![
            Cell::code(&source.name),
            Cell::code(&source.producer),
            Cell::number(bytes(source.bytes)),
            Cell::number(source.rows.map(count).unwrap_or_default()),
            Cell::code(&source.digest),
        ]);
    }
    section.table(inputs);
    section
}
