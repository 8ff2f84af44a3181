//! `cargo xtask chaos`: many seeds of the chaos scenarios, and a table of what came of them.
//!
//! The scenarios are tests of the binary (`cli/tests/it/chaos`); a full test run has a few seeds of
//! each. Here the number of seeds, the scenario and the database can be chosen. Every failure is named
//! with its seed: `--scenario F6 --first 17 --seeds 1` is that one again.

use std::collections::BTreeMap;

use crate::run::Failure;
use crate::test;

/// What to run.
#[derive(Debug, PartialEq)]
struct Campaign {
    seeds: u64,
    first: u64,
    /// `F1` ...; all if `None`.
    scenario: Option<String>,
    /// `sqlite` or `postgres`; both if `None`.
    store: Option<String>,
}

/// Runs of one scenario on one database.
#[derive(Debug, Default, PartialEq)]
struct Row {
    runs: usize,
    failed: Vec<String>,
    longest: f64,
}

/// Runs the scenarios and prints the table.
pub fn run(arguments: &[&str]) -> Result<(), Failure> {
    let campaign = parse(arguments).map_err(|message| Failure { message, code: 2 })?;
    if !test::has_nextest() {
        let message = "chaos needs cargo-nextest: cargo install --locked cargo-nextest".to_owned();
        return Err(Failure { message, code: 1 });
    }
    let report = std::env::temp_dir().join(format!("headworks-chaos-{}", std::process::id()));
    let (seeds, first) = (campaign.seeds.to_string(), campaign.first.to_string());
    let path = report.display().to_string();
    let variables = [
        ("HEADWORKS_TEST_CHAOS_SEEDS", seeds.as_str()),
        ("HEADWORKS_TEST_CHAOS_FIRST", first.as_str()),
        ("HEADWORKS_TEST_CHAOS_REPORT", path.as_str()),
    ];
    let ended = test::run_with(&["--profile", "chaos", "-E", &filter(&campaign)], &variables);
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    // It may never have been made.
    let _ = std::fs::remove_file(&report);
    eprint!("{}", table(&rows(&text)));
    ended
}

fn parse(arguments: &[&str]) -> Result<Campaign, String> {
    let mut campaign = Campaign { seeds: 20, first: 1, scenario: None, store: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
        match *word {
            "--seeds" => campaign.seeds = number()?,
            "--first" => campaign.first = number()?,
            "--scenario" => campaign.scenario = Some(value.to_ascii_lowercase()),
            "--store" if ["sqlite", "postgres"].contains(value) => campaign.store = Some((*value).to_owned()),
            _ => {
                return Err(format!(
                    "{word} {value}: use --seeds N, --first SEED, --scenario F1, --store sqlite|postgres"
                ));
            }
        }
    }
    Ok(campaign)
}

/// Tests are called `f<number>[_<variant>]_<store>`.
fn filter(campaign: &Campaign) -> String {
    let scenario = campaign.scenario.as_deref().unwrap_or("f[0-9]+");
    let store = campaign.store.as_deref().unwrap_or("(sqlite|postgres)");
    format!("package(headworks) & test(/^chaos::heavy::{scenario}_(.*_)?{store}$/)")
}

/// Lines of `scenario store seed verdict seconds`.
fn rows(text: &str) -> BTreeMap<(u32, String), Row> {
    let mut rows: BTreeMap<(u32, String), Row> = BTreeMap::new();
    for line in text.lines() {
        let [scenario, store, seed, verdict, seconds] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let number = scenario.trim_start_matches('F').parse().unwrap_or(0);
        let row = rows.entry((number, store.to_owned())).or_default();
        row.runs += 1;
        row.longest = row.longest.max(seconds.parse().unwrap_or(0.0));
        if verdict != "ok" {
            row.failed.push(seed.to_owned());
        }
    }
    rows
}

fn table(rows: &BTreeMap<(u32, String), Row>) -> String {
    let mut text = format!(
        "\n{:<9} {:<9} {:>5} {:>7} {:>9}  seeds that failed\n",
        "scenario", "store", "runs", "failed", "longest"
    );
    for ((number, store), row) in rows {
        let scenario = format!("F{number}");
        let (failed, longest) = (row.failed.len(), format!("{:.1} s", row.longest));
        text.push_str(&format!(
            "{scenario:<9} {store:<9} {:>5} {failed:>7} {longest:>9}  {}\n",
            row.runs,
            row.failed.join(" ")
        ));
    }
    let (runs, failed) = rows.values().fold((0, 0), |(runs, failed), row| (runs + row.runs, failed + row.failed.len()));
    text.push_str(&format!("{runs} runs, {failed} failed\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_can_be_narrowed() {
        let campaign = parse(&["--seeds", "3", "--scenario", "F11", "--store", "postgres"]).expect("understood");
        assert_eq!(campaign.seeds, 3);
        assert_eq!(filter(&campaign), "package(headworks) & test(/^chaos::heavy::f11_(.*_)?postgres$/)");
        for wrong in [&["--seeds"][..], &["--seeds", "x"], &["--store", "mysql"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_table_names_seeds_that_failed() {
        let rows = rows("F9 postgres 1 ok 3.0\nF10 postgres 7 FAILED 5.5\nF10 postgres 8 ok 2.0\nnonsense\n");
        let table = table(&rows);
        assert!(table.contains("F10       postgres      2       1     5.5 s  7\n"), "{table}");
        assert!(table.ends_with("3 runs, 1 failed\n"), "{table}");
    }
}
