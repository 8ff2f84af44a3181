//! `headworks schedule next` prints what the engine's schedules say, which `engine/tests/it/cronsim.rs` holds
//! against an independent implementation; `dag plan`, `apply` and pauses from the command line.

use engine::clock::{parse_rfc3339, rfc3339};
use engine::schedule::{Calendars, Order, Schedule};
use serde_json::{Value, json};

use crate::bench::Bench;

const TENANT: &str = "[tenant]\nid = \"acme\"\n[dags.nightly]\n";
const DAG: &str = "[dag]\nid = \"nightly\"\n[schedule]\ncron = \"15 2 * * *\"\ntimezone = \"America/Chicago\"\n\
    dst = { gap = \"shift\" }\n[tasks.a]\nkind = \"command\"\nwith = { program = \"true\" }\n\
    [tasks.b]\nkind = \"command\"\nneeds = [\"a\"]\nwith = { program = \"true\" }\n";

fn nightly() -> Bench {
    let bench = Bench::new();
    bench.write("dags/nightly.toml", DAG).write("dags/tenants/acme.toml", TENANT);
    bench
}

#[test]
fn next_fires_are_the_engines() {
    let bench = Bench::new();
    let rules = ["15 2 * * *", "*/7 * * * mon-fri", "0 0 13 * fri", "@weekly", "30 30 1 L * *", "0 0 0 29 2 * 2028"];
    for (at, rule) in rules.into_iter().enumerate() {
        for (zone, gap, overlap) in
            [("UTC", "shift", "first"), ("America/Chicago", "skip", "both"), ("Australia/Lord_Howe", "shift", "last")]
        {
            let from = format!("202{}-0{}-01T00:00:00Z", at + 2, at + 3);
            let asked = ["schedule", "next", "--cron", rule, "--timezone", zone, "--gap", gap, "--overlap", overlap];
            let asked = [&asked[..], &["--from", &from, "-n", "25", "--json"]].concat();
            let found = bench.run(&asked).json(0);
            let section = json!({ "cron": rule, "timezone": zone, "dst": { "gap": gap, "overlap": overlap } });
            let table = Schedule::from_json(&section).expect("good").bind(&Calendars::default()).expect("no calendar");
            let fires = table.intervals(parse_rfc3339(&from).expect("an instant"), i64::MAX, Order::Ascending).take(25);
            let expected: Vec<_> = fires.map(|it| (rfc3339(it.at), rfc3339(it.interval_start))).collect();
            let printed = found["fires"].as_array().expect("fires").iter();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let printed: Vec<_> = printed.map(|it| (text(&it["at"]), text(&it["interval_start"]))).collect();
            assert_eq!(printed, expected, "{rule} {zone}");
        }
    }
}

#[test]
fn what_can_not_be_meant_says_which_field() {
    let bench = Bench::new();
    for (args, hint) in [
        (["--cron", "61 * * * *", "--timezone", "UTC"], "minute"),
        (["--cron", "* * * *", "--timezone", "UTC"], "field"),
        (["--cron", "@daily", "--timezone", "Mars/Olympus"], "time zone"),
    ] {
        let refused = bench.run(&[&["schedule", "next"], &args[..], &["--json"]].concat()).json(2);
        assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains(hint)), "{refused:#}");
    }
    let never = bench.run(&["schedule", "next", "--cron", "0 0 31 2 *", "--timezone", "UTC", "--json"]).json(0);
    assert_eq!(never["fires"], json!([]));
}

#[test]
fn a_plan_says_what_a_changed_file_changes() {
    let bench = nightly();
    bench.run(&["dag", "apply", "--json"]).json(0);
    let same = bench.run(&["dag", "plan", "nightly", "--json"]).json(0);
    assert_eq!((&same["tasks"], &same["from_version"]), (&json!([]), &same["to_version"]));
    let changed = DAG
        .replace(
            "kind = \"command\"\nwith = { program = \"true\" }\n[tasks.b]",
            "kind = \"command\"\nwith = { program = \"false\" }\n[tasks.b]",
        )
        .replace("15 2", "45 3")
        + "[tasks.c]\nkind = \"command\"\nwith = { program = \"true\" }\n";
    bench.write("dags/nightly.toml", &changed);
    let plan = bench.run(&["dag", "plan", "nightly", "--json"]).json(0);
    let words: Vec<_> =
        plan["tasks"].as_array().expect("tasks").iter().map(|it| (&it["task"], &it["change"])).collect();
    let mut expected =
        [("a", "redefined"), ("b", "recomputed"), ("c", "added")].map(|(task, change)| (json!(task), json!(change)));
    expected.sort_by_key(|it| it.0.to_string());
    let mut words: Vec<_> = words.into_iter().map(|(task, change)| (task.clone(), change.clone())).collect();
    words.sort_by_key(|it| it.0.to_string());
    assert_eq!(words, expected);
    assert_ne!(plan["next_fires"], plan["next_fires_before"]);
    assert_eq!(plan["next_fires"].as_array().map(Vec::len), Some(10));
}

#[test]
fn pauses_and_backfills_from_the_command_line() {
    let bench = nightly();
    let refused = bench.run(&["dag", "pause", "nigthly", "--json"]);
    assert!(refused.json(2)["error"]["message"].as_str().is_some_and(|text| text.contains("not in force")));
    bench.run(&["dag", "apply", "--json"]).json(0);
    assert_eq!(bench.run(&["dag", "pause", "nightly", "--reason", "a test", "--json"]).json(0)["changed"], true);
    let listed = bench.run(&["schedule", "list", "--json"]).json(0);
    assert_eq!(listed["schedules"][0]["state"], "paused");
    assert_eq!(bench.run(&["dag", "resume", "nightly", "--json"]).json(0)["changed"], true);
    let asked = ["backfill", "nightly", "--from", "2026-01-01", "--to", "2026-01-11"];
    let plan = bench.run(&[&asked[..], &["--plan", "--json"]].concat()).json(0);
    // The interval that ends on the first begins before it.
    assert_eq!((&plan["runs"], &plan["left_out"]), (&json!(9), &json!(0)));
    let made = bench.run(&[&asked[..], &["--json"]].concat()).json(0);
    assert_eq!(made["runs"], 9);
    let id = made["backfill_id"].as_str().expect("an id");
    assert_eq!(bench.run(&["backfills", "pause", id, "--json"]).json(0)["state"], "paused");
    assert_eq!(bench.run(&["backfills", "cancel", id, "--json"]).json(0)["state"], "canceled");
    let empty = bench.run(&["backfill", "nightly", "--from", "2026-01-02", "--to", "2026-01-01", "--json"]);
    empty.json(2);
}
