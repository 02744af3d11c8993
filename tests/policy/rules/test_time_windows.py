"""Windows of time, by the clock on the wall of their time zone."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo, reset_tzpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.rules.time_windows import FORM, MAX_LENGTH, Window, Windows, parse_windows

ROOT = Path(__file__).parent.parent.parent.parent
BERLIN = "Europe/Berlin"
DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def at(text: str, zone: str = "UTC") -> float:
    """The time at which a wall in this zone shows ``2026-01-05 22:00``; an hour that is there twice: the first."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def open_at(windows: str, text: str, zone: str = "UTC") -> bool:
    return parse_windows(windows).is_open(at(text, zone))


def minutes_open(windows: str, day: str, zone: str) -> int:
    """How many minutes of real time it is open while the calendar of the zone shows this day."""
    first = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    begin, end = first.timestamp(), (first + timedelta(days=1)).timestamp()
    parsed = parse_windows(windows)
    return sum(parsed.is_open(begin + 60 * minute) for minute in range(round((end - begin) / 60)))


# --- what the text says ---


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        # 2026-01-05 is a Monday
        ("Mon-Fri", ["2026-01-05 00:00", "2026-01-09 23:59:59"], ["2026-01-10 00:00", "2026-01-04 23:59"]),
        ("mon-FRI", ["2026-01-05 00:00"], ["2026-01-10 00:00"]),
        ("Sat,Sun", ["2026-01-10 00:00", "2026-01-11 23:59"], ["2026-01-12 00:00", "2026-01-09 23:59"]),
        ("Sat, Mon , Wed-Thu", ["2026-01-10 12:00", "2026-01-05 12:00"], ["2026-01-06 12:00", "2026-01-09 12:00"]),
        ("Fri-Mon", ["2026-01-09 12:00", "2026-01-11 12:00", "2026-01-12 12:00"], ["2026-01-13 12:00"]),
        ("00:00-24:00", ["2026-01-05 00:00", "2026-01-05 23:59:59.9"], []),
        ("08:00-12:00", ["2026-01-05 08:00", "2026-01-05 11:59:59.9"], ["2026-01-05 07:59:59", "2026-01-05 12:00"]),
        ("8:00-12:00,13:00-17:00", ["2026-01-05 08:00", "2026-01-05 16:59"], ["2026-01-05 12:30", "2026-01-05 17:00"]),
        ("22:00-24:00", ["2026-01-05 23:59"], ["2026-01-06 00:00"]),
        ("22:00-00:00", ["2026-01-05 23:59"], ["2026-01-06 00:00"]),
        ("2026-12-24", ["2026-12-24 00:00", "2026-12-24 23:59"], ["2026-12-25 00:00", "2025-12-24 12:00"]),
        ("2026-12-24 - 2026-12-26", ["2026-12-24 00:00", "2026-12-26 23:59"], ["2026-12-27 00:00"]),
        ("2026-12-24-2026-12-26 Sat", ["2026-12-26 12:00"], ["2026-12-25 12:00", "2026-12-19 12:00"]),
        ("Mon 08:00-09:00; Tue 10:00-11:00", ["2026-01-05 08:30", "2026-01-06 10:30"], ["2026-01-06 08:30"]),
        ("Mon 08:00-09:00 UTC", ["2026-01-05 08:30"], ["2026-01-05 09:30"]),
        ("  Mon   08:00 - 09:00  ", ["2026-01-05 08:30"], ["2026-01-05 09:30"]),
    ],
)
def test_when_a_window_is_open(text: str, inside: list[str], outside: list[str]) -> None:
    assert [moment for moment in inside if not open_at(text, moment)] == []
    assert [moment for moment in outside if open_at(text, moment)] == []


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (
            "Mon-Fri 22:00-06:00",
            ["2026-01-05 22:00", "2026-01-06 05:59", "2026-01-09 22:00", "2026-01-10 05:59"],
            ["2026-01-05 05:59", "2026-01-06 06:00", "2026-01-10 22:00", "2026-01-05 00:00"],
        ),
        ("Sun 22:00-06:00", ["2026-01-11 23:00", "2026-01-12 05:00"], ["2026-01-11 05:00", "2026-01-12 22:00"]),
        ("2026-12-31 22:00-06:00", ["2026-12-31 22:00", "2027-01-01 05:59"], ["2026-12-31 05:00", "2027-01-01 22:00"]),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(
    text: str, inside: list[str], outside: list[str]
) -> None:
    assert [moment for moment in inside if not open_at(text, moment)] == []
    assert [moment for moment in outside if open_at(text, moment)] == []


