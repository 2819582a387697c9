"""Times of the week in which something may happen, as functions of plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Window:
    """`days` as numbers, Monday 0; from `start` until before `end`, local time of `zone`."""

    days: frozenset[int]
    start: time
    end: time
    zone: ZoneInfo

    def contains(self, moment: datetime) -> bool:
        """True when `moment` (with a time zone) lies in the window."""
        local = moment.astimezone(self.zone)
        return local.weekday() in self.days and self.start <= local.time() < self.end


def parse(text: str) -> Window:
    """`Mon-Thu 09:00-16:00 Europe/Berlin`.  Raises `ValueError` with the fix."""
    match = re.fullmatch(r"(\w{3})(?:-(\w{3}))? (\d\d:\d\d)-(\d\d:\d\d) (\S+)", text.strip())
    if match is None or match[1] not in DAYS or (match[2] or match[1]) not in DAYS:
        raise ValueError("must be days, hours and a time zone, such as Mon-Thu 09:00-16:00 Europe/Berlin")
    first, last = DAYS.index(match[1]), DAYS.index(match[2] or match[1])
    days = frozenset(day % 7 for day in range(first, last + 1 if first <= last else last + 8))
    try:
        return Window(days, time.fromisoformat(match[3]), time.fromisoformat(match[4]), ZoneInfo(match[5]))
    except ZoneInfoNotFoundError:
        raise ValueError(f"names no time zone: {match[5]}; write one such as Europe/Berlin") from None
