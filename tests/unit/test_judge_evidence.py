"""Counting: from what a scraper stored to what was served, each request once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from core import timeline
from core.bets import NONE, Counts, Tick, total
from core.evidence import Series, interval, ticks
from core.timeline import Stay, Update

DOOR, BEGAN = "gateway", 1000.0
STAY = [Stay(BEGAN, 5000, 5, True)]
WARM = BEGAN + 60
"""Canary's first request is seen at `BEGAN` + 15, its warm-up lasts 30 s more."""


def series(
    track: str, *samples: tuple[float, float], failed: bool = False, target: str = "a", door: str = DOOR
) -> Series:
    return Series(door, target, track, failed, None, samples)


def scraped(values: Sequence[float], start: float = BEGAN, every: float = 15) -> list[tuple[float, float]]:
    return [(start + every * number, value) for number, value in enumerate(values)]


def sums(found: list[Tick]) -> tuple[Counts, Counts, Counts]:
    """(canary, stable, cold)."""
    pairs = [pair for tick in found for pair in tick.doors]
    return total([one for one, _ in pairs]), total([one for _, one in pairs]), total([tick.cold for tick in found])


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_of_what_is_counted_is_what_an_exporter_counted(seed: int) -> None:
    random, value, true, samples = Random(seed), 0, 0, [(BEGAN - 15, 0.0)]
    for number in range(100):
        if random.random() < 0.05:
            value = 0  # it restarts, between two scrapes and with nothing lost
        more = random.randint(0, 9)
        value, true = value + more, true + more
        if random.random() < 0.9 or number == 99:  # a scrape may be missed
            samples += [(BEGAN + 15 * number, float(value))] * random.choice((1, 1, 1, 2))  # or stored twice
        elif value <= 9:
            true -= more  # what came between a restart and a missed scrape is not lost, but what was before it may be
            value -= more
    found = ticks([series("stable", *samples)], STAY)
    assert sums(found)[1].requests <= true
    assert sums(found)[1].requests >= 0.9 * true


def test_a_counter_without_restarts_is_counted_exactly_whatever_scrapes_are_missed_or_stored_twice() -> None:
    random, value, samples = Random(1), 7, [(BEGAN - 15, 7.0)]
    for number in range(100):
        value += random.randint(0, 9)
        if number in (0, 99) or random.random() < 0.7:
            samples += [(BEGAN + 15 * number, float(value))] * random.choice((1, 2))
    random.shuffle(samples)
    assert sums(ticks([series("stable", *samples)], STAY))[1].requests == value - 7


def test_a_value_that_falls_is_a_new_counter() -> None:
    found = ticks([series("stable", *scraped([100, 110, 4, 9], BEGAN - 15))], STAY)
    assert sums(found)[1].requests == 10 + 4 + 5


def test_the_first_failure_of_a_series_counts_because_its_target_was_scraped_before() -> None:
    known = series("stable", *scraped([50] * 10))
    new = series("stable", *scraped([3, 4], WARM), failed=True)
    assert sums(ticks([known, new], STAY))[1].failures == 4


def test_what_was_counted_before_anybody_looked_is_left_out() -> None:
    assert sums(ticks([series("stable", *scraped([50, 51]))], STAY))[1].requests == 1


def test_a_new_pod_of_canary_counts_from_nothing_and_one_of_stable_from_what_is_seen_first() -> None:
    for track, counted in (("canary", 5), ("stable", 2)):
        found = ticks([series(track, *scraped([3, 5], WARM), door="")], STAY)
        assert sum(one.requests for one in sums(found)) == counted


def test_a_pod_warms_up_when_it_is_new_and_when_it_has_restarted() -> None:
    values = [0, 10, 20, 30, 40, 2, 12, 22, 32, 42]  # restarts at the sixth
    canary, _, cold = sums(ticks([series("canary", *scraped(values, WARM), door="")], STAY))
    assert (canary.requests, cold.requests) == (30 + 30, 10 + 2 + 10)


def test_canary_warms_up_with_its_first_requests_and_after_a_rise_that_makes_pods() -> None:
    values = list(range(0, 400, 10))
    for fresh, counted in ((False, 0), (True, 20)):
        stays = [Stay(BEGAN, 1300, 5, True), Stay(1300, 5000, 10, fresh)]
        cold = sums(ticks([series("stable", (BEGAN, 1)), series("canary", *scraped(values))], stays))[2]
        assert cold.requests == 20 + counted


def test_a_gap_that_hides_a_change_of_weight_is_left_out_and_a_short_one_is_not() -> None:
    stays = [Stay(BEGAN, 2000, 5, False), Stay(2000, 5000, 25, False)]
    for gap, counted in ((15, 3), (300, 2)):
        samples = [(1900.0, 0.0), (1990.0, 1.0), (1990.0 + gap, 2.0), (2005.0 + gap, 3.0)]
        assert sums(ticks([series("stable", *samples)], stays))[1].requests == counted


