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
    /// A file for the table: JSON if it is named so, Markdown otherwise.
    out: Option<String>,
}

/// Runs of one scenario on one database.
#[derive(Debug, Default, PartialEq)]
struct Row {
    runs: usize,
    failed: Vec<String>,
    violations: u64,
    repairs: u64,
    seconds: f64,
    longest: f64,
}

/// Rows by scenario's number and store.
type Rows = BTreeMap<(u32, String), Row>;

/// Runs the scenarios, prints the table, and writes it where it was asked for.
pub fn run(arguments: &[&str]) -> Result<(), Failure> {
    let campaign = parse(arguments).map_err(|message| Failure { message, code: 2 })?;
    if !test::has_nextest() {
        let message = "chaos needs cargo-nextest: cargo install --locked cargo-nextest".to_owned();
        return Err(Failure { message, code: 1 });
    }
    let (seeds, first) = (campaign.seeds.to_string(), campaign.first.to_string());
    let variables = [("HEADWORKS_TEST_CHAOS_SEEDS", seeds.as_str()), ("HEADWORKS_TEST_CHAOS_FIRST", first.as_str())];
    let arguments = ["--profile", "chaos", "-E", &filter(&campaign)];
    let (ended, text) = test::run_reported("HEADWORKS_TEST_CHAOS_REPORT", &arguments, &variables);
    let rows = rows(&text);
    eprint!("{}", table(&rows));
    if let Some(out) = &campaign.out {
        let text = if out.ends_with(".json") { json(&campaign, &rows) } else { markdown(&rows) };
        let message = |error| Failure { message: format!("can not write {out}: {error}"), code: 1 };
        std::fs::write(out, text).map_err(message)?;
    }
    // Nothing that ran is nothing that holds.
    if ended.is_ok() && rows.is_empty() {
        return Err(Failure { message: "no scenario has that name on that store".to_owned(), code: 2 });
    }
    ended
}

const USE: &str = "use --seeds N, --first SEED, --scenario F1, --store sqlite|postgres, --out FILE.md|FILE.json";

fn parse(arguments: &[&str]) -> Result<Campaign, String> {
    let mut campaign = Campaign { seeds: 20, first: 1, scenario: None, store: None, out: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
        match *word {
            "--seeds" => campaign.seeds = number()?,
            "--first" => campaign.first = number()?,
            "--scenario" => campaign.scenario = Some(value.to_ascii_lowercase()),
            "--store" if ["sqlite", "postgres"].contains(value) => campaign.store = Some((*value).to_owned()),
            "--out" => campaign.out = Some((*value).to_owned()),
            _ => return Err(format!("{word} {value}: {USE}")),
        }
    }
    Ok(campaign)
}

/// Tests are called `f<number>[_<variant>]_<store>`.
fn filter(campaign: &Campaign) -> String {
    let scenario = campaign.scenario.as_deref().unwrap_or("f[0-9]+");
    let store = campaign.store.as_deref().unwrap_or("(sqlite|postgres)");
    format!("package(headworks) & test(/^chaos::scenarios::{scenario}_(.*_)?{store}$/)")
}

/// Lines of `scenario store seed verdict seconds violations repairs`.
fn rows(text: &str) -> Rows {
    let mut rows = Rows::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [scenario, store, seed, verdict, seconds, violations, repairs] = words[..] else { continue };
        let number = scenario.trim_start_matches('F').parse().unwrap_or(0);
        let row = rows.entry((number, store.to_owned())).or_default();
        let seconds = seconds.parse().unwrap_or(0.0);
        row.runs += 1;
        row.seconds += seconds;
        row.longest = row.longest.max(seconds);
        row.violations += violations.parse::<u64>().unwrap_or(0);
        row.repairs += repairs.parse::<u64>().unwrap_or(0);
        if verdict != "ok" {
            row.failed.push(seed.to_owned());
        }
    }
    rows
}

/// Runs, failed ones, violations and repairs of all rows.
fn sums(rows: &Rows) -> (usize, usize, u64, u64) {
    rows.values().fold((0, 0, 0, 0), |(runs, failed, violations, repairs), row| {
        (runs + row.runs, failed + row.failed.len(), violations + row.violations, repairs + row.repairs)
    })
}