def test_without_a_time_zone_it_is_utc_wherever_the_machine_stands() -> None:
    assert parse_windows("Mon 08:00-09:00").zone == "UTC"
    assert str(parse_windows("Mon 08:00-09:00")) == "Mon 08:00-09:00 UTC"
    assert str(parse_windows(f"Mon 08:00-09:00 {BERLIN}")) == f"Mon 08:00-09:00 {BERLIN}"


def test_a_machine_without_a_time_zone_database_has_utc_and_says_so_of_others() -> None:
    """As in a minimal container: what the check has let pass must not fail with every hook."""
    program = (
        "from gateway.policy.rules.time_windows import parse_windows\n"
        "print(parse_windows('Mon 08:00-09:00').is_open(1767601800))\n"  # 2026-01-05 08:30
        "try: parse_windows('Mon Europe/Berlin')\n"
        "except ValueError as exc: print(exc)\n"
    )
    # Before the module is there, so that no data package of Python's own stands in.
    program = "import sys; sys.modules['tzdata'] = None\n" + program
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONTZPATH": ""}, cwd=ROOT, capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    utc, berlin = run.stdout.splitlines()
    assert utc == "True"
    assert "a time zone that this machine knows" in berlin


def test_a_time_zone_is_read_once_and_stays() -> None:
    """An update of the machine's time zones must not take one away under hooks on their way."""
    windows, moment = parse_windows("Mon 08:00-09:00 Pacific/Chatham"), at("2026-01-05 08:30", "Pacific/Chatham")
    ZoneInfo.clear_cache()
    reset_tzpath(to=())
    try:
        assert windows.is_open(moment)
    finally:
        reset_tzpath()


def test_the_time_zone_behind_the_last_window_is_that_of_all() -> None:
    windows = f"Mon 08:00-09:00; Tue {BERLIN}"
    assert open_at(windows, "2026-01-05 08:30", BERLIN)
    assert not open_at(windows, "2026-01-05 08:30", "UTC")
    assert open_at(windows, "2026-01-05 23:30", "UTC")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", FORM),
        (" ", FORM),
        (";", FORM),
        ("Mon;", FORM),
        ("Mon;; Tue", FORM),
        (BERLIN, FORM),
        (f"; {BERLIN}", FORM),
        ("22:00", FORM),
        ("22:00-", FORM),
        ("Mon-", FORM),
        ("Mon Tue", FORM),
        ("22:00-06:00 Mon", FORM),
        (f"22:00-06:00{BERLIN}", FORM),
        ("Mon\n08:00-09:00", FORM),
        ("٠٨:00-09:00", FORM),
        ("Mon " * (MAX_LENGTH // 4 + 1), FORM),
        ("Mo-Fr", "must name days such as Mon-Fri, or a time zone that this machine knows"),
        ("Mon Europe/Berlinn", "must name days such as Mon-Fri, or a time zone that this machine knows"),
        ("Mon Europe", "must name days such as Mon-Fri, or a time zone that this machine knows"),
        ("24:01-06:00", "must hold times of day from 00:00 to 24:00"),
        ("08:60-09:00", "must hold times of day from 00:00 to 24:00"),
        ("99:00-06:00", "must hold times of day from 00:00 to 24:00"),
        ("08:00-08:00", "must end at another time than it begins"),
        ("24:00-06:00", "must end at another time than it begins"),
        ("2026-02-29", "must be a date of the calendar"),
        ("2026-13-01", "must be a date of the calendar"),
        ("0000-01-01", "must be a date of the calendar"),
        ("2026-12-26 - 2026-12-24", "must not end on a date before the one on which it begins"),
    ],
)
def test_what_is_no_window_is_told_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("/", "[/]")):
        parse_windows(text)


@pytest.mark.parametrize("zone", ["../../etc/passwd", "/etc/passwd", "Europe/../Europe/Berlin", "posixrules/x", "."])
def test_adversarial_time_zones_open_no_file_elsewhere(zone: str) -> None:
    with pytest.raises(ValueError, match="must "):
        parse_windows(f"Mon {zone}")


