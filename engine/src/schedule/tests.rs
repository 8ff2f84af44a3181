//! Schedules as a whole: clock changes, data intervals, calendars, catch-up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

fn table(section: &Value) -> Timetable {
    Schedule::from_json(section).expect("a schedule").bind(&Calendars::default()).expect("no calendars")
}

fn cron(line: &str, zone: &str, gap: &str, overlap: &str) -> Timetable {
    table(&json!({"cron": line, "timezone": zone, "dst": {"gap": gap, "overlap": overlap}}))
}

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().expect(text).as_microsecond()
}

fn local(micros: i64, zone: &str) -> String {
    let zone = TimeZone::get(zone).expect(zone);
    let zoned = Timestamp::from_microsecond(micros).expect("an instant").to_zoned(zone);
    zoned.strftime("%Y-%m-%dT%H:%M%:z").to_string()
}

/// Local times with offsets of the fires after `from`.
fn fires(table: &Timetable, from: &str, count: usize) -> Vec<String> {
    let zone = table.schedule().timezone();
    table.intervals(at(from), i64::MAX, Order::Ascending).take(count).map(|fire| local(fire.at, zone)).collect()
}

#[test]
fn a_fixed_time_in_a_gap_fires_at_its_end_or_not_at_all() {
    let from = "2026-03-07T12:00:00Z";
    let shifted = fires(&cron("15,45 2 * * *", "America/Chicago", "shift", "first"), from, 3);
    assert_eq!(shifted, ["2026-03-08T03:00-05:00", "2026-03-09T02:15-05:00", "2026-03-09T02:45-05:00"]);
    let skipped = fires(&cron("15,45 2 * * *", "America/Chicago", "skip", "first"), from, 1);
    assert_eq!(skipped, ["2026-03-09T02:15-05:00"]);
    let once = fires(&cron("0,30 2,3 * * *", "America/Chicago", "shift", "first"), from, 3);
    assert_eq!(once, ["2026-03-08T03:00-05:00", "2026-03-08T03:30-05:00", "2026-03-09T02:00-05:00"]);
}

#[test]
fn a_fixed_time_in_an_overlap_fires_first_last_or_both() {
    let of = |overlap| fires(&cron("0,30 1 * * *", "America/Chicago", "shift", overlap), "2026-11-01T05:30:00Z", 4);
    let (early, late) =
        (["2026-11-01T01:00-05:00", "2026-11-01T01:30-05:00"], ["2026-11-01T01:00-06:00", "2026-11-01T01:30-06:00"]);
    assert_eq!(of("first")[..2], early);
    assert_eq!(of("last")[..2], late);
    assert_eq!(of("both"), [early, late].concat());
    assert_eq!(of("first")[2], "2026-11-02T01:00-06:00");
}

#[test]
fn a_rule_of_the_running_clock_runs_on() {
    for (gap, overlap) in [("shift", "first"), ("skip", "last")] {
        let hourly = fires(&cron("0 * * * *", "America/Chicago", gap, overlap), "2026-11-01T05:30:00Z", 3);
        assert_eq!(hourly, ["2026-11-01T01:00-05:00", "2026-11-01T01:00-06:00", "2026-11-01T02:00-06:00"]);
        let spring = fires(&cron("*/30 2 * * *", "America/Chicago", gap, overlap), "2026-03-07T12:00:00Z", 1);
        assert_eq!(spring, ["2026-03-09T02:00-05:00"], "nothing of the gap is made up for");
    }
}

