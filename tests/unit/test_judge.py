"""The rule: how often it is wrong, how soon it is right, and what it says when there is nothing to say."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from math import comb
from random import Random
from statistics import mean, median, stdev
from typing import Any

import pytest

from core import bets
from core.bets import NONE, SEVERITIES, Counts, Evidence, Meter, Tick, absolute, interval, notice, relative, sights
from core.judge import Step, judge
from core.model import Gate
from lab import bench_judge
from lab.bench_judge import Run, World, ours


def gate(**settings: str) -> Gate:
    """A gate as a stack file has it."""
    return Gate.model_validate(settings)


GATE = gate()
STEP = Step(0, 600, 5, 10, 300)
NEVER = 1e9


def run(
    canary: Callable[[int], Counts], stable: Callable[[int], Counts], count: int = 60, start: float = 0.0
) -> list[Tick]:
    return [Tick(start + 10 * (number + 1), ((canary(number), stable(number)),)) for number in range(count)]


def steady(canary: Counts, stable: Counts, count: int = 60, start: float = 0.0) -> list[Tick]:
    return run(lambda _: canary, lambda _: stable, count, start)


GOOD, MANY = Counts(50, 0), Counts(950, 1)


def worth(ticks: list[Tick]) -> float:
    meter = Meter(GATE)
    for tick in ticks:
        meter.add(tick)
    return meter.evidence()


# Chance, exactly and in simulation.


@pytest.mark.parametrize(("canary", "stable"), [(50, 950), (500, 500), (3, 7)])
@pytest.mark.parametrize("worse", [1.0, bets.WORSE_ERRORS, bets.WORSE_LATENCY])
def test_a_canary_at_the_edge_of_what_is_allowed_is_a_fair_bet_to_the_twelfth_digit(
    canary: int, stable: int, worse: float
) -> None:
    for ratio, exact in ((worse, True), (worse / 1.3, False)):
        chance = ratio * canary / (ratio * canary + stable)
        for both in range(1, 13):
            odds = [comb(both, bad) * chance**bad * (1 - chance) ** (both - bad) for bad in range(both + 1)]
            logs = [relative(bad, canary, both - bad, stable, worse) for bad in range(both + 1)]
            for severity in range(len(SEVERITIES)):
                expected = sum(odds[bad] * math.exp(logs[bad][severity]) for bad in range(both + 1))
                assert (abs(expected - 1) < 1e-12) if exact else (expected < 1)


@pytest.mark.parametrize("most", [0.001, 0.01, 0.2])
def test_a_share_at_its_limit_is_a_fair_bet_and_one_below_a_losing_one(most: float) -> None:
    for share, exact in ((most, True), (most / 2, False)):
        for requests in range(1, 13):
            odds = [comb(requests, bad) * share**bad * (1 - share) ** (requests - bad) for bad in range(requests + 1)]
            for severity in range(len(SEVERITIES)):
                logs = (absolute(bad, requests, most)[severity] for bad in range(requests + 1))
                expected = sum(odd * math.exp(log) for odd, log in zip(odds, logs, strict=True))
                assert (abs(expected - 1) < 1e-12) if exact else (expected < 1)


@pytest.mark.parametrize("base", [0.0001, 0.001, 0.01, 0.05, 0.2])
def test_whenever_one_stops_the_evidence_against_a_canary_that_is_just_tolerable_is_one_at_the_most(
    base: float,
) -> None:
    random, found = Random(f"stop {base}"), []
    world = Run(World(100, base, bets.WORSE_ERRORS), f"edge {base}")
    for _ in range(250):
        meter = Meter(gate(errorRate="0.01%"))  # its floor is out of the way
        for number in range(random.randint(1, 60)):
            canary, stable = world.tick(10 * number, (5, 50)[number % 2], 0, 0)
            meter.add(Tick(10 * number, ((canary, stable),)))
        found.append(meter.values()["errors"])
    assert mean(found) <= 1 + 3 * stdev(found) / math.sqrt(len(found))


@pytest.mark.parametrize(
    "world",
    [World(rate, base) for rate, base in ((0.2, 0.001), (10, 0.0001), (10, 0.005), (100, 0.01), (10, 0.05), (100, 0.2))]
    + [World(100, 0.002, outage=True), World(100, 0.002, cold=True)],
    ids=str,
)
def test_a_healthy_canary_is_rolled_back_in_one_of_a_hundred_rollouts_at_the_most(world: World) -> None:
    runs = 40
    false = sum(ours(Run(world, f"healthy {number}")).seconds is not None for number in range(runs))
    assert false / runs <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)


def test_the_cap_keeps_bursts_of_a_pod_from_deciding(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, world = 60, World(100, 0.002, burst=30)

    def rolled_back() -> int:
        return sum(ours(Run(world, f"burst {number}")).seconds is not None for number in range(runs))

    assert rolled_back() <= 0.03 * runs + 3 * math.sqrt(0.03 * 0.97 * runs)
    monkeypatch.setattr(Meter, "capped", False)
    assert rolled_back() > 0.2 * runs, "these bursts would not have decided anyway"


@pytest.mark.parametrize(
    ("world", "seconds"),
    [
        (World(100, 0.001, 5), 400),
        (World(1000, 0.001, 2), 440),
        (World(100, 0.005, 2), 660),
        (World(1000, 0.01, 2), 130),
        (World(100, 0.001, 1000), 30),
    ],
    ids=str,
)
def test_a_bad_canary_is_found_as_soon_as_the_rule_was_shown_to(world: World, seconds: float) -> None:
    found = [ours(Run(world, f"power {number}")).seconds or NEVER for number in range(60)]
    # The median of 60 is itself off by a tenth or less.
    assert median(found) <= 1.15 * seconds * 1.1


def test_the_time_that_is_foretold_is_that_of_simulated_rollouts() -> None:
    for rate, base, weight, times in ((100, 0.001, 5, 5), (100, 0.001, 25, 5), (100, 0.01, 10, 2), (1000, 0.001, 5, 3)):
        found = []
        for number in range(40):
            meter, world = Meter(GATE), Run(World(rate, base, times), f"foretold {number}")
            at = 0.0
            while meter.evidence() < 100 and at < 7200:
                meter.add(Tick(at + 10, (world.tick(at, weight, 0, 0),)))
                at += 10
            found.append(at)
        assert 0.7 < median(found) / notice(rate, base, weight, times, GATE) < 1.4


# What evidence depends on, and what it does not.


def test_only_the_ratio_of_the_exposures_matters() -> None:
    assert relative(3, 50, 4, 950, 1.1) == pytest.approx(relative(3, 500, 4, 9500, 1.1), abs=1e-12)


def test_counts_may_be_split_or_put_together_where_the_share_is_the_same() -> None:
    parts = [sum(two) for two in zip(relative(2, 50, 1, 950, 1.1), relative(1, 100, 3, 1900, 1.1), strict=True)]
    assert parts == pytest.approx(relative(3, 150, 4, 2850, 1.1), abs=1e-12)


def test_without_failures_and_without_requests_there_is_no_evidence() -> None:
    assert relative(0, 50, 0, 950, 1.1) == [0.0] * len(SEVERITIES)
    assert relative(1, 50, 0, 0, 1.1) == [0.0] * len(SEVERITIES)
    assert worth(steady(NONE, Counts(950, 5))) == 1.0


def test_more_failures_of_canary_raise_it_and_more_of_stable_lower_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meter, "capped", False)
    raised = [worth(steady(Counts(50, bad), MANY, 3)) for bad in range(5)]
    lowered = [worth(steady(Counts(50, 1), Counts(950, bad), 3)) for bad in range(5)]
    assert all(before < after for before, after in pairwise(raised))
    assert all(before > after for before, after in pairwise(lowered))


def test_the_cap_never_raises_it_and_no_half_minute_counts_for_more_wherever_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for quiet in range(6):
        ticks = steady(GOOD, MANY, quiet) + steady(Counts(50, 20), MANY, 3, start=10 * quiet)
        own = Meter(GATE)
        for tick in ticks:
            own.add(tick)
        assert own.values()["errors"] <= bets.CAP
        assert own.values()["guardrail"] <= bets.CAP
        with monkeypatch.context() as patch:
            patch.setattr(Meter, "capped", False)
            assert worth(ticks) > 1000 * worth(steady(GOOD, MANY, 3)), "the case shows nothing"


def test_bursts_minutes_apart_are_not_added_up_by_the_bets_on_a_small_worsening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A quarter of 100 requests per second, 0.2 % of which fail, and every four minutes a pod of canary for ten seconds.
    ticks = run(lambda n: Counts(250, n % 2 + 15 * (n % 24 == 23)), lambda n: Counts(750, 1 + n % 2), 120)
    assert worth(ticks) < 2
    monkeypatch.setattr(bets, "FEW", 99)
    bets._most.cache_clear()
    assert worth(ticks) > 100, "these bursts would not have decided anyway"
    bets._most.cache_clear()


def test_slower_requests_count_as_failures_do_at_each_bound() -> None:
    slow, quick = Counts(100, 0, (40, 20, 15)), Counts(1900, 0, (400, 60, 20))
    meter = Meter(gate(p95="500ms"), (250, 500, 1000), 1)
    for tick in steady(slow, quick, 30):
        meter.add(tick)
    values = meter.values()
    assert values["latency"] > 100
    assert values["latency guardrail"] > 100
    assert values["errors"] <= 1


def test_a_slowdown_within_the_limit_is_no_reason_to_roll_back() -> None:
    meter = Meter(gate(p95="500ms"), (250, 500, 1000), 1)
    for tick in steady(Counts(100, 0, (60, 4, 2)), Counts(1900, 0, (400, 20, 5)), 60):
        meter.add(tick)
    assert meter.evidence() < 1


@pytest.mark.parametrize(("bad", "requests", "high"), [(0, 100, 0.035), (0, 1000, 0.0045), (0, 40, 0.08)])
def test_what_is_not_excluded_shrinks_with_requests(bad: int, requests: int, high: float) -> None:
    assert interval(bad, requests)[1] == pytest.approx(high, rel=0.15)


def test_the_interval_holds_the_share_at_all_times_at_once() -> None:
    outside = 0
    for number in range(100):
        random, bad, left = Random(f"interval {number}"), 0, False
        for requests in range(1, 400):
            bad += random.random() < 0.05
            if requests % 10 == 0:
                low, high = interval(bad, requests)
                left |= not low <= 0.05 <= high
        outside += left
    assert outside <= 5 + 3 * math.sqrt(5)


# Verdicts.


def told(ticks: list[Tick], step: Step = STEP, **settings: str) -> Any:
    return judge({"web": Evidence(ticks)}, gate(**settings), step)


FAILING = steady(Counts(50, 20), MANY)


def test_a_good_canary_advances_after_the_hold_and_not_before() -> None:
    assert told(steady(GOOD, MANY)).kind == "advance"
    early = told(steady(GOOD, MANY, 10), Step(0, 100, 5, 10, 300))
    assert (early.kind, early.wait) == ("hold", 200)
    assert early.reason.startswith("1:40 of at least 5:00 at 5 %")


def test_a_bad_canary_is_rolled_back_and_the_sentence_counts() -> None:
    found = told(FAILING[:12], Step(0, 120, 5, 10, 300))
    assert (found.kind, found.peak >= found.limit == 100) == ("rollback", True)
    assert found.reason.startswith(
        "web: canary failed 240 of 600 requests (40 %), stable 12 of 11,400 requests (0.11 %)"
    )
    assert "less than 1 of 100 rollouts" in found.notes[0]


def test_who_looks_later_finds_the_same_though_canary_has_recovered() -> None:
    assert told(FAILING[:12] + steady(GOOD, MANY, 600, 120)).kind == "rollback"
    assert told(steady(GOOD, MANY, 600)).kind == "advance"


def test_sensitivity_says_how_much_evidence_it_takes() -> None:
    needed = {}
    for word, limit in {"high": 20, "normal": 100, "low": 1000}.items():
        assert told(GOOD_TICKS, sensitivity=word).limit == pytest.approx(limit)
        needed[word] = next(
            n for n in range(1, 60) if told(SLIGHTLY[:n], Step(0, 10 * n, 5, 10, 900), sensitivity=word).kind != "hold"
        )
    assert needed["high"] <= needed["normal"] < needed["low"]


GOOD_TICKS = steady(GOOD, MANY)
SLIGHTLY = run(lambda number: Counts(50, number % 2), lambda _: MANY)


def test_a_shared_dependency_holds() -> None:
    found = told(steady(Counts(50, 2), Counts(950, 38)))
    assert found.kind == "hold"
    assert "stable is failing too (4 %" in found.reason
    assert told(steady(Counts(50, 25), Counts(950, 475))).kind == "hold", "even if half of all fail"


def test_no_traffic_is_neither_success_nor_failure() -> None:
    found = told(steady(NONE, MANY))
    assert found.kind == "hold"
    assert found.reason == (
        "web: no requests to canary for 2 min although its weight is 5 % and stable serves 95 per second;"
        " check routing and readiness"
    )
    assert "no requests to either version" in told([]).reason
    assert "no requests to stable" in told(steady(GOOD, NONE)).reason


@pytest.mark.parametrize(("share", "seconds"), [(1.0, 120), (0.3, 180), (0.05, 420)])
def test_a_canary_that_goes_bad_after_an_hour_of_being_good_goes_back_in_minutes(share: float, seconds: int) -> None:
    def tick(number: int) -> Tick:
        bad = int(10_000 * share) if number >= 360 else 10
        return Tick(10.0 * number, ((Counts(10_000, bad), Counts(10_000, 10)),))

    ticks = [tick(number) for number in range(361 + seconds // 10)]
    for last, kind in ((360, "hold"), (len(ticks), "rollback")):
        found = judge({"web": Evidence(ticks[:last])}, GATE, Step(0, 10.0 * last, 50, 100, 7200))
        assert found.kind == kind, found


def test_few_requests_hold_until_the_worst_that_may_be_fits_the_budget() -> None:
    found = told(steady(Counts(1, 0), Counts(19, 0), 40), Step(0, 400, 5, 50, 300))
    assert found.kind == "hold"
    assert "up to 7.9 %" in found.reason and "to go to 50 % I need that below 2 %" in found.reason
    assert told(steady(Counts(1, 0), Counts(19, 0), 300), Step(0, 3000, 5, 50, 300)).kind == "advance"


def test_after_max_hold_it_is_inconclusive_and_what_was_chosen_for_that_happens() -> None:
    late = Step(0, 7200, 5, 50, 300)
    for word, kind in {"hold": "hold", "rollback": "rollback"}.items():
        found = told(steady(NONE, MANY, 720), late, maxHold="1h", onInconclusive=word)
        assert (found.kind, found.inconclusive) == (kind, True)
        assert f"onInconclusive is {word}" in found.reason
    assert not told(steady(NONE, MANY), onInconclusive="rollback", maxHold="1h").inconclusive
    cohort = Step(0, 7200, 0, 5, 0)
    assert told([], cohort, maxHold="1h", onInconclusive="rollback").kind == "hold", "nobody waits at weight 0"


def test_at_everybody_only_the_limits_speak_and_it_may_be_promoted() -> None:
    at_100 = Step(0, 600, 100, None, 300)
    assert told(steady(Counts(1000, 1), NONE), at_100).kind == "advance"
    failing = told(steady(Counts(1000, 40), NONE), at_100)
    assert failing.kind == "rollback"
    assert (
        failing.reason
        == "web: canary failed 2,400 of 60,000 requests (4 %), stable 0 of 0 requests (0 %): 1 % is the most that may"
    )


def test_a_cohort_is_judged_at_weight_0_and_nobody_has_to_be_in_it() -> None:
    cohort = Step(0, 600, 0, 5, 0)
    assert told(steady(Counts(20, 10), MANY), cohort).kind == "rollback"
    assert told(steady(Counts(20, 0), MANY), cohort).kind == "advance"
    assert told(steady(NONE, MANY), cohort).reason == "canary has met nobody yet; 5 % is the first look at it"


def test_a_broken_canary_is_found_in_its_warm_up_and_a_cold_one_is_not_blamed() -> None:
    def warming(bad: int) -> list[Tick]:
        return [Tick(10 * (n + 1), ((NONE, MANY),), Counts(50, bad)) for n in range(3)]

    assert told(warming(50), Step(0, 30, 5, 10, 300)).kind == "rollback"
    cold = told(warming(3), Step(0, 30, 5, 10, 300))
    assert (cold.kind, cold.evidence < 1) == ("hold", True)
    assert cold.reason == "web: canary warms up: none of its requests count yet"


def test_services_of_a_train_share_one_verdict_and_one_chance_of_error() -> None:
    good, bad = Evidence(steady(GOOD, MANY)), Evidence(FAILING)
    found = judge({"web": good, "api": bad}, GATE, STEP)
    assert (found.kind, found.reason[:4]) == ("rollback", "api:")
    one, two = (judge(case, GATE, STEP).curve[0][1] for case in ({"api": bad}, {"api": bad, "web": good}))
    assert two == pytest.approx((one + 1) / 2)


def test_doors_are_compared_each_for_itself() -> None:
    # Inside the mesh more fail, and canary has more of its requests there: put together it looks worse, and is not.
    tick = Tick(10, ((Counts(50, 0), Counts(950, 1)), (Counts(50, 5), Counts(50, 5))))
    apart, mixed = Meter(GATE), Meter(GATE)
    for number in range(6):
        apart.add(tick._replace(at=10.0 * number))
        mixed.add(Tick(10.0 * number, ((Counts(100, 5), Counts(1000, 6)),)))
    assert apart.values()["errors"] < 1 < 10 < mixed.values()["errors"]


def test_the_simple_rule_is_a_share_over_five_minutes_against_a_number() -> None:
    worse = steady(Counts(50, 1), Counts(950, 19))  # 2 %, as stable has
    assert told(worse, rule="simple").kind == "rollback"
    assert told(worse, rule="simple").reason == "web: 2 % of canary's requests fail in 5:00; 1 % may"
    assert told(steady(GOOD, MANY), rule="simple").kind == "advance"
    assert told(FAILING, Step(0, 200, 5, 10, 900), rule="simple").kind == "hold", "its window is not full"
    assert told(steady(NONE, MANY), rule="simple").kind == "hold"
    slow = Evidence(steady(Counts(50, 0, (10,)), Counts(950, 0, (10,))), (500.0,), 0)
    found = judge({"web": slow}, gate(rule="simple", p95="500ms"), STEP)
    assert (found.kind, "longer than 500 ms" in found.reason) == ("rollback", True)


def test_before_the_start_each_rung_says_what_it_would_notice_and_a_blind_one_what_would_be_better() -> None:
    rungs = [(5, 900), (25, 600), (50, 600)]
    seen, better = sights(100, 0.001, rungs, GATE)
    assert better is None
    assert [one.smallest is not None for one in seen] == [True] * 3
    assert seen[0].tenfold > seen[1].tenfold
    assert all(notice(100, 0.001, one.weight, one.smallest or 1, GATE) <= one.hold for one in seen)
    blind, better = sights(2, 0.001, rungs, gate(maxHold="1h"))
    assert blind[0].tenfold > 3600
    assert sights(0.01, 0.001, rungs, GATE)[0][0].smallest is None, "less than one request of canary in a hold"
    assert better is not None and better > 5
    assert notice(2, 0.001, better, 10, GATE) <= 3600 < notice(2, 0.001, better - 1, 10, GATE)


def test_the_benchmark_runs_every_rule_and_finds_what_is_broken() -> None:
    world = World(100, 0.001, 1000)
    ends = bench_judge.peers(Run(world, "broken")) | {bench_judge.OURS: ours(Run(world, "broken"))}
    assert set(ends) == {*bench_judge.PEERS, bench_judge.OURS}
    assert all(end.seconds is not None for end in ends.values())
    assert min(ends, key=lambda rule: ends[rule].seconds or NEVER) == bench_judge.OURS
