//! Schedules against an independent implementation: `cronsim` of PyPI, and a reference that tries every
//! minute (`cronsim/peer.py`).
//!
//! What is compared with what:
//!
//! * random rules and moments in UTC: `cronsim` itself;
//! * rules of fixed times around every clock change of sixteen zones from 2015 to 2035: the reference, for
//!   each of the six policies, and `cronsim` itself for its own, shift and first;
//! * rules of the running clock around the same changes: the reference, and `cronsim` itself where its
//!   search is sound.
//!
//! Where `cronsim` deviates from Debian's cron, or from its own rules, the class of cases is named in
//! [`Deviation`], counted, and printed; a case of no class must agree.
//!
//! The packages are installed with pip into a folder of their own below the temporary folder, once.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use headworks_engine::schedule::{Calendars, Order, Schedule, Timetable, check, tzdb_version};
use serde_json::{Value, json};

const REQUIREMENTS: &str = include_str!("cronsim/requirements.txt");
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600;

/// Pairs of a rule and a moment in UTC.
const PAIRS: usize = 25_000;

/// Ordinary ones, half an hour, two hours, midnights, Ramadan, southern, abolished, westernmost of fractions.
const ZONES: [&str; 16] = [
    "America/Chicago",
    "Europe/Paris",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "America/Havana",
    "Africa/Cairo",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "America/St_Johns",
    "Asia/Tehran",
    "America/Santiago",
    "Asia/Gaza",
    "Europe/Dublin",
    "Pacific/Norfolk",
];

/// The process that answers.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start() -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/cronsim/peer.py");
        let mut child = Command::new("python3")
            .arg(script)
            .env("PYTHONPATH", packages())
            .env("PYTHONTZPATH", "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed for this test");
        let input = child.stdin.take().expect("it was piped");
        let output = BufReader::new(child.stdout.take().expect("it was piped"));
        let mut peer = Self { child, input, output };
        let versions = peer.ask(&json!({"ask": "versions"}));
        assert_eq!(versions, json!({"cronsim": "2.8", "tzdata": tzdb_version()}), "zones of one release");
        peer
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.input, "{question}").expect("the peer reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the peer answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{question}: {line:?}: {error}"))
    }

    /// The fires that it names, or its error.
    fn fires(&mut self, question: &Value) -> Result<Vec<i64>, String> {
        let answer = self.ask(question);
        match answer["fires"].as_array() {
            Some(fires) => Ok(fires.iter().map(|at| at.as_i64().expect("seconds")).collect()),
            None => Err(answer["error"].as_str().expect("an error").to_owned()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder with the packages; installed by whoever comes first.
fn packages() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("headworks-cronsim-{:x}", fingerprint(REQUIREMENTS)));
        if !folder.is_dir() {
            install(&folder);
        }
        folder
    })
}

/// Installs beside `folder` and renames: what has the name is complete.
fn install(folder: &Path) {
    let own = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(&own).expect("a temporary folder");
    let requirements = own.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).expect("a temporary file");
    let installed = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
        .arg(&own)
        .arg("-r")
        .arg(&requirements)
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .status();
    assert!(installed.is_ok_and(|status| status.success()), "pip must be able to install {REQUIREMENTS}");
    // Whoever loses the race uses the winner's, which is the same.
    if fs::rename(&own, folder).is_err() {
        fs::remove_dir_all(&own).expect("a temporary folder");
    }
}

fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Why a case is not compared with `cronsim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deviation {
    /// `7-7/5` is 7 in Debian, and `7-59/5` in cronsim, which loses the range of one; it is asked for `7`.
    StepOnRangeOfOne,
    /// `0 0 31 2 *` is refused by cronsim; Debian takes it and never runs it, as we do.
    ImpossibleDateRefused,
    /// Six fields that begin with no `*` are fixed times to us, the running clock to cronsim.
    SixFieldsFixed,
    /// Asked from within the second pass of an overlap, cronsim forgets which pass it is, and names fires of
    /// the first one, which are past.
    BeginsInSecondPass,
    /// cronsim steps by whole hours of elapsed time from a full hour, and takes 00:00 for granted: changes by
    /// other than whole hours, and gaps at midnight, lead its search for the running clock astray.
    RunningClockAstray,
}

/// Cases by class, and what went wrong.
#[derive(Default)]
struct Tally {
    compared: usize,
    excluded: BTreeMap<Deviation, (usize, usize)>,
    wrong: Vec<String>,
}

impl Tally {
    fn agree(&mut self, case: &str, ours: &[i64], theirs: &[i64]) {
        self.compared += 1;
        if ours != theirs {
            self.wrong.push(format!("{case}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }

    /// An excluded case, and whether the two differ in it.
    fn exclude(&mut self, why: Deviation, differs: bool) {
        let (cases, different) = self.excluded.entry(why).or_default();
        *cases += 1;
        *different += usize::from(differs);
    }

    /// What was found, once nothing of it is wrong.
    fn finish(self, what: &str) -> String {
        let shown = self.wrong.iter().take(10).map(String::as_str).collect::<Vec<_>>();
        assert!(self.wrong.is_empty(), "{what}: {} cases differ:\n{}", self.wrong.len(), shown.join("\n"));
        let excluded = self.excluded.values().map(|(cases, _)| cases).sum::<usize>();
        assert!(excluded < self.compared / 5, "{what}: {excluded} of {} cases are excluded", self.compared);
        let mut report = format!("{what}: {} cases agree", self.compared);
        for (why, (cases, different)) in &self.excluded {
            report.push_str(&format!("\n  excluded: {why:?}: {cases} cases, {different} of which differ"));
        }
        report
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same cases each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let spread = u128::from(mixed ^ (mixed >> 31)) * u128::try_from(bound).expect("not negative");
        i64::try_from(spread >> 64).expect("below the bound")
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(high - low + 1)
    }

    fn chance(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        let at = self.below(i64::try_from(list.len()).expect("a short list"));
        list[usize::try_from(at).expect("not negative")]
    }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Writes rules of all the forms there are.
struct Writer<'a>(&'a mut Random);

impl Writer<'_> {
    fn rule(&mut self) -> String {
        let mut fields = vec![
            self.field(0, 59, 10, &[]),
            self.field(0, 23, 20, &[]),
            self.days(),
            self.field(1, 12, 60, &MONTHS),
            self.weekdays(),
        ];
        if self.0.chance(15) {
            fields.insert(0, self.field(0, 59, 30, &[]));
        }
        fields.join(self.0.one_of(&[" ", "  ", "\t"]))
    }

    fn field(&mut self, low: i64, high: i64, star: i64, names: &[&str]) -> String {
        if self.0.chance(star) {
            return "*".to_owned();
        }
        let count = self.0.one_of(&[1, 1, 1, 1, 2, 3]);
        (0..count).map(|_| self.item(low, high, names)).collect::<Vec<_>>().join(",")
    }

    fn item(&mut self, low: i64, high: i64, names: &[&str]) -> String {
        let from = self.0.between(low, high);
        let to = self.0.between(from, high);
        let longest = if self.0.chance(90) { (high / 2).max(2) } else { 100 };
        let step = self.0.between(1, longest);
        let (first, last) = (self.value(from, low, names), self.value(to, low, names));
        match self.0.below(12) {
            0..=4 => first,
            5 | 6 => format!("{first}-{last}"),
            7 | 8 => format!("*/{step}"),
            9 => format!("{first}-{last}/{step}"),
            10 => format!("{first}/{step}"),
            _ if self.0.chance(10) => "*".to_owned(),
            _ => format!("0{from}"),
        }
    }

    fn value(&mut self, value: i64, low: i64, names: &[&str]) -> String {
        match usize::try_from(value - low).ok().and_then(|at| names.get(at)) {
            Some(name) if self.0.chance(40) => {
                let upper = name.to_uppercase();
                let capital = format!("{}{}", &upper[..1], &name[1..]);
                self.0.one_of(&[name, upper.as_str(), capital.as_str()]).to_owned()
            }
            _ => value.to_string(),
        }
    }

    fn days(&mut self) -> String {
        match self.0.below(20) {
            0 => "L".to_owned(),
            1 => "LW".to_owned(),
            2 => format!("{},l", self.0.between(1, 31)),
            _ => self.field(1, 31, 50, &[]),
        }
    }

    fn weekdays(&mut self) -> String {
        let weekday = self.0.between(0, 7);
        match self.0.below(20) {
            0 => format!("{weekday}L"),
            1 => format!("{}#{}", self.value(weekday, 0, &WEEKDAYS), self.0.between(1, 5)),
            2 => format!("{weekday}#{},{}", self.0.between(1, 5), self.0.between(0, 7)),
            _ => self.field(0, 7, 50, &WEEKDAYS),
        }
    }
}

fn bind(section: &Value) -> Timetable {
    let schedule = Schedule::from_json(section).unwrap_or_else(|error| panic!("{section}: {error}"));
    schedule.bind(&Calendars::default()).expect("no calendars")
}

/// Our fires after `from` and up to `to`, in seconds.
fn ours(table: &Timetable, from: i64, to: i64, limit: usize) -> Vec<i64> {
    let fires = table.intervals(from * SECOND, to.saturating_mul(SECOND), Order::Ascending);
    fires.take(limit).map(|fire| fire.at / SECOND).collect()
}

/// The rule with `7-7/5` written as `7`, which is what Debian reads.
fn without_steps_on_ranges_of_one(rule: &str) -> String {
    let number = |text: &str| {
        let name = text.to_ascii_lowercase();
        let named = |names: &[&str], low: usize| names.iter().position(|known| *known == name).map(|at| at + low);
        named(&MONTHS, 1).or_else(|| named(&WEEKDAYS, 0)).or_else(|| text.parse().ok())
    };
    let item = |item: &str| match item.split_once('/').and_then(|(range, _)| range.split_once('-')) {
        Some((from, to)) if number(from) == number(to) => from.to_owned(),
        _ => item.to_owned(),
    };
    let field = |field: &str| field.split(',').map(item).collect::<Vec<_>>().join(",");
    rule.split_ascii_whitespace().map(field).collect::<Vec<_>>().join(" ")
}

#[test]
fn random_rules_in_utc() {
    let (mut peer, mut random, mut tally) = (Peer::start(), Random(1), Tally::default());
    for _ in 0..PAIRS {
        let rule = Writer(&mut random).rule();
        let from = random.between(0, 4_000_000_000);
        let mut ask =
            |rule: &str| peer.fires(&json!({"ask": "cronsim", "expr": rule, "zone": "UTC", "from": from, "n": 4}));
        let (mut theirs, plain) = (ask(&rule), without_steps_on_ranges_of_one(&rule));
        check(&rule).unwrap_or_else(|error| panic!("{rule:?}: {error}, but cronsim: {theirs:?}"));
        let found = ours(&bind(&json!({"cron": rule})), from, i64::MAX, 4);
        if plain.split_ascii_whitespace().ne(rule.split_ascii_whitespace()) {
            tally.exclude(Deviation::StepOnRangeOfOne, theirs.as_ref() != Ok(&found));
            theirs = ask(&plain);
        }
        match theirs {
            Ok(theirs) => tally.agree(&format!("{rule:?} from {from}"), &found, &theirs),
            Err(error) => {
                assert!(error == "CronSimError: Bad day-of-month" && found.is_empty(), "{rule:?}: {error}, {found:?}");
                tally.exclude(Deviation::ImpossibleDateRefused, true);
            }
        }
    }
    assert!(tally.compared >= 20_000, "only {} cases", tally.compared);
    println!("{}", tally.finish("random rules in UTC"));
}

/// Rules that fire seldom lead over many changes of the clock at once.
#[test]
fn random_fixed_times_in_zones() {
    let (mut peer, mut random, mut tally) = (Peer::start(), Random(5), Tally::default());
    while tally.compared < 6_000 {
        let rule = without_steps_on_ranges_of_one(&Writer(&mut random).rule());
        let fields = rule.split(' ').collect::<Vec<_>>();
        if fields.len() != 5 || fields[..2].iter().any(|field| field.starts_with('*')) {
            continue;
        }
        let (zone, from) = (random.one_of(&ZONES), random.between(1_300_000_000, 2_100_000_000));
        let theirs = peer.fires(&json!({"ask": "cronsim", "expr": rule, "zone": zone, "from": from, "n": 4}));
        let table = bind(&json!({"cron": rule, "timezone": zone}));
        let found = ours(&table, from, i64::MAX, 4);
        match theirs {
            Ok(theirs) if theirs.first().is_some_and(|first| *first <= from) => {
                tally.exclude(Deviation::BeginsInSecondPass, true);
            }
            Ok(theirs) => {
                tally.agree(&format!("{rule:?} in {zone} from {from}"), &found, &theirs);
                let Some(last) = found.last() else { continue };
                let back = table.intervals(from * SECOND, last * SECOND, Order::Descending);
                let mut back = back.map(|fire| fire.at / SECOND).collect::<Vec<_>>();
                back.reverse();
                tally.agree(&format!("{rule:?} in {zone} from {from}, backward"), &back, &found);
            }
            Err(_) => tally.exclude(Deviation::ImpossibleDateRefused, !found.is_empty()),
        }
    }
    println!("{}", tally.finish("random fixed times in zones"));
}

#[test]
fn lines_that_cronsim_refuses_are_refused() {
    let (mut peer, mut random) = (Peer::start(), Random(2));
    let mut refused = 0;
    for _ in 0..5_000 {
        let mut rule = Writer(&mut random).rule().into_bytes();
        let at = usize::try_from(random.below(i64::try_from(rule.len()).expect("short"))).expect("not negative");
        rule[at] = random.one_of(b"0123456789*/,-#LWx?").to_owned();
        let rule = String::from_utf8(rule).expect("it is ASCII");
        let theirs = peer.fires(&json!({"ask": "cronsim", "expr": rule, "zone": "UTC", "from": 0, "n": 1}));
        let impossible = ours_or_error(&rule).is_ok_and(|found| found.is_empty());
        // A name with L (`friL`) and the forms that Deviation names are ours alone.
        let own = rule
            .to_ascii_lowercase()
            .split([' ', '\t', ','])
            .any(|item| item.strip_suffix('l').is_some_and(|name| WEEKDAYS.contains(&name)));
        if theirs.is_err() {
            refused += 1;
            assert!(own || impossible || check(&rule).is_err(), "{rule:?} is taken, cronsim: {theirs:?}");
        } else {
            // cronsim lets L and LW have a step, and drops it.
            let step_on_last = rule.split([' ', '\t', ',']).any(|item| {
                item.to_ascii_uppercase().starts_with("L/") || item.to_ascii_uppercase().starts_with("LW/")
            });
            assert!(step_on_last || check(&rule).is_ok(), "{rule:?}: {:?}, but cronsim takes it", check(&rule));
        }
    }
    assert!(refused > 1_000, "only {refused}");
}

fn ours_or_error(rule: &str) -> Result<Vec<i64>, String> {
    check(rule).map_err(|error| error.to_string())?;
    Ok(ours(&bind(&json!({"cron": rule})), 0, i64::MAX, 1))
}

/// A change of the clock, and the hours of the wall clock about it.
struct Change {
    zone: &'static str,
    at: i64,
    /// Seconds that the clock jumps.
    jump: i64,
    /// Local seconds of day just before.
    time: i64,
}

fn changes(peer: &mut Peer, zone: &'static str, from: i64, to: i64) -> Vec<Change> {
    let found = peer.fires(&json!({"ask": "changes", "zone": zone, "from": from, "to": to})).expect("changes");
    let found = found.into_iter().map(|at| {
        let name = jiff::tz::TimeZone::get(zone).expect(zone);
        let offset = |at| i64::from(name.to_offset(jiff::Timestamp::from_second(at).expect("in range")).seconds());
        Change { zone, at, jump: offset(at) - offset(at - 1), time: (at + offset(at - 1)).rem_euclid(24 * HOUR) }
    });
    found.collect()
}

/// 2015-01-01 to 2036-01-01.
fn all_changes(peer: &mut Peer) -> Vec<Change> {
    let all = ZONES.into_iter().flat_map(|zone| changes(peer, zone, 1_420_070_400, 2_082_758_400)).collect::<Vec<_>>();
    assert!(all.len() > 400, "only {} changes", all.len());
    all
}

/// A minute and hours near a change, so that many of the times are in the gap or the overlap.
fn times_near(change: &Change, random: &mut Random) -> (String, String) {
    let mut minutes = (0..random.between(1, 4)).map(|_| random.between(0, 59).to_string()).collect::<Vec<_>>();
    if random.chance(40) {
        minutes.push("0,30".to_owned());
    }
    let hour = |offset: i64| ((change.time / HOUR + offset).rem_euclid(24)).to_string();
    let hours = (0..random.between(1, 3)).map(|_| hour(random.between(-2, 2))).collect::<Vec<_>>();
    (minutes.join(","), hours.join(","))
}

fn around(change: &Change, random: &mut Random) -> (i64, i64) {
    (change.at - random.between(-3 * HOUR, 30 * HOUR), change.at + random.between(3, 30) * HOUR)
}

const POLICIES: [(&str, &str); 6] =
    [("shift", "first"), ("shift", "last"), ("shift", "both"), ("skip", "first"), ("skip", "last"), ("skip", "both")];

fn fixed_times(peer: &mut Peer, random: &mut Random, tally: &mut Tally, change: &Change) {
    for _ in 0..6 {
        let (minutes, hours) = times_near(change, random);
        let days = random.one_of(&["* * *", "* * *", "*/2 * *", "1-31 * *", "* * sun-fri", "L,1,8 * 0,1,5,6"]);
        let six = random.chance(15);
        let rule = format!("{}{minutes} {hours} {days}", if six { "0,30 " } else { "" });
        let (from, to) = around(change, random);
        let question =
            |ask: &str| json!({"ask": ask, "expr": rule, "zone": change.zone, "from": from, "to": to, "n": 1_000});
        for (gap, overlap) in POLICIES {
            let case = format!("{rule:?} in {} from {from} to {to}, {gap}, {overlap}", change.zone);
            let section = json!({"cron": rule, "timezone": change.zone, "dst": {"gap": gap, "overlap": overlap}});
            let found = ours(&bind(&section), from, to, usize::MAX);
            let mut wall = question("wall");
            (wall["gap"], wall["overlap"]) = (json!(gap), json!(overlap));
            tally.agree(&case, &found, &peer.fires(&wall).expect("the reference"));
            if (gap, overlap) == ("shift", "first") {
                let theirs = peer.fires(&question("cronsim")).expect("cronsim");
                if six {
                    tally.exclude(Deviation::SixFieldsFixed, found != theirs);
                } else if (change.at..change.at - change.jump).contains(&from) {
                    tally.exclude(Deviation::BeginsInSecondPass, found != theirs);
                } else {
                    tally.agree(&format!("{case}, cronsim"), &found, &theirs);
                }
            }
        }
    }
}

#[test]
fn fixed_times_at_every_change_of_the_clock() {
    let (mut peer, mut random, mut tally) = (Peer::start(), Random(3), Tally::default());
    for change in all_changes(&mut peer) {
        fixed_times(&mut peer, &mut random, &mut tally, &change);
    }
    // A whole day that was left out, on the date line.
    for change in changes(&mut peer, "Pacific/Apia", 1_314_000_000, 1_330_000_000) {
        (0..20).for_each(|_| fixed_times(&mut peer, &mut random, &mut tally, &change));
    }
    println!("{}", tally.finish("fixed times at clock changes"));
}

#[test]
fn the_running_clock_at_every_change_of_the_clock() {
    let (mut peer, mut random, mut tally) = (Peer::start(), Random(4), Tally::default());
    for change in all_changes(&mut peer) {
        for _ in 0..3 {
            let (minutes, hours) = times_near(&change, &mut random);
            let times = [
                format!("*/{} {hours}", random.one_of(&[5, 7, 15, 30])),
                format!("{minutes} *"),
                format!("{minutes} */{}", random.between(1, 6)),
                "* *".to_owned(),
            ];
            let at = usize::try_from(random.below(4)).expect("not negative");
            let rule = format!("{} {}", times[at], random.one_of(&["* * *", "*/2 * *", "* * sun-fri"]));
            let (from, to) = (
                change.at - random.between(0, 26) * HOUR - random.below(HOUR),
                change.at + random.between(1, 27) * HOUR,
            );
            let (gap, overlap) = random.one_of(&POLICIES);
            let section = json!({"cron": rule, "timezone": change.zone, "dst": {"gap": gap, "overlap": overlap}});
            let found = ours(&bind(&section), from, to, usize::MAX);
            let question =
                |ask: &str| json!({"ask": ask, "expr": rule, "zone": change.zone, "from": from, "to": to, "n": 10_000});
            let case = format!("{rule:?} in {} from {from} to {to}", change.zone);
            tally.agree(&case, &found, &peer.fires(&question("running")).expect("the reference"));
            let theirs = peer.fires(&question("cronsim")).expect("cronsim");
            let midnight = change.jump > 0 && change.time == 0;
            if change.jump % HOUR != 0 || midnight {
                tally.exclude(Deviation::RunningClockAstray, found != theirs);
            } else {
                tally.agree(&format!("{case}, cronsim"), &found, &theirs);
            }
        }
    }
    println!("{}", tally.finish("the running clock at clock changes"));
}