#[test]
fn half_hours_midnights_and_a_lost_day() {
    // 02:00 becomes 02:30 on 4 October 2026, 02:00 becomes 01:30 on 5 April 2026.
    let howe = |line| fires(&cron(line, "Australia/Lord_Howe", "shift", "both"), "2026-10-03T00:00:00Z", 1);
    assert_eq!(howe("15 2 * * *"), ["2026-10-04T02:30+11:00"]);
    assert_eq!(
        fires(&cron("45 1 * * *", "Australia/Lord_Howe", "shift", "both"), "2026-04-04T00:00:00Z", 2),
        ["2026-04-05T01:45+11:00", "2026-04-05T01:45+10:30"]
    );
    for (zone, from, day) in [
        ("America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-04T01:00-02:00"),
        ("Asia/Beirut", "2024-03-30T12:00:00Z", "2024-03-31T01:00+03:00"),
        ("America/Havana", "2024-03-09T12:00:00Z", "2024-03-10T01:00-04:00"),
        ("Africa/Cairo", "2024-04-25T12:00:00Z", "2024-04-26T01:00+03:00"),
        ("Pacific/Apia", "2011-12-30T00:00:00Z", "2011-12-31T00:00+14:00"),
    ] {
        assert_eq!(fires(&cron("0 0 * * *", zone, "shift", "first"), from, 1), [day], "{zone}");
    }
    let apia = fires(&cron("15 2 * * *", "Pacific/Apia", "shift", "first"), "2011-12-29T12:30:00Z", 3);
    assert_eq!(apia, ["2011-12-31T00:00+14:00", "2011-12-31T02:15+14:00", "2012-01-01T02:15+14:00"]);
    let apia = fires(&cron("15 2 * * *", "Pacific/Apia", "skip", "first"), "2011-12-29T12:30:00Z", 1);
    assert_eq!(apia, ["2011-12-31T02:15+14:00"]);
}

#[test]
fn intervals_follow_the_clock_on_the_wall() {
    let daily = cron("15 2 * * *", "America/Chicago", "shift", "first");
    let hours = |from: &str| {
        let fire = daily.next(at(from)).expect("a fire");
        assert_eq!(fire.interval_end, fire.at);
        (fire.interval_end - fire.interval_start) / 60_000_000
    };
    assert_eq!(hours("2026-03-08T00:00:00Z"), 23 * 60 + 45, "02:15 to 03:00, of which an hour is missing");
    assert_eq!(hours("2026-03-09T00:00:00Z"), 23 * 60 + 15);
    assert_eq!(hours("2026-11-01T12:00:00Z"), 24 * 60);
    assert_eq!(hours("2026-11-01T00:00:00Z"), 25 * 60);
}

#[test]
fn fixed_intervals_count_from_the_epoch() {
    let quarter = table(&json!({"every": "15m", "timezone": "America/Chicago"}));
    let fire = quarter.next(at("2026-03-08T07:59:00Z")).expect("a fire");
    assert_eq!((fire.interval_start, fire.at), (at("2026-03-08T07:45:00Z"), at("2026-03-08T08:00:00Z")));
    let daily = table(&json!({"every": "1d", "timezone": "America/Chicago"}));
    assert_eq!(fires(&daily, "2026-03-08T00:00:00Z", 2), ["2026-03-08T00:00-06:00", "2026-03-09T00:00-05:00"]);
    assert_eq!(table(&json!({"every": "1d"})).next(-1).map(|fire| fire.at), Some(0));
    assert_eq!(table(&json!({"every": "7m"})).prev(0).map(|fire| fire.at), Some(-7 * 60_000_000));
}

#[test]
fn years_limit_the_fires_not_the_first_interval() {
    let once = table(&json!({"cron": "0 0 0 1 1 * 2030"}));
    let fire = once.next(0).expect("a fire");
    assert_eq!((fire.interval_start, fire.at), (at("2029-01-01T00:00:00Z"), at("2030-01-01T00:00:00Z")));
    assert_eq!(once.next(fire.at), None);
    assert_eq!(once.prev(fire.at), None);
}

#[test]
fn the_ends_of_time() {
    for section in [
        json!({"cron": "* * * * * *"}),
        json!({"cron": "0 0 31 2 *"}),
        json!({"every": "7d"}),
        json!({"cron": "@yearly", "timezone": "America/Chicago"}),
        json!({"cron": "30 2 * 3 sun#2", "timezone": "America/Chicago", "dst": {"gap": "skip"}}),
    ] {
        let table = table(&section);
        for moment in
            [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX, 0, at("9999-12-30T21:59:59Z"), at("0001-01-01T00:00:00Z")]
        {
            let (next, prev) = (table.next(moment), table.prev(moment));
            assert!(next.is_none_or(|fire| fire.at > moment) && prev.is_none_or(|fire| fire.at < moment));
            let _ = (table.due(Some(moment), 0, i64::MAX, 3), table.due(None, moment, moment, 2));
        }
    }
    let yearly = cron("0 0 29 2 *", "America/Chicago", "shift", "first");
    assert_eq!(yearly.next(at("9997-01-01T00:00:00Z")), None);
    assert_eq!(fires(&yearly, "9990-01-01T00:00:00Z", 9), ["9992-02-29T00:00-06:00", "9996-02-29T00:00-06:00"]);
    assert_eq!(
        fires(&cron("0 2 10 7 *", "America/Chicago", "skip", "last"), "8999-12-31T00:00:00Z", 1),
        ["9000-07-10T02:00-05:00"]
    );
}

