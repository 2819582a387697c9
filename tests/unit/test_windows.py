"""Windows of the week and freezes, on the wall clocks of real zones."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from core import checks
from policies import windows
from policies.windows import DAYS, Freeze

OFFICE = "Mon-Thu 09:00-16:00 Europe/Berlin"
XMAS = Freeze(date(2026, 12, 18), date(2027, 1, 4), "year end")
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def opens(text: str | None, now: str, *freezes: Freeze) -> str:
    """The moment that the refusal at `now` names."""
    told = windows.obstacle(text, freezes, at(now))
    assert told is not None
    return told.rpartition("; ")[2]


@pytest.mark.parametrize(
    ("text", "moment", "is_open"),
    [
        (OFFICE, "2026-11-23T08:00Z", True),  # Monday 09:00 in Berlin
        (OFFICE, "2026-11-23T07:59:59Z", False),
        (OFFICE, "2026-11-23T14:59:59Z", True),
        (OFFICE, "2026-11-23T15:00Z", False),
        (OFFICE, "2026-11-27T10:00Z", False),  # Friday
        (OFFICE, "2026-06-22T07:00Z", True),  # summer time
        ("Fri-Mon 09:00-10:00 UTC", "2026-11-21T09:00Z", True),  # the days run over Sunday
        ("Fri-Mon 09:00-10:00 UTC", "2026-11-24T09:00Z", False),
        ("Sat 09:00-10:00 UTC", "2026-11-21T09:30Z", True),
        ("Sat 09:00-10:00 UTC", "2026-11-22T09:30Z", False),
        ("Mon 22:00-04:00 UTC", "2026-11-23T22:00Z", True),
        ("Mon 22:00-04:00 UTC", "2026-11-24T03:59Z", True),  # the night belongs to Monday
        ("Mon 22:00-04:00 UTC", "2026-11-24T04:00Z", False),
        ("Mon 22:00-04:00 UTC", "2026-11-23T03:00Z", False),  # that night was Sunday's
        ("Sun 22:00-04:00 UTC", "2026-11-23T03:00Z", True),
        ("Mon 22:00-00:00 UTC", "2026-11-23T23:59Z", True),
        ("Mon 22:00-00:00 UTC", "2026-11-24T00:00Z", False),
        ("Mon 00:00-24:00 UTC", "2026-11-23T23:59:59Z", True),
        ("Mon 00:00-24:00 UTC", "2026-11-24T00:00Z", False),
        (f"{OFFICE}; Fri 09:00-12:00 Europe/Berlin", "2026-11-27T10:00Z", True),
        (f"{OFFICE};Sat 10:00-11:00 America/New_York", "2026-11-21T15:30Z", True),
        # 29 March 2026 in Berlin: 01:00 UTC is 03:00, and 02:30 was never shown.
        ("Sun 02:30-03:30 Europe/Berlin", "2026-03-29T00:59Z", False),
        ("Sun 02:30-03:30 Europe/Berlin", "2026-03-29T01:00Z", True),
        ("Sun 02:30-03:30 Europe/Berlin", "2026-03-29T01:30Z", False),
        # 25 October 2026 in Berlin: 02:00 to 03:00 comes twice.
        ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T00:30Z", True),
        ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T01:30Z", True),
        ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T02:00Z", False),
        (None, "2026-11-21T09:30Z", True),
    ],
)
def test_a_window_goes_by_the_clock_on_the_wall(text: str | None, moment: str, is_open: bool) -> None:
    assert windows.is_open(text, at(moment)) is is_open
    assert (windows.obstacle(text, [], at(moment)) is None) is is_open


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "such as Mon-Thu"),
        ("09:00-16:00 Europe/Berlin", "such as Mon-Thu"),
        ("Mon 9:00-16:00 Europe/Berlin", "such as Mon-Thu"),
        ("mon 09:00-16:00 Europe/Berlin", "such as Mon-Thu"),
        ("Mon-Xyz 09:00-16:00 Europe/Berlin", "such as Mon-Thu"),
        ("Mon 09:00-16:00", "such as Mon-Thu"),
        (f"{OFFICE};", "such as Mon-Thu"),
        ("Mon 09:00-16:00 Europe/Bielefeld", "no time zone: Europe/Bielefeld"),
        ("Mon 09:00-16:00 ../etc/passwd", "no time zone"),
        ("Mon 09:00-16:00 Europe", "no time zone"),
        ("Mon 09:00-09:00 UTC", "no length"),
        ("Mon 24:00-09:00 UTC", "no length"),
        ("Mon 09:00-24:01 UTC", "no time of day: 24:01"),
        ("Mon 09:60-10:00 UTC", "no time of day: 09:60"),
    ],
)
def test_what_is_no_window_is_refused_with_the_fix(text: str, says: str, web: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=says):
        windows.parse(text)
    with pytest.raises(checks.SettingsError, match=re.escape("canary:windows.raise")):
        checks.parse(web | {"windows": {"raise": text}})


@pytest.mark.parametrize(
    ("text", "now", "freezes", "opening"),
    [
        (OFFICE, "2026-11-23T07:59:59Z", [], "2026-11-23T08:00:00Z"),
        (OFFICE, "2026-11-23T15:00Z", [], "2026-11-24T08:00:00Z"),
        (OFFICE, "2026-11-26T15:00Z", [], "2026-11-30T08:00:00Z"),  # from Thursday afternoon to Monday
        (OFFICE, "2026-03-27T12:00Z", [], "2026-03-30T07:00:00Z"),  # the clock is changed on the way
        ("Sun 02:30-03:30 Europe/Berlin", "2026-03-28T12:00Z", [], "2026-03-29T01:00:00Z"),
        ("Mon 22:00-04:00 UTC", "2026-11-24T04:00Z", [], "2026-11-30T22:00:00Z"),
        (f"{OFFICE}; Fri 09:07-12:00 Europe/Berlin", "2026-11-26T15:00Z", [], "2026-11-27T08:07:00Z"),
        # Both ends of a freeze are frozen, by the calendar of the window's zone.
        (OFFICE, "2026-12-18T10:00Z", [XMAS], "2027-01-05T08:00:00Z"),
        (None, "2026-12-18T00:00Z", [XMAS], "2027-01-05T00:00:00Z"),
        (None, "2027-01-04T23:59:59Z", [XMAS], "2027-01-05T00:00:00Z"),
        ("Mon-Sun 00:00-24:00 Europe/Berlin", "2026-12-17T23:00Z", [XMAS], "2027-01-04T23:00:00Z"),
        ("Mon-Sun 00:00-24:00 America/New_York", "2026-12-18T05:00Z", [XMAS], "2027-01-05T05:00:00Z"),
        # The next window lies in a freeze, and the freeze ends in another.
        (OFFICE, "2026-12-17T15:00Z", [XMAS], "2027-01-05T08:00:00Z"),
        (OFFICE, "2026-12-20T10:00Z", [XMAS, Freeze(date(2027, 1, 5), date(2027, 1, 6), "x")], "2027-01-07T08:00:00Z"),
        (OFFICE, "2026-12-20T10:00Z", [Freeze(date(2027, 1, 5), date(2027, 1, 6), "x"), XMAS], "2027-01-07T08:00:00Z"),
        # Midnight of 29 March 2026 is missing in Beirut: the day begins at 01:00.
        (
            "Mon-Sun 00:00-24:00 Asia/Beirut",
            "2026-03-28T12:00Z",
            [Freeze(date(2026, 3, 28), date(2026, 3, 28), "x")],
            "2026-03-28T22:00:00Z",
        ),
    ],
)
def test_the_refusal_names_the_first_minute_in_which_it_would_pass(
    text: str | None, now: str, freezes: list[Freeze], opening: str
) -> None:
    assert opens(text, now, *freezes) == f"allowed from {opening}"
    assert windows.obstacle(text, freezes, at(opening)) is None
    assert windows.obstacle(text, freezes, at(opening) - timedelta(seconds=1)) is not None


@pytest.mark.parametrize("moment", ["2026-12-17T22:59:59Z", "2027-01-04T23:00:00Z"])
def test_a_freeze_begins_and_ends_at_midnight_of_the_zone(moment: str) -> None:
    assert windows.obstacle("Mon-Sun 00:00-24:00 Europe/Berlin", [XMAS], at(moment)) is None


def test_a_freeze_is_named_with_its_days_and_its_reason() -> None:
    told = windows.obstacle(OFFICE, [XMAS], at("2026-12-21T10:00Z"))
    assert told is not None
    assert "the freeze 2026-12-18 to 2027-01-04 of canary:windows.freezes (year end)" in told


def test_a_window_is_named_as_it_is_written() -> None:
    assert f"outside canary:windows.raise ({OFFICE})" in str(windows.obstacle(OFFICE, [], at("2026-11-21T10:00Z")))


def test_a_freeze_without_end_says_so() -> None:
    assert opens(OFFICE, "2026-12-18T10:00Z", Freeze(date(2026, 1, 1), date.max, "sunset")) == "without end"
    assert opens(OFFICE, "2026-12-18T10:00Z", Freeze(date(2026, 1, 1), date(9999, 12, 30), "sunset")) == "without end"


ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "UTC")


@st.composite
def any_window(draw: st.DrawFn) -> str:
    days = [draw(st.sampled_from(DAYS)), draw(st.sampled_from(DAYS))]
    start, end = draw(st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda pair: pair[0] != pair[1]))
    clock = "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end))
    return f"{'-'.join(days)} {clock} {draw(st.sampled_from(ZONES))}"


moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


def naive(text: str, moment: datetime) -> bool:
    """The window spelled out day by day: what `contains` must agree with."""
    days, clock, zone = text.split(" ")
    first, _, last = days.partition("-")
    named = [*DAYS, *DAYS][DAYS.index(first) :]
    within = [*takewhile(lambda day: day != (last or first), named), last or first]
    begin, end = (time.fromisoformat(one) for one in clock.split("-"))
    local = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    for back in (0, 1):
        day = local.date() - timedelta(days=back)
        if DAYS[day.weekday()] in within:
            opened = datetime.combine(day, begin)
            closed = datetime.combine(day + timedelta(days=int(end <= begin)), end)
            if opened <= local < closed:
                return True
    return False


@given(any_window(), moments)
@example("Mon-Mon 22:00-04:00 UTC", at("2026-11-23T03:00Z"))
def test_a_window_is_what_its_days_spell_out(text: str, moment: datetime) -> None:
    assert windows.is_open(text, moment) == naive(text, moment)


@settings(max_examples=30, deadline=None)
@given(any_window(), moments, st.integers(-3, 12), st.integers(0, 20))
def test_nothing_opens_before_the_named_minute(text: str, now: datetime, begins: int, days: int) -> None:
    first = now.date() + timedelta(days=begins)
    freeze = Freeze(first, first + timedelta(days=days), "x")
    told = windows.obstacle(text, [freeze], now)
    assume(told is not None)
    opening = at(str(told).rpartition(" ")[2])
    zone = ZoneInfo(text.split(" ")[2])
    moment = now.replace(second=0, microsecond=0) + MINUTE
    while moment <= opening:
        frozen = freeze.first <= moment.astimezone(zone).date() <= freeze.last
        assert (naive(text, moment) and not frozen) is (moment == opening)
        moment += MINUTE


def test_windows_and_freezes_of_the_settings_stop_a_rise(web: dict[str, Any]) -> None:
    freezes = [{"from": "2026-12-18", "to": date(2027, 1, 4), "why": "year end"}]
    found, _ = checks.parse(web | {"windows": {"raise": OFFICE, "freezes": freezes}})
    assert found.windows.obstacle(at("2026-11-23T08:00Z")) is None
    assert "outside canary:windows.raise" in str(found.windows.obstacle(at("2026-11-22T08:00Z")))
    assert "(year end)" in str(found.windows.obstacle(at("2027-01-04T10:00Z")))


@pytest.mark.parametrize(
    ("weight", "windows_", "names"),
    [
        (0, {"raise": "always"}, "canary:windows.raise: got 'always'"),
        (0, {"freezes": [{"from": "2026-12-18", "to": "2026-12-17", "why": "x"}]}, "canary:windows.freezes[0].to"),
    ],
)
def test_a_wrong_window_is_an_error_and_at_weight_zero_a_warning(
    web: dict[str, Any], weight: int, windows_: dict[str, Any], names: str
) -> None:
    with pytest.raises(checks.SettingsError, match=re.escape(names)):
        checks.parse(web | {"windows": windows_})
    _, warnings = checks.parse(web | {"weight": weight, "windows": windows_})
    assert names in warnings[0]


@pytest.mark.parametrize("part", [{"gate": {"p95": 5}}, {"rejected": ["not an image"]}], ids=["gate", "rejected"])
def test_gate_and_rejected_images_do_not_stop_a_revert_either(web: dict[str, Any], part: dict[str, Any]) -> None:
    with pytest.raises(checks.SettingsError):
        checks.parse(web | part)
    assert checks.parse(web | part | {"weight": 0})[1]
    assert checks.parse(web | part | {"halted": True})[1]


def test_outside_the_window_for_serving_the_percentage_goes_to_stable(web: dict[str, Any]) -> None:
    found, _ = checks.parse(web | {"weight": 25, "windows": {"serve": OFFICE}})
    inside, outside = found.at(at("2026-11-23T08:00Z")), found.at(at("2026-11-22T08:00Z"))
    assert (inside.serving, inside.effective_weight) == (True, 25)
    assert (outside.serving, outside.effective_weight) == (False, 0)
    assert found.effective_weight == 25, "the settings themselves did not change"
