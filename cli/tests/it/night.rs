//! A night of twenty tenants on the bundled data: one with broken input, one suspended, one over its quota.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chrono::{Timelike, Utc};
use serde_json::Value;

use crate::bench::Bench;

/// Tenants without anything special.
const ORDINARY: usize = 17;
/// A night of this test, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(420);

/// A server or a worker; told to go when dropped.
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

fn tenant(id: &str, more: &str, source: &str, cron: &str) -> String {
    let contract = if source == DATA { "online_retail" } else { "broken" };
    format!(
        "[tenant]\nid = \"{id}\"\n{more}\n[parameters]\nsource = \"{source}\"\ncontract = \"{contract}\"\n\
         [dags.retail_demand]\nschedule = {{ cron = \"{cron}\", timezone = \"UTC\", jitter = \"1s\" }}\n"
    )
}

/// Two rows of these four are none.
const BROKEN: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
    536365,85123A,HOLDER,6,2010-12-01T08:26:00,2.55,17850,United Kingdom\n\
    536366,71053,LANTERN,six,2010-12-01T08:28:00,3.39,17850,United Kingdom\n\
    536367,84406B,HANGER,8,the first of December,2.75,17850,United Kingdom\n\
    536368,22752,BOXES,2,2010-12-01T08:34:00,7.65,17850,United Kingdom\n";

const DATA: &str = "dags/data/online_retail/online_retail.parquet";

fn summary(bench: &Bench) -> Value {
    bench.run(&["runs", "summary", "--dag", "retail_demand", "--json"]).json(0)
}

/// Asks until the night is over but for `open` tenants.
fn until(bench: &Bench, done: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let summary = summary(bench);
        if done(&summary["counts"]) {
            return summary;
        }
        assert!(Instant::now() < deadline, "{summary:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn line<'a>(summary: &'a Value, tenant: &str) -> &'a Value {
    let lines = summary["lines"].as_array().expect("lines");
    lines.iter().find(|line| line["tenant"] == tenant).expect("a line per tenant")
}

#[test]
fn seventeen_succeed_one_fails_one_does_not_run_one_waits_for_its_quota() {
    let mut bench = Bench::of_repository();
    let database = testkit::postgres();
    bench.set("HEADWORKS_STORE_URL", database.url());
    // The cheapest model: the night is about tenants, the other tests are about models.
    let dag = std::fs::read_to_string(bench.path("dags/retail_demand.toml")).expect("the DAG");
    let light = dag.replace(", \"gbdt\"]", "]");
    assert_ne!(dag, light, "the matrix of models is where this test expects it");
    bench.write("dags/retail_demand.toml", &light);
    for file in ["dags/tenants/gift_shop.toml", "dags/tenants/rossmann.toml"] {
        std::fs::remove_file(bench.path(file)).expect("a bundled tenant");
    }
    let contract = std::fs::read_to_string(bench.path("dags/contracts/online_retail.toml")).expect("the contract");
    let lines = contract.lines().filter(|line| !line.starts_with("sha256 =") && !line.starts_with("bytes ="));
    let of_csv: Vec<String> =
        lines.map(|line| line.replace("online_retail\"", "broken\"").replace("\"parquet\"", "\"csv\"")).collect();
    bench.write("dags/contracts/broken.toml", &of_csv.join("\n"));
    bench.write("broken.csv", BROKEN);
    // The tenant over quota has run before, and its artifacts weigh more than they may.
    bench.write("dags/tenants/over.toml", &tenant("over", "", DATA, "0 0 0 1 1 * 2100"));
    assert_eq!(bench.run(&["run", "retail_demand", "--tenant", "over", "--json"]).json(0)["state"], "succeeded");
    let since = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);

    let due = Utc::now() + chrono::Duration::seconds(8);
    let cron = format!("{} {} {} * * *", due.second(), due.minute(), due.hour());
    for at in 0..ORDINARY {
        let id = format!("shop{at:02}");
        bench.write(&format!("dags/tenants/{id}.toml"), &tenant(&id, "", DATA, &cron));
    }
    bench.write("dags/tenants/broken.toml", &tenant("broken", "", "broken.csv", &cron));
    bench.write("dags/tenants/gone.toml", &tenant("gone", "status = \"suspended\"", DATA, &cron));
    let quota = "[quotas]\nartifact_bytes = 1000\n";
    bench.write("dags/tenants/over.toml", &tenant("over", quota, DATA, &cron));

    let _server = Process::start(&bench, &["serve", "--listen", "127.0.0.1:0", "--slots", "1"], "serving");
    let _workers = [1, 2].map(|_| Process::start(&bench, &["worker", "--slots", "1"], "working"));
    let night = until(&bench, |counts| counts["succeeded"] == ORDINARY && counts["failed"] == 1);
    let of = |tenant: &str| line(&night, tenant).clone();
    assert_eq!(night["counts"]["queued"], 1, "{night:#}");
    assert_eq!(of("gone")["outcome"], "suspended");
    assert_eq!(of("over")["outcome"], "queued");
    assert!(of("over")["reason"].as_str().is_some_and(|it| it.contains("quota is 1000")), "{night:#}");
    let why = of("broken")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(
        why.starts_with("ingest:") && why.contains("six") && why.contains("row"),
        "a report of what and where: {why}"
    );
    let told = bench.run(&["alerts", "--json"]).json(0);
    assert_eq!(told["alerts"].as_array().map(Vec::len), Some(1), "the quota, and nothing of other tenants: {told:#}");

    // More room, and the one that waited runs.
    bench.write("dags/tenants/over.toml", &tenant("over", "", DATA, &cron));
    bench.run(&["tenants", "apply", "dags/tenants/over.toml", "--json"]).json(0);
    let night = until(&bench, |counts| counts["succeeded"] == ORDINARY + 1);
    assert_eq!(line(&night, "over")["outcome"], "succeeded");
    let scheduled = bench.run(&["runs", "list", "--dag", "retail_demand", "--limit", "100", "--json"]).json(0);
    let runs = scheduled["runs"].as_array().expect("runs");
    let nightly = runs.iter().filter(|run| run["kind"] == "scheduled");
    assert_eq!(nightly.count(), ORDINARY + 2, "one each, since {since}");
}