fn calendars() -> Calendars {
    let files = [
        ("weekend", "weekly = [\"sat\", \"sun\"]"),
        ("stock_take", "dates = [2026-06-10, 2026-06-11]"),
        ("always", "weekly = [\"sun\", \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\"]"),
        ("from_2027", "ranges = [{ from = 2027-01-01, to = 9999-12-31 }]"),
    ];
    let parsed = files.map(|(name, text)| (name.to_owned(), Calendar::parse(text).expect(name)));
    Calendars::resolve(&BTreeMap::from(parsed)).expect("calendars")
}

fn blacked_out(line: &str, exclude: &[&str], policy: &str) -> Timetable {
    let section = json!({
        "cron": line, "timezone": "America/Chicago", "calendars": {"exclude": exclude, "policy": policy},
    });
    Schedule::from_json(&section).expect("a schedule").bind(&calendars()).expect("calendars that exist")
}

#[test]
fn skipping_drops_the_interval_and_lets_no_other_grow() {
    let table = blacked_out("15 2 * * *", &["stock_take"], "skip");
    let found = table.intervals(at("2026-06-08T12:00:00Z"), i64::MAX, Order::Ascending).take(2).collect::<Vec<_>>();
    assert_eq!(found[0].at, at("2026-06-09T07:15:00Z"));
    assert_eq!(found[1].interval_start, at("2026-06-11T07:15:00Z"));
    assert_eq!((found[1].at, found[1].start), (at("2026-06-12T07:15:00Z"), at("2026-06-12T07:15:00Z")));
    assert_eq!(table.prev(found[1].at), Some(found[0]));
}

#[test]
fn delaying_moves_the_start_and_nothing_else() {
    let table = blacked_out("0 1,23 * * *", &["weekend"], "delay");
    let found = table.intervals(at("2026-06-06T04:30:00Z"), at("2026-06-08T12:00:00Z"), Order::Ascending);
    let found =
        found.map(|fire| (local(fire.at, "America/Chicago"), local(fire.start, "America/Chicago"))).collect::<Vec<_>>();
    let expected = [
        ("2026-06-06T01:00-05:00", "2026-06-08T01:00-05:00"),
        ("2026-06-06T23:00-05:00", "2026-06-08T23:00-05:00"),
        ("2026-06-07T01:00-05:00", "2026-06-08T01:00-05:00"),
        ("2026-06-07T23:00-05:00", "2026-06-08T23:00-05:00"),
        ("2026-06-08T01:00-05:00", "2026-06-08T01:00-05:00"),
    ];
    assert_eq!(found, expected.map(|(at, start)| (at.to_owned(), start.to_owned())));
}

#[test]
fn calendars_that_leave_no_day_end_the_schedule() {
    for policy in ["skip", "delay"] {
        let never = blacked_out("* * * * *", &["always"], policy);
        assert_eq!((never.next(0), never.prev(0)), (None, None));
        let sundays = blacked_out("0 12 * * sun", &["weekend"], policy);
        assert_eq!(sundays.next(0).is_some(), policy == "delay", "no Sunday is allowed, but Mondays are");
        let ends = blacked_out("0 12 * * *", &["from_2027"], policy);
        assert_eq!(ends.next(at("2027-01-05T00:00:00Z")), None);
        let last = ends.prev(at("2027-03-05T00:00:00Z")).expect("the last day of 2026");
        assert_eq!(last.at, at("2026-12-31T18:00:00Z"));
        assert_eq!(ends.due(None, 0, at("2027-03-05T00:00:00Z"), 5).fires, [last]);
    }
    let error =
        Schedule::from_json(&json!({"every": "1h", "calendars": {"exclude": ["stocktake"]}})).expect("a schedule");
    let error = error.bind(&calendars()).expect_err("no such calendar");
    assert!(error.help.contains("stock_take"), "{}", error.help);
}

