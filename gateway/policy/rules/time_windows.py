"""Windows of time: days of the week, dates and times of day by the clock on some wall.

A window is open while the clock on the wall of its time zone shows one of its times: an hour that daylight saving
skips is never there, and one that it repeats is there twice. A window over midnight belongs to the day on which it
begins: ``Fri 22:00-06:00`` ends on Saturday morning.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FORM: Final = "must be a time window such as Mon-Fri 22:00-06:00 Europe/Berlin"
MAX_LENGTH: Final = 1000
DEFAULT_ZONE: Final = "UTC"
"""Where the text names none: the same on every machine, and what logs are written in."""

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = f"(?:{'|'.join(_DAYS)})"
_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = r"[0-9]{1,2}:[0-9]{2}"
_split_comma = re.compile(r" *, *").split
_match_days = re.compile(rf"({_DAY})(?: *- *({_DAY}))?", re.IGNORECASE | re.ASCII).fullmatch
_match_window = re.compile(
    rf"(?:(?P<first>{_DATE})(?: *- *(?P<last>{_DATE}))?(?: +|$))?"
    rf"(?:(?P<days>{_DAY}(?: *[-,] *{_DAY})*)(?: +|$))?"
    rf"(?P<times>{_CLOCK} *- *{_CLOCK}(?: *, *{_CLOCK} *- *{_CLOCK})*)?",
    re.IGNORECASE | re.ASCII,  # or ``ſ`` is an ``s``
).fullmatch
_match_zone = re.compile(r"(.*?) *(?<![^ ;])([A-Za-z](?:[A-Za-z0-9_+/-]*[A-Za-z0-9])?)").fullmatch
_DAY_MINUTES: Final = 24 * 60
_ONE_DAY: Final = timedelta(days=1)


class Window(NamedTuple):
    """One window; each part narrows it down."""

    first: date | None
    """First and last day of the calendar; None = any."""
    last: date | None
    weekdays: frozenset[int]
    """0 = Monday."""
    times: tuple[tuple[int, int], ...]
    """Minutes of the day, the end not counted; an end before the beginning is the next day's."""

    def is_open(self, day: date, minute: int) -> bool:
        """Whether it is open on this day at this minute of it."""
        today, yesterday = self._begins_on(day), self._begins_on(day - _ONE_DAY)
        for begin, end in self.times:
            if begin < end:
                if today and begin <= minute < end:
                    return True
            elif (today and minute >= begin) or (yesterday and minute < end):
                return True
        return False

    def _begins_on(self, day: date) -> bool:
        if day.weekday() not in self.weekdays:
            return False
        return self.first is None or self.last is None or self.first <= day <= self.last


class Windows(NamedTuple):
    """One window or several, in one time zone."""

    text: str
    """As the configuration writes them."""
    windows: tuple[Window, ...]
    zone: str

    def is_open(self, now: float) -> bool:
        """Whether one of them is open at this time (seconds since 1970). The answer is the same for a whole minute.

        For the years 2 to 9998; beyond, it raises OverflowError or ValueError.
        """
        wall = datetime.fromtimestamp(now, _zone(self.zone))
        day, minute = wall.date(), wall.hour * 60 + wall.minute
        return any(window.is_open(day, minute) for window in self.windows)

    def __str__(self) -> str:
        return self.text if self.text.endswith(self.zone) else f"{self.text} {self.zone}"


def parse_windows(text: str) -> Windows:
    """Windows, with ``;`` between them, and a time zone behind the last, UTC where there is none.

    A window: dates (``2026-12-24`` or ``2026-12-24 - 2026-12-26``), days (``Mon-Fri``, ``Sat,Sun``) and times
    (``22:00-06:00``, ``08:00-12:00,13:00-17:00``), in this order, each of them optional. Raises ValueError.
    """
    text = text.strip(" ")
    if not text or len(text) > MAX_LENGTH:
        raise ValueError(FORM)
    rest, zone = _split_zone(text)
    return Windows(text, tuple(_window(part.strip(" ")) for part in rest.split(";")), zone)


def _split_zone(text: str) -> tuple[str, str]:
    match = _match_zone(text)
    if match is None or _match_days(match[2]):
        return text, DEFAULT_ZONE
    try:
        _zone(match[2])
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(
            "must name days such as Mon-Fri, or a time zone that this machine knows, such as Europe/Berlin"
        ) from exc
    return match[1], match[2]


@cache
def _zone(name: str) -> tzinfo:
    """The time zone of this name, read once: what was there when the configuration was checked is there for a hook."""
    # A machine without a time zone database has UTC all the same.
    return UTC if name == DEFAULT_ZONE else ZoneInfo(name)


def _window(text: str) -> Window:
    match = _match_window(text)
    if match is None or not text:
        raise ValueError(FORM)
    first = last = None
    if match["first"] is not None:
        first = _date(match["first"])
        last = first if match["last"] is None else _date(match["last"])
        if last < first:
            raise ValueError("must not end on a date before the one on which it begins")
    weekdays = frozenset(range(7)) if match["days"] is None else _weekdays(match["days"])
    times = ((0, _DAY_MINUTES),) if match["times"] is None else tuple(map(_times, _split_comma(match["times"])))
    return Window(first, last, weekdays, times)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise ValueError("must be a date of the calendar, such as 2026-12-24") from exc


def _weekdays(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in _split_comma(text):
        match = _match_days(part)
        if match is None:
            raise ValueError(FORM)
        begin = _DAYS.index(match[1].lower())
        end = begin if match[2] is None else _DAYS.index(match[2].lower())
        found.update((begin + i) % 7 for i in range((end - begin) % 7 + 1))
    return frozenset(found)


def _times(text: str) -> tuple[int, int]:
    begin, end = (_minute(part.strip(" ")) for part in text.split("-"))
    if begin in (end, _DAY_MINUTES):
        raise ValueError("must end at another time than it begins; 00:00-24:00 is a whole day")
    return begin, end


def _minute(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY_MINUTES:
        raise ValueError("must hold times of day from 00:00 to 24:00, such as 22:00-06:00")
    return hours * 60 + minutes
