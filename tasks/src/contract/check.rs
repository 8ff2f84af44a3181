//! Mistakes of meaning in a contract that parsed, all at once.
//!
//! Called by `Contract::parse`. SQL is only looked at for its place, not planned: that needs the source.

use super::{Column, Contract, Duplicates, Frequency, Table};

/// Named aggregates; anything else must be an SQL aggregate with parentheses.
pub(super) const NAMED_AGGREGATES: [&str; 7] = ["sum", "mean", "min", "max", "first", "last", "count"];

/// Names that ingest itself uses in the panel or in its plans.
const RESERVED: [&str; 2] = ["series", "closed"];

pub(super) fn problems(contract: &Contract) -> Vec<String> {
    let mut found = Vec::new();
    header(contract, &mut found);
    tables(contract, &mut found);
    for (name, column) in &contract.columns {
        column_problems(contract, name, column, &mut found);
    }
    if let Some(closed) = &contract.policies.closed
        && closed.sql.is_some() == closed.grid.is_some()
    {
        found.push("policies.closed: give either `sql` (over a source row) or `grid` (over series and time)".into());
    }
    if let Some(outliers) = &contract.policies.outliers
        && !(outliers.above.is_finite() && outliers.above > 0.0)
    {
        found.push(format!("policies.outliers.above: {} is no bound; give a number above 0", outliers.above));
    }
    found
}

fn header(contract: &Contract, found: &mut Vec<String>) {
    if contract.contract.name.trim().is_empty() {
        found.push("contract.name: is empty".into());
    }
    if contract.contract.frequency != Frequency::D {
        found.push(format!(
            "contract.frequency: {:?} is not made into a panel by this version; use \"D\"",
            contract.contract.frequency
        ));
    }
    if contract.grain.is_empty() {
        found.push("grain: name at least one column that tells the series apart, like `store = \"Store\"`".into());
    }
    for required in ["time", "demand"] {
        if !contract.columns.contains_key(required) {
            found.push(format!("columns.{required}: is missing; every panel has it"));
        }
    }
}

fn tables(contract: &Contract, found: &mut Vec<String>) {
    table("source", &contract.source, found);
    if contract.source.path.is_some() || !contract.source.key.is_empty() {
        found
            .push("source: `path` and `key` are for side tables; the DAG or the tenant names the source's path".into());
    }
    for (name, side) in &contract.side {
        let at = format!("side.{name}");
        table(&at, side, found);
        if name == "source" || !is_identifier(name) {
            found.push(format!("{at}: SQL can not use this name; take letters, digits and _, and not `source`"));
        }
        if side.path.is_none() {
            found.push(format!("{at}.path: is missing; give the file, relative to the source's folder"));
        }
        if side.key.is_empty() {
            found.push(format!("{at}.key: is missing; give `{{ side_column = \"SQL over the source\" }}`"));
        }
        for column in side.key.keys().filter(|column| !side.columns.contains_key(*column)) {
            found.push(format!("{at}.key: {column} is not among {at}.columns"));
        }
    }
}

fn table(at: &str, table: &Table, found: &mut Vec<String>) {
    if table.columns.is_empty() {
        found.push(format!("{at}.columns: declare the columns that the SQL uses, with their types"));
    }
    if !table.delimiter.is_ascii() || matches!(table.delimiter, '"' | '\n' | '\r') {
        found.push(format!("{at}.delimiter: {:?} can not separate fields; use one ASCII character", table.delimiter));
    }
    if table.sha256.as_ref().is_some_and(|pin| pin.len() != 64 || !pin.bytes().all(|b| b.is_ascii_hexdigit())) {
        found.push(format!("{at}.sha256: must be 64 hexadecimal digits"));
    }
    for column in table.columns.keys().filter(|column| column.starts_with("__")) {
        found.push(format!("{at}.columns.{column}: names that start with __ are ingest's own"));
    }
}

fn column_problems(contract: &Contract, name: &str, column: &Column, found: &mut Vec<String>) {
    let at = format!("columns.{name}");
    if RESERVED.contains(&name) || !is_identifier(name) {
        found.push(format!("{at}: the panel can not use this name; take lower-case letters, digits and _"));
    }
    let own_aggregate = column.aggregate.as_deref().is_some_and(|aggregate| aggregate.contains('('));
    let origins = usize::from(column.sql.is_some()) + usize::from(column.grid.is_some()) + usize::from(own_aggregate);
    if origins != 1 {
        found.push(format!("{at}: give exactly one of `sql`, `grid`, or an `aggregate` like \"sum(a) / sum(b)\""));
    }
    if let Some(aggregate) = column.aggregate.as_deref()
        && !own_aggregate
        && !NAMED_AGGREGATES.contains(&aggregate)
    {
        found.push(format!("{at}.aggregate: {aggregate:?} is not known; use {}", NAMED_AGGREGATES.join(", ")));
    }
    match name {
        "time" if column.sql.is_none() || column.aggregate.is_some() => {
            found.push(format!("{at}: is `sql` alone; rows are grouped by it"));
        }
        "demand" if column.grid.is_some() => found.push(format!("{at}.grid: demand comes from the source")),
        "time" | "demand" if column.role.is_some() => found.push(format!("{at}.role: has its own; leave it out")),
        "time" | "demand" => {}
        _ => covariate_problems(contract, &at, column, found),
    }
}

fn covariate_problems(contract: &Contract, at: &str, column: &Column, found: &mut Vec<String>) {
    if column.role.is_none() {
        found.push(format!("{at}.role: is missing; say static, past_only or known_future"));
    }
    let summed = contract.policies.duplicates == Duplicates::Sum;
    if summed && column.sql.is_some() && column.aggregate.is_none() {
        found.push(format!("{at}.aggregate: is missing; rows are summed per period, so say how this column is"));
    }
    if !summed && column.aggregate.is_some() {
        found.push(format!("{at}.aggregate: needs policies.duplicates = \"sum\"; otherwise one row makes a period"));
    }
}

fn is_identifier(name: &str) -> bool {
    name.len() <= 63
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