fn daily(policy: &str, window: Option<&str>) -> Timetable {
    let mut section = json!({"cron": "0 2 * * *", "catchup": policy});
    if let Some(window) = window {
        section["catchup_window"] = json!(window);
    }
    table(&section)
}

fn logical(due: &Due) -> Vec<i64> {
    due.fires.iter().map(|fire| (fire.at - 2 * HOUR) / DAY).collect()
}

#[test]
fn live_fires_are_created_under_every_policy() {
    for policy in ["none", "latest", "all"] {
        let table = daily(policy, None);
        let due = table.due(Some(9 * DAY + 2 * HOUR), 0, 10 * DAY + 2 * HOUR + 1, 10);
        assert_eq!((logical(&due), due.dropped), (vec![10], 0), "{policy}");
        assert_eq!(due.next, Some(11 * DAY + 2 * HOUR));
        let again = table.due(Some(10 * DAY + 2 * HOUR), 0, 10 * DAY + 2 * HOUR + 1, 10);
        assert_eq!((again.fires.len(), again.next), (0, due.next), "{policy}");
        let early = table.due(Some(9 * DAY + 2 * HOUR), 0, 10 * DAY + 2 * HOUR - 1, 10);
        assert_eq!((early.fires.len(), early.next), (0, Some(10 * DAY + 2 * HOUR)), "{policy}");
    }
}

#[test]
fn missed_fires_follow_the_policy() {
    let (last, now) = (Some(5 * DAY + 2 * HOUR), 10 * DAY + 8 * HOUR);
    let none = daily("none", None).due(last, 0, now, 10);
    assert_eq!((logical(&none), none.dropped, none.next), (vec![], 5, Some(11 * DAY + 2 * HOUR)));
    let latest = daily("latest", None).due(last, 0, now, 10);
    assert_eq!((logical(&latest), latest.dropped), (vec![10], 4));
    let all = daily("all", None).due(last, 0, now, 10);
    assert_eq!((logical(&all), all.dropped), (vec![6, 7, 8, 9, 10], 0));
    let some = daily("all", None).due(last, 0, now, 2);
    assert_eq!((logical(&some), some.next), (vec![6, 7], Some(8 * DAY + 2 * HOUR)));
    let none_wanted = daily("all", None).due(last, 0, now, 0);
    assert_eq!((none_wanted.fires.len(), none_wanted.next), (0, Some(6 * DAY + 2 * HOUR)));
}

#[test]
fn the_window_and_the_beginning_bound_what_is_caught_up() {
    let (last, now) = (Some(5 * DAY + 2 * HOUR), 10 * DAY + 8 * HOUR);
    let all = daily("all", Some("2d")).due(last, 0, now, 10);
    assert_eq!((logical(&all), all.dropped), (vec![9, 10], 3));
    let latest = daily("latest", Some("1h")).due(last, 0, now, 10);
    assert_eq!((logical(&latest), latest.dropped), (vec![], 5));
    let young = daily("all", None).due(None, 8 * DAY + 2 * HOUR, now, 10);
    assert_eq!(logical(&young), [9, 10], "a fire at the very beginning is not after it");
    let later = daily("all", None).due(None, 20 * DAY, now, 10);
    assert_eq!((later.fires.len(), later.next), (0, Some(20 * DAY + 2 * HOUR)));
}

#[test]
fn counting_what_is_dropped_is_bounded() {
    let due = table(&json!({"cron": "* * * * * *", "catchup": "none"})).due(None, 0, at("2026-01-01T00:00:00Z"), 100);
    assert_eq!((due.fires.len(), due.dropped), (60, 1_000), "a minute of seconds is live");
}

const ZONES: [&str; 8] = [
    "UTC",
    "America/Chicago",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "America/St_Johns",
    "Africa/Casablanca",
    "Asia/Beirut",
];

