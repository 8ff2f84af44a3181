"""Answers for the test cronsim.rs: JSON lines in, one JSON line out for each.

Instants are seconds since 1970-01-01T00:00Z. Zones are those of the PyPI package tzdata (the test sets
PYTHONTZPATH to nothing, so that the machine's are not seen).

  {"ask": "versions"}                                   what is compared with
  {"ask": "changes", zone, from, to}                    instants at which the zone's offset changes
  {"ask": "cronsim", expr, zone, from, n, to?}          the first n fires after `from`, by cronsim itself
  {"ask": "wall", expr, zone, from, to, gap, overlap}   fixed times: each wall-clock minute by itself
  {"ask": "running", expr, zone, from, to}              the running clock: each minute that elapses

`wall` and `running` share nothing with cronsim's search and nothing with ours: they try every minute. Of
cronsim they use the parser and the match of single fields.
"""

import json
import sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from zoneinfo import ZoneInfo

import tzdata
from cronsim import CronSim, CronSimError

UTC = timezone.utc


def zone_of(name):
    # cronsim treats only datetime.timezone.utc as free of clock changes.
    return UTC if name == "UTC" else ZoneInfo(name)


def offset(zone, at):
    return datetime.fromtimestamp(at, zone).utcoffset()


def change_between(zone, low, high):
    """The instant in (low, high] from which the offset is that of `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        if offset(zone, middle) == offset(zone, low):
            low = middle
        else:
            high = middle
    return high


def changes(zone, begin, end):
    found = []
    step = 12 * 3600
    for low in range(begin, end, step):
        if offset(zone, low) != offset(zone, low + step):
            found.append(change_between(zone, low, low + step))
    return found


def cronsim(expr, zone, begin, n, end=None):
    fires = []
    for fire in CronSim(expr, datetime.fromtimestamp(begin, zone)):
        at = int(fire.timestamp())
        if len(fires) == n or (end is not None and at > end):
            break
        fires.append(at)
    return fires


def fields(expr):
    return CronSim(expr, datetime(2026, 1, 1, tzinfo=UTC))


def wall(expr, zone, begin, end, gap, overlap):
    sim = fields(expr)
    fires = set()
    day = datetime.fromtimestamp(begin, zone).replace(tzinfo=None).date() - timedelta(days=2)
    last = datetime.fromtimestamp(end, zone).replace(tzinfo=None).date() + timedelta(days=2)
    while day <= last:
        if day.month in sim.months and sim.match_day(day):
            for hour in sim.hours:
                for minute in sim.minutes:
                    for second in sim.seconds:
                        naive = datetime(day.year, day.month, day.day, hour, minute, second)
                        fires.update(instants(naive, zone, gap, overlap))
        day += timedelta(days=1)
    return sorted(at for at in fires if begin < at <= end)


def instants(naive, zone, gap, overlap):
    before = int(naive.replace(tzinfo=zone, fold=0).timestamp())
    after = int(naive.replace(tzinfo=zone, fold=1).timestamp())
    if before == after:
        return [before]
    if before > after:  # PEP 495: in a gap fold=0 reads the clock from before the change
        return [change_between(zone, after - 1, before)] if gap == "shift" else []
    return {"first": [before], "last": [after], "both": [before, after]}[overlap]


def running(expr, zone, begin, end):
    sim = fields(expr)
    fires = []
    step = 60 if sim.seconds == {0} else 1
    first = begin // step * step + step
    for at in range(first, end + 1, step):
        now = datetime.fromtimestamp(at, zone)
        if (
            now.second in sim.seconds
            and now.minute in sim.minutes
            and now.hour in sim.hours
            and now.month in sim.months
            and sim.match_day(now.date())
        ):
            fires.append(at)
    return fires


def answer(ask):
    kind = ask["ask"]
    if kind == "versions":
        return {"cronsim": version("cronsim"), "tzdata": tzdata.IANA_VERSION}
    zone = zone_of(ask["zone"])
    try:
        if kind == "changes":
            return {"fires": changes(zone, ask["from"], ask["to"])}
        if kind == "cronsim":
            return {"fires": cronsim(ask["expr"], zone, ask["from"], ask["n"], ask.get("to"))}
        if kind == "wall":
            return {"fires": wall(ask["expr"], zone, ask["from"], ask["to"], ask["gap"], ask["overlap"])}
        return {"fires": running(ask["expr"], zone, ask["from"], ask["to"])}
    except (CronSimError, AssertionError, ValueError, OverflowError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
