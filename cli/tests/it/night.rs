//! A night of twenty tenants under a server and two workers on Postgres: one with broken input, one
//! suspended, one over its quota.
//!
//! It runs the first step of the main job on small files. Where an optimized binary is named, each tenant
//! runs the whole of it on the bundled data:
//! `HEADWORKS_TEST_BINARY=$PWD/target/release/headworks cargo xtask test -- -E 'test(/^night::/)'`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chrono::{Timelike, Utc};
use serde_json::Value;

use crate::bench::{BINARY, Bench};

/// Tenants without anything special.
const ORDINARY: usize = 17;
/// A night of this test, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1_500);
/// Between two questions.
const LOOK: Duration = Duration::from_millis(300);

/// The first step of the main job, which other tests run whole.
const FIRST_STEP: &str = "[dag]\nid = \"retail_demand\"\nmax_active_runs = 1\n[schedule]\ncron = \"15 2 * * *\"\n\
    [params]\nsource = { type = \"string\" }\ncontract = { type = \"string\" }\n\
    [tasks.ingest]\nkind = \"ingest\"\nwith = { source = \"{{params.source}}\", contract = \"{{params.contract}}\" }\n\
    [tasks.done]\nkind = \"command\"\nneeds = [\"ingest\"]\nwith = { program = \"true\" }\n";

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

/// Two rows of these four are none.
const BROKEN: &str = "536365,85123A,HOLDER,6,2010-12-01T08:26:00,2.55,17850,United Kingdom\n\
    536366,71053,LANTERN,six,2010-12-01T08:28:00,3.39,17850,United Kingdom\n\
    536367,84406B,HANGER,8,the first of December,2.75,17850,United Kingdom\n\
    536368,22752,BOXES,2,2010-12-01T08:34:00,7.65,17850,United Kingdom\n";

/// A server or a worker; killed when dropped.
struct Process(Child);

impl Process {
    /// Starts it, and waits until it says that it works.
    fn start(bench: &Bench, args: &[&str], says: &str) -> Self {
        let mut child = bench.command(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut heard = Vec::new();
        let found = lines.by_ref().map_while(Result::ok).any(|line| {
            let found = line.contains(says);
            heard.push(line);
            found
        });
        assert!(found, "it never said {says:?}: {heard:?}");
        // Read on, so that it is not stopped by a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).count());
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether each tenant runs the whole main job on the bundled data.
fn is_whole() -> bool {
    std::env::var_os(BINARY).is_some()
}

/// A tenant's file; its sales are good ones unless it has others.
fn tenant(id: &str, more: &str, source: Option<&str>, cron: &str) -> String {
    let (source, contract) = match source {
        Some(source) => (source, "csv"),
        None if is_whole() => ("dags/data/online_retail/online_retail.parquet", "online_retail"),
        None => ("sales.csv", "csv"),
    };
    format!(
        "[tenant]\nid = \"{id}\"\n{more}\n[parameters]\nsource = \"{source}\"\ncontract = \"{contract}\"\n\
         [dags.retail_demand]\nschedule = {{ cron = \"{cron}\", timezone = \"UTC\", jitter = \"1s\" }}\n"
    )
}

/// Two hundred days of two products: more than the contract asks of a series.
fn sales() -> String {
    let first = chrono::NaiveDate::from_ymd_opt(2011, 1, 1).expect("a date");
    let day = |at: u64| {
        let date = first + chrono::Days::new(at);
        format!(
            "{at}1,85123A,HOLDER,{},{date}T08:26:00,2.55,17850,United Kingdom\n\
             {at}2,71053,LANTERN,2,{date}T09:00:00,3.39,17850,United Kingdom\n",
            at % 7 + 1
        )
    };
    HEADER.to_owned() + &(0..200).map(day).collect::<String>()
}

/// The bundled contract, for files of text.
fn contract(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("sha256 =") && !line.starts_with("bytes ="));
    let of_csv = lines.map(|line| {
        line.replace("name = \"online_retail\"", "name = \"csv\"").replace("format = \"parquet\"", "format = \"csv\"")
    });
    of_csv.collect::<Vec<_>>().join("\n")
}

fn summary(bench: &Bench) -> Value {
    bench.run(&["runs", "summary", "--dag", "retail_demand", "--json"]).json(0)
}

/// Asks until the counts are as wanted.
fn until(bench: &Bench, done: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let summary = summary(bench);
        if done(&summary["counts"]) {
            return summary;
        }
        assert!(Instant::now() < deadline, "{summary:#}");
        std::thread::sleep(LOOK);
    }
}

fn line<'a>(summary: &'a Value, tenant: &str) -> &'a Value {
    let lines = summary["lines"].as_array().expect("lines");
    lines.iter().find(|line| line["tenant"] == tenant).expect("a line per tenant")
}