prop_compose! {
    fn section()(
        line in prop_oneof![
            Just("*/7 * * * *"), Just("15,45 1,2 * * *"), Just("0 0 * * *"), Just("30 0,23 */3 * *"), Just("0 3 1 * fri"),
            Just("*/20 30 2 * * *"), Just("@monthly"), Just("5 */5 L * *"), Just("0 2 * 3,10,11 sun#1"), Just("0 0 0 29 2 * */7"),
        ],
        every in proptest::option::weighted(0.2, prop_oneof![Just("15m"), Just("1d"), Just("36h"), Just("90s")]),
        zone in proptest::sample::select(&ZONES[..]),
        gap in prop_oneof![Just("shift"), Just("skip")],
        overlap in prop_oneof![Just("first"), Just("last"), Just("both")],
        exclude in proptest::sample::subsequence(vec!["weekend", "stock_take"], 0..=2),
        policy in prop_oneof![Just("skip"), Just("delay")],
        catchup in prop_oneof![Just("none"), Just("latest"), Just("all")],
    ) -> Value {
        let rule = every.map_or(("cron", line), |every| ("every", every));
        json!({
            rule.0: rule.1, "timezone": zone, "dst": {"gap": gap, "overlap": overlap}, "catchup": catchup,
            "calendars": {"exclude": exclude, "policy": policy},
        })
    }
}

fn bound(section: &Value) -> Timetable {
    Schedule::from_json(section).expect("a schedule").bind(&calendars()).expect("calendars")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn walks_agree_in_both_directions(section in section(), from in -400_000_i64..900_000, days in 1_i64..60) {
        let table = bound(&section);
        let (from, to) = (from * HOUR, from * HOUR + days * DAY);
        let up = table.intervals(from, to, Order::Ascending).collect::<Vec<_>>();
        let mut down = table.intervals(from, to, Order::Descending).collect::<Vec<_>>();
        down.reverse();
        prop_assert_eq!(&up, &down);
        for fire in &up {
            prop_assert!(from < fire.at && fire.at <= to && fire.start >= fire.at && fire.interval_start < fire.at);
            prop_assert_eq!(table.next(fire.at - 1), Some(*fire));
            prop_assert_eq!(table.prev(fire.at + 1), Some(*fire));
        }
        for pair in up.windows(2) {
            prop_assert!(pair[0].at <= pair[1].interval_start, "intervals do not overlap");
            prop_assert_eq!(table.next(pair[0].at), Some(pair[1]));
        }
    }

    #[test]
    fn without_calendars_intervals_join(section in section(), from in 0_i64..700_000) {
        let mut section = section;
        section["calendars"]["exclude"] = json!([]);
        let table = bound(&section);
        let found = table.intervals(from * HOUR, i64::MAX, Order::Ascending).take(40).collect::<Vec<_>>();
        prop_assert!(found.windows(2).all(|pair| pair[0].interval_end == pair[1].interval_start));
    }

    #[test]
    fn no_instant_panics(section in section(), from in any::<i64>(), to in any::<i64>(), limit in 0_usize..4) {
        let table = bound(&section);
        for order in [Order::Ascending, Order::Descending] {
            let _ = table.intervals(from, to, order).take(3).count();
        }
        let _ = (table.due(None, from, to, limit), table.due(Some(to), from, from, limit));
    }
}

proptest! {
    // Each case is a life of calls.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_sequence_of_calls_makes_a_duplicate(
        section in section(), begin in 0_i64..600_000, steps in proptest::collection::vec((-50_i64..3_000, 0_usize..5), 1..30),
    ) {
        let table = bound(&section);
        let since = begin * HOUR;
        let (mut now, mut latest_now, mut created) = (since, since, Vec::<i64>::new());
        for (minutes, limit) in steps {
            now += minutes * 60_000_000;
            latest_now = latest_now.max(now);
            let due = table.due(created.last().copied(), since, now, limit);
            prop_assert!(due.fires.len() <= limit);
            for fire in due.fires {
                prop_assert!(created.last().copied().unwrap_or(since) < fire.at && fire.at <= now);
                created.push(fire.at);
            }
        }
        let all = table.intervals(since, latest_now, Order::Ascending).map(|fire| fire.at).collect::<Vec<_>>();
        prop_assert!(created.iter().all(|at| all.binary_search(at).is_ok()));
        if table.schedule().catch_up() == CatchUp::All {
            prop_assert_eq!(&created[..], &all[..created.len()], "no gap but at the end");
            let rest = table.due(created.last().copied(), since, latest_now, usize::MAX);
            created.extend(rest.fires.iter().map(|fire| fire.at));
            prop_assert_eq!(created, all);
        }
    }
}