fn table(rows: &Rows) -> String {
    let mut text = format!(
        "\n{:<9} {:<9} {:>5} {:>7} {:>11} {:>8} {:>8} {:>9}\n",
        "scenario", "store", "runs", "failed", "violations", "repairs", "mean", "longest"
    );
    let mut again = String::new();
    for ((number, store), row) in rows {
        let (scenario, longest) = (format!("F{number}"), format!("{:.1} s", row.longest));
        let mean = format!("{:.1} s", row.seconds / row.runs as f64);
        text.push_str(&format!(
            "{scenario:<9} {store:<9} {:>5} {:>7} {:>11} {:>8} {mean:>8} {longest:>9}\n",
            row.runs,
            row.failed.len(),
            row.violations,
            row.repairs
        ));
        for seed in &row.failed {
            let line = format!("cargo xtask chaos --scenario {scenario} --store {store} --seeds 1 --first {seed}\n");
            again.push_str(&line);
        }
    }
    let (runs, failed, violations, repairs) = sums(rows);
    text.push_str(&format!("{runs} runs, {failed} failed, {violations} violations, {repairs} repairs\n"));
    if !again.is_empty() {
        text.push_str(&format!("\nwhat failed is in target/tmp/chaos; again:\n{again}"));
    }
    text
}

fn markdown(rows: &Rows) -> String {
    let mut text = "| scenario | store | runs | failed | violations | repairs | mean | longest |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for ((number, store), row) in rows {
        text.push_str(&format!(
            "| F{number} | {store} | {} | {} | {} | {} | {:.1} s | {:.1} s |\n",
            row.runs,
            row.failed.len(),
            row.violations,
            row.repairs,
            row.seconds / row.runs as f64,
            row.longest
        ));
    }
    let (runs, failed, violations, repairs) = sums(rows);
    text.push_str(&format!("| **all** | | **{runs}** | **{failed}** | **{violations}** | **{repairs}** | | |\n"));
    text
}

/// One document; every word in it is ours, so nothing has to be escaped.
fn json(campaign: &Campaign, rows: &Rows) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|((number, store), row)| {
            format!(
                "    {{\"scenario\": \"F{number}\", \"store\": \"{store}\", \"runs\": {}, \"failed_seeds\": [{}], \
                 \"violations\": {}, \"repairs\": {}, \"seconds\": {:.1}, \"longest_seconds\": {:.1}}}",
                row.runs,
                row.failed.join(", "),
                row.violations,
                row.repairs,
                row.seconds,
                row.longest
            )
        })
        .collect();
    format!(
        "{{\n  \"version\": 1,\n  \"first_seed\": {},\n  \"seeds\": {},\n  \"rows\": [\n{}\n  ]\n}}\n",
        campaign.first,
        campaign.seeds,
        rows.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_can_be_narrowed() {
        let campaign = parse(&["--seeds", "3", "--scenario", "F11", "--store", "postgres"]).expect("understood");
        assert_eq!(campaign.seeds, 3);
        assert_eq!(filter(&campaign), "package(headworks) & test(/^chaos::scenarios::f11_(.*_)?postgres$/)");
        for wrong in [&["--seeds"][..], &["--seeds", "x"], &["--store", "mysql"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_table_names_seeds_that_failed() {
        let text = "F9 postgres 1 ok 3.0 0 0\nF10 postgres 7 FAILED 5.5 2 1\nF10 postgres 8 ok 2.5 0 0\nnonsense\n";
        let rows = rows(text);
        let table = table(&rows);
        let line = "F10       postgres      2       1           2        1    4.0 s     5.5 s\n";
        assert!(table.contains(line), "{table}");
        assert!(table.contains("3 runs, 1 failed, 2 violations, 1 repairs\n"), "{table}");
        assert!(table.ends_with("--scenario F10 --store postgres --seeds 1 --first 7\n"), "{table}");
        assert!(markdown(&rows).contains("| F10 | postgres | 2 | 1 | 2 | 1 | 4.0 s | 5.5 s |\n"));
        let campaign = parse(&["--seeds", "2"]).expect("understood");
        assert!(json(&campaign, &rows).contains("\"failed_seeds\": [7], \"violations\": 2"));
    }
}