#[test]
fn seventeen_succeed_one_fails_one_does_not_run_one_waits_for_its_quota() {
    let all = Bench::of_repository();
    let text = std::fs::read_to_string(all.path("dags/contracts/online_retail.toml")).expect("the contract");
    let mut bench = if is_whole() { all } else { Bench::new() };
    let database = testkit::postgres();
    bench.set("HEADWORKS_STORE_URL", database.url());
    if is_whole() {
        for bundled in ["gift_shop", "rossmann"] {
            std::fs::remove_file(bench.path(&format!("dags/tenants/{bundled}.toml"))).expect("bundled");
        }
    } else {
        std::fs::create_dir_all(bench.path("dags/contracts")).expect("a folder");
        bench.write("dags/retail_demand.toml", FIRST_STEP);
    }
    bench.write("dags/contracts/csv.toml", &contract(&text));
    bench.write("sales.csv", &sales()).write("broken.csv", &format!("{HEADER}{BROKEN}"));
    // The tenant over quota has run before, and its artifacts weigh more than they may.
    bench.write("dags/tenants/over.toml", &tenant("over", "", None, "0 0 0 1 1 * 2100"));
    let before = bench.run(&["run", "retail_demand", "--tenant", "over", "--json"]).json(0);
    assert_eq!(before["state"], "succeeded");

    let due = Utc::now() + chrono::Duration::seconds(5);
    let cron = format!("{} {} {} * * *", due.second(), due.minute(), due.hour());
    for at in 0..ORDINARY {
        let id = format!("shop{at:02}");
        bench.write(&format!("dags/tenants/{id}.toml"), &tenant(&id, "", None, &cron));
    }
    bench.write("dags/tenants/broken.toml", &tenant("broken", "", Some("broken.csv"), &cron));
    bench.write("dags/tenants/gone.toml", &tenant("gone", "status = \"suspended\"", None, &cron));
    let quota = "[quotas]\nartifact_bytes = 1000\n";
    bench.write("dags/tenants/over.toml", &tenant("over", quota, None, &cron));

    let _server = Process::start(&bench, &["serve", "--listen", "127.0.0.1:0", "--slots", "1"], "serving");
    let _workers = [1, 2].map(|_| Process::start(&bench, &["worker", "--slots", "1"], "working"));
    let night = until(&bench, |counts| {
        counts["succeeded"] == ORDINARY + usize::from(counts["queued"].is_null()) && counts["failed"] == 1
    });
    let of = |tenant: &str| line(&night, tenant).clone();
    assert_eq!(night["counts"]["queued"], 1, "{night:#}");
    assert_eq!(of("gone")["outcome"], "suspended");
    assert_eq!(of("over")["outcome"], "queued");
    assert!(of("over")["reason"].as_str().is_some_and(|it| it.contains("quota is 1000")), "{night:#}");
    let why = of("broken")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(why.starts_with("ingest:") && why.contains("row"), "a report of what and where: {why}");
    let told = bench.run(&["alerts", "--json"]).json(0);
    let told = told["alerts"].as_array().expect("alerts");
    assert!(told.len() == 1 && told[0]["tenant"] == "over", "the quota, and nothing of other tenants: {told:#?}");

    // More room, and the one that waited runs.
    bench.write("dags/tenants/over.toml", &tenant("over", "", None, &cron));
    bench.run(&["tenants", "apply", "dags/tenants/over.toml", "--json"]).json(0);
    let night = until(&bench, |counts| counts["succeeded"] == ORDINARY + 1);
    assert_eq!(line(&night, "over")["outcome"], "succeeded");
    let listed = bench.run(&["runs", "list", "--dag", "retail_demand", "--limit", "100", "--json"]).json(0);
    let scheduled = listed["runs"].as_array().expect("runs").iter().filter(|run| run["kind"] == "scheduled").count();
    assert_eq!(scheduled, ORDINARY + 2, "one each");
}