@given(st.text("MonTueSat0123456789:-,; EuropBlin/", max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused_with_words_for_the_operator(text: str) -> None:
    words, windows = "", None
    try:
        windows = parse_windows(text)
    except ValueError as exc:
        words = str(exc)
    if windows is None:
        assert words.startswith("must ")
    else:
        assert isinstance(windows.is_open(0.0), bool)
        assert parse_windows(str(windows)).windows == windows.windows


# --- the model ---


CLOCK = st.integers(0, 24 * 60 - 1)
WINDOWS = st.builds(
    Window,
    st.none() | st.dates(date(2026, 1, 1), date(2026, 1, 20)),
    st.dates(date(2026, 1, 10), date(2026, 1, 31)),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.lists(st.tuples(CLOCK, st.integers(1, 24 * 60)).filter(lambda span: span[0] != span[1]), min_size=1, max_size=3)
    .map(tuple),
)  # fmt: skip


@given(WINDOWS, st.datetimes(datetime(2025, 12, 25), datetime(2026, 2, 7), timezones=st.just(UTC)))
def test_it_is_open_within_one_of_the_spans_that_begin_on_its_days(window: Window, moment: datetime) -> None:
    """Every span written out with its beginning and end."""
    spans = []
    for back in (0, 1):
        day = moment.date() - timedelta(days=back)
        within = window.first is None or (window.last is not None and window.first <= day <= window.last)
        if day.weekday() in window.weekdays and within:
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            for begin, end in window.times:
                length = (end - begin) % (24 * 60) or 24 * 60
                spans.append((midnight + timedelta(minutes=begin), midnight + timedelta(minutes=begin + length)))
    expected = any(begin <= moment < end for begin, end in spans)
    assert Windows("", (window,), "UTC").is_open(moment.timestamp()) is expected


@given(st.datetimes(datetime(1980, 1, 1), datetime(2037, 1, 1)), st.sampled_from(DAYS), CLOCK, CLOCK)
def test_the_answer_is_the_same_for_a_whole_minute(moment: datetime, day: str, begin: int, end: int) -> None:
    if begin == end:
        end = 24 * 60
    windows = parse_windows(f"{day} {begin // 60}:{begin % 60:02}-{end // 60}:{end % 60:02} {BERLIN}")
    minute = moment.replace(tzinfo=UTC).timestamp() // 60 * 60
    assert len({windows.is_open(minute + second) for second in (0, 0.001, 30, 59.999)}) == 1


# --- daylight saving: Berlin leaves out 02:00-03:00 on 2026-03-29 and has it twice on 2026-10-25 ---


@pytest.mark.parametrize(
    ("windows", "day", "minutes"),
    [
        ("00:00-24:00", "2026-03-29", 23 * 60),
        ("00:00-24:00", "2026-10-25", 25 * 60),
        ("Sun 02:00-03:00", "2026-03-29", 0),
        ("Sun 02:00-03:00", "2026-10-25", 120),
        ("Sun 01:30-03:30", "2026-03-29", 60),
        ("Sun 01:30-03:30", "2026-10-25", 180),
        ("Sat 22:00-06:00", "2026-03-29", 5 * 60),
        ("Sat 22:00-06:00", "2026-10-25", 7 * 60),
        ("Sat 22:00-06:00", "2026-03-28", 2 * 60),
    ],
)
def test_an_hour_that_is_left_out_is_not_there_and_one_that_comes_twice_is(
    windows: str, day: str, minutes: int
) -> None:
    assert minutes_open(f"{windows} {BERLIN}", day, BERLIN) == minutes


@pytest.mark.parametrize(("day", "offset"), [("2026-01-05", 1), ("2026-07-06", 2)])
def test_office_hours_keep_to_the_wall_in_summer_and_winter(day: str, offset: int) -> None:
    windows = parse_windows(f"Mon-Fri 08:00-17:00 {BERLIN}")
    opened = [hour for hour in range(24) if windows.is_open(at(f"{day} {hour:02}:00"))]
    assert opened == list(range(8 - offset, 17 - offset))


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"])
def test_zones_of_odd_offsets_open_once_a_day(zone: str) -> None:
    windows = parse_windows(f"22:00-06:00 {zone}")
    begin = at("2026-03-01 12:00", zone)
    states = [windows.is_open(begin + 900 * i) for i in range(96 * 14)]
    assert sum(not before and after for before, after in pairwise(states)) == 14