def test_what_happened_while_another_canary_was_deployed_is_left_out() -> None:
    stays = [Stay(BEGAN, 1100, 5, False), Stay(1500, 5000, 5, False)]
    found = ticks([series("stable", *scraped(range(60), BEGAN, 15))], stays)
    assert all(tick.at <= 1110 or tick.at > 1500 for tick in found)
    assert 0 < sums(found)[1].requests < 59


@pytest.mark.parametrize(
    ("stable", "weight", "canary_s", "stable_s"),
    [(10, 5, 20, 0), (0, 5, 1, 19), (0, 100, 20, 0)],
    ids=["canary has no endpoint", "nobody has one", "everybody is canary's"],
)
def test_requests_that_found_no_endpoint_are_canarys_unless_stable_answers_nobody_either(
    stable: int, weight: int, canary_s: int, stable_s: int
) -> None:
    found = [
        series("stable", (WARM - 15, 0), (WARM, stable)),
        series("unknown", (WARM - 15, 0), (WARM, 20), failed=True),
    ]
    (tick,) = ticks(found, [Stay(BEGAN, 5000, weight, False)])
    (canary, other), *_ = tick.doors
    assert (canary, other.failures) == (Counts(canary_s, canary_s), stable_s)


def test_slower_requests_are_all_less_those_within_the_bound() -> None:
    def bucket(bound: float, number: int) -> Series:
        return Series(DOOR, "a", "stable", False, bound, [(WARM, 0), (WARM + 15, number)])

    counted = series("stable", (WARM, 0), (WARM + 15, 100))
    found = ticks([counted, bucket(250, 60), bucket(500, 90), bucket(float("inf"), 100)], STAY, (250, 500))
    assert sums(found)[1] == Counts(100, 0, (40, 10))


def test_doors_stay_apart_and_every_tick_has_both() -> None:
    here, there = (
        series("stable", (WARM, 0), (WARM + 15, 5)),
        series("canary", (WARM, 0), (WARM + 45, 7), door="waypoint"),
    )
    found = ticks([here, there], [Stay(BEGAN, 5000, 5, False)])
    assert [tick.doors for tick in found] == [
        ((NONE, Counts(5, 0)), (NONE, NONE)),
        ((NONE, NONE), (Counts(7, 0), NONE)),
    ]


def test_more_samples_do_not_change_what_was_counted_before() -> None:
    samples = scraped([number * 3 for number in range(60)])
    early = ticks([series("stable", *samples[:30])], STAY)
    assert early[:-1] == ticks([series("stable", *samples)], STAY)[: len(early) - 1]
    assert interval([series("stable", *samples)]) == 15


# The stack's history.

T0 = datetime(2026, 11, 2, 9, tzinfo=UTC)


def update(version: int, minutes: float, weight: int, canary: str = "web:2", **more: object) -> Update:
    began = T0 + timedelta(minutes=minutes)
    images = {"web": {"stable": "web:1"} | ({"canary": canary} if canary else {})}
    told = {"result": "succeeded", "halted": False, "images": images, "ended": began + timedelta(seconds=6)} | more
    return Update(version=version, began=began, weight=weight, **told)  # type: ignore[arg-type]


def stays(*updates: Update, at: float = 60, grows: bool = False) -> list[tuple[float, float, int, bool]]:
    found = timeline.stays(updates, T0 + timedelta(minutes=at), grows=grows)
    return [
        (
            round((one.since - T0.timestamp()) / 60, 1),
            round((one.until - T0.timestamp()) / 60, 1),
            one.weight,
            one.fresh,
        )
        for one in found
    ]


def test_a_rollout_is_its_weights_in_order_and_begins_with_its_update() -> None:
    found = stays(update(1, 0, 0, ""), update(2, 10, 5), update(3, 20, 10), update(4, 30, 10))
    assert found == [(10, 20.1, 5, True), (20.1, 60, 10, False)]
    assert stays(update(2, 10, 5), update(3, 20, 10), grows=True)[1][3] is True


def test_a_second_try_of_the_same_image_goes_on_with_the_evidence_and_another_image_begins_anew() -> None:
    halted = update(3, 20, 0, halted=True)
    assert [one[2] for one in stays(update(2, 10, 5), halted, update(4, 30, 5))] == [5, 5]
    assert [one[2] for one in stays(update(2, 10, 5), halted, update(4, 30, 5, "web:3"))] == [5]


def test_without_a_canary_or_while_halted_there_is_nothing_to_judge() -> None:
    assert stays() == []
    assert stays(update(2, 10, 0, "")) == []
    assert stays(update(2, 10, 5), update(3, 20, 0, halted=True)) == []


def test_the_past_is_seen_as_it_was() -> None:
    history = update(2, 10, 5), update(3, 20, 10), update(4, 30, 0, halted=True)
    assert stays(*history, at=15) == [(10, 15, 5, True)]
    assert stays(*history, at=25) == [(10, 20.1, 5, True), (20.1, 25, 10, False)]


def test_an_update_that_goes_on_does_not_count_yet() -> None:
    going = update(3, 20, 10, result="in-progress", ended=None)
    assert [one[2] for one in stays(update(2, 10, 5), going)] == [5]
