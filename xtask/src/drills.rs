//! `cargo xtask drills`: every drill of docs/runbooks, from a clean store, on SQLite and Postgres, and a table.
//!
//! The drills are tests of the binary (`cli/tests/it/drills.rs`), so that every test run has them; here they run
//! alone, and their evidence is kept in target/tmp/drills.

use std::time::Instant;

use crate::run::Failure;
use crate::test;

/// Runs the drills and prints the table.
pub fn run() -> Result<(), Failure> {
    let started = Instant::now();
    let shipped = ["-E", "package(headworks) & test(/^drills::shipped::/)"];
    let (ended, text) = test::run_reported(VARIABLE, &shipped, &[]);
    eprint!("{}", table(&text));
    eprintln!("{:.0} s in all, with the build; the evidence is in target/tmp/drills", started.elapsed().as_secs_f64());
    // Nothing that ran is nothing that holds.
    if ended.is_ok() && text.is_empty() {
        return Err(Failure { message: "no drill ran".to_owned(), code: 1 });
    }
    ended
}

/// Where the tests leave their lines.
const VARIABLE: &str = "HEADWORKS_TEST_DRILLS_REPORT";

/// From lines of `drill store verdict seconds detection recovery expectations`.
fn table(text: &str) -> String {
    let mut rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    rows.sort();
    let header = ["drill", "store", "verdict", "seconds", "detected", "recovered", "expectations"];
    let line = |cells: &[&str]| {
        let padded: Vec<String> = cells.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at))).collect();
        padded.join(" ").trim_end().to_owned() + "\n"
    };
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("\n{}{body}", line(&header))
}

/// Of a column: names are long, figures are not.
fn width(column: usize) -> usize {
    if column == 0 { 24 } else { 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_a_table() {
        let text = table("b postgres passed 3.1 0.2 2.0 7/7\na sqlite failed 1.0 - - 1/2\n");
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("drill ") && lines[1].starts_with("a ") && lines[2].ends_with("7/7"), "{text}");
    }
}
