"""When something may happen: windows of the week, and days on which nothing rises; functions of plain data.

All is judged by the clock on the wall of a window's zone.  Where daylight saving skips an hour a window that begins in
it opens right after it; the hour that comes twice belongs to a window twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

STAMP = "%Y-%m-%dT%H:%M:%SZ"
"""How times are written: UTC, to the second."""

_WINDOW = re.compile(r"(\w{3})(?:-(\w{3}))? (\d\d:\d\d)-(\d\d:\d\d) (\S+)")
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Window:
    """On `days` (numbers, Monday 0) from `start` until before `end`, minutes after midnight on the clock of `zone`.

    A window whose end is not after its start runs into the next day.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: ZoneInfo

    def contains(self, moment: datetime) -> bool:
        """True when `moment` (with a time zone) lies in the window."""
        local = moment.astimezone(self.zone)
        minute, today = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        return (today in self.days and minute >= self.start) or ((today - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True)
class Freeze:
    """Days without a rise, `first` and `last` included."""

    first: date
    last: date
    why: str


def parse(text: str) -> tuple[Window, ...]:
    """`Mon-Thu 09:00-16:00 Europe/Berlin`, several joined by `;`.  Raises `ValueError` with the fix."""
    return tuple(_parse(part) for part in text.split(";"))


def _parse(text: str) -> Window:
    match = _WINDOW.fullmatch(" ".join(text.split()))
    if match is None or match[1] not in DAYS or (match[2] or match[1]) not in DAYS:
        raise ValueError("must be days, hours and a time zone, such as Mon-Thu 09:00-16:00 Europe/Berlin")
    first, last = DAYS.index(match[1]), DAYS.index(match[2] or match[1])
    days = frozenset(day % 7 for day in range(first, last + 1 if first <= last else last + 8))
    start, end = _minutes(match[3]), _minutes(match[4])
    if start == end or start == 24 * 60:
        raise ValueError(f"has no length: {match[3]}-{match[4]}; a whole day is 00:00-24:00")
    try:
        return Window(days, start, end, ZoneInfo(match[5]))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"names no time zone: {match[5]}; write one such as Europe/Berlin") from None


def _minutes(clock: str) -> int:
    hours, minutes = int(clock[:2]), int(clock[3:])
    if minutes > 59 or 60 * hours + minutes > 24 * 60:
        raise ValueError(f"names no time of day: {clock}; the day runs from 00:00 to 24:00")
    return 60 * hours + minutes


def is_open(text: str | None, moment: datetime) -> bool:
    """True when `moment` lies in one of the windows of `text`, or there are none."""
    return text is None or any(window.contains(moment) for window in parse(text))


def obstacle(text: str | None, freezes: Sequence[Freeze], now: datetime) -> str | None:
    """Why nothing may rise at `now`, with the first minute in which it may; None when it may.

    `text` holds the windows for rises (None: always).  Days are those of the first window's zone, UTC without one.
    """
    zone = _zone(text)
    if frozen := _frozen(freezes, now, zone):
        why = f"falls in the freeze {frozen.first} to {frozen.last} of canary:windows.freezes ({frozen.why})"
    elif not is_open(text, now):
        why = f"comes outside canary:windows.raise ({text})"
    else:
        return None
    opening = _opening(text, freezes, now, zone)
    return f"{why}; {f'allowed from {opening.strftime(STAMP)}' if opening else 'without end'}"


def opens(text: str | None, freezes: Sequence[Freeze], now: datetime) -> datetime | None:
    """When it may rise: `now`, or the first minute after it; None: never."""
    return now if obstacle(text, freezes, now) is None else _opening(text, freezes, now, _zone(text))


def _zone(text: str | None) -> tzinfo:
    return parse(text)[0].zone if text is not None else UTC


def _frozen(freezes: Sequence[Freeze], moment: datetime, zone: tzinfo) -> Freeze | None:
    today = moment.astimezone(zone).date()
    return next((freeze for freeze in freezes if freeze.first <= today <= freeze.last), None)


def _opening(text: str | None, freezes: Sequence[Freeze], now: datetime, zone: tzinfo) -> datetime | None:
    """The first whole minute after `now` that is in a window and in no freeze.

    Minute by minute, because that is right in every zone; only freezes are jumped over.
    """
    windows = parse(text) if text is not None else ()
    moment = now.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
    while moment.year < date.max.year:
        if freeze := _frozen(freezes, moment, zone):
            if freeze.last.year == date.max.year:
                return None
            moment = datetime.combine(freeze.last + timedelta(days=1), time(), zone).astimezone(UTC)
        elif not windows or any(window.contains(moment) for window in windows):
            return moment
        else:
            moment += _MINUTE
    return None
