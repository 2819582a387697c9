"""What may follow what: every class of (recorded, wanted) pair."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import plan
from policies import weights
from policies.weights import Route, Step

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STEPS = tuple(Step(weight=weight, hold=300) for weight in (5, 10, 25, 50, 100))
LONG_AGO = NOW - timedelta(days=1)


def route(weight: int, **changes: Any) -> Route:
    base = Route(weight=weight, stable="v1", canary="v2", steps=STEPS, ports="80:3000", since=LONG_AGO)
    return replace(base, **changes)


def refused(old: Route | None, new: Route, **more: Any) -> list[str]:
    return weights.refusals(old, new, now=NOW, **more)


ALLOWED: dict[str, tuple[Route | None, Route]] = {
    "the first deployment": (None, route(0, canary=None)),
    "the first deployment with a canary on its first rung": (None, route(5)),
    "a canary is added": (route(0, canary=None), route(0)),
    "a canary is added on the first rung": (route(0, canary=None), route(5)),
    "one rung up": (route(5), route(10)),
    "a smaller rise than a rung": (route(5), route(7)),
    "from between two rungs to the next": (route(7), route(10)),
    "nothing changes": (route(25), route(25)),
    "down one rung": (route(50), route(25)),
    "down to 0 from 100": (route(100), route(0)),
    "halted": (route(50), route(0, halted=True)),
    "canary removed in full flight": (route(50), route(0, canary=None)),
    "canary replaced at weight 0": (route(0), route(0, canary="v3")),
    "revert and another canary at once": (route(50), route(0, canary="v3")),
    "ladder changed at weight 0": (route(0), route(0, steps=STEPS[:2])),
    "ladder changed by a revert": (route(50), route(0, steps=STEPS[:2])),
    "promotion": (route(100), route(0, stable="v2", canary=None)),
    "way back to the former stable": (route(0, stable="v2", canary=None, former="v1"), route(0, canary=None)),
    "way back as canary, to any weight at once": (
        route(0, stable="v2", canary=None, former="v1"),
        route(100, stable="v2", canary="v1"),
    ),
    "back on the first rung after a halt": (route(0, halted=True), route(5)),
    "a rule is taken away": (route(5, opened=frozenset("ab")), route(5, opened=frozenset("a"))),
}

REFUSED: dict[str, tuple[Route | None, Route, str]] = {
    "a skipped rung": (route(5), route(25), "set canary:weight to 10 first"),
    "more than the first rung at once": (None, route(10), "set canary:weight to 5 first"),
    "a jump to where it was before the halt": (
        route(0, halted=True),
        route(25),
        "set canary:weight to 5 first",
    ),
    "too early": (
        route(5, since=NOW - timedelta(seconds=299)),
        route(10),
        "allowed from 2026-11-21T12:00:01Z",
    ),
    "another canary in flight": (route(5), route(10, canary="v3"), "canary's template changes from v2 to v3"),
    "another canary at 100": (route(100), route(100, canary="v3"), "set canary:weight to 0"),
    "other ports in flight": (route(5), route(5, ports="80:8080"), "ports changes from 80:3000 to 80:8080"),
    "another ladder in flight": (route(5), route(5, steps=STEPS[:2]), "canary:steps changes"),
    "promotion before 100": (route(50), route(0, stable="v2", canary=None), "raise canary:weight first"),
    "stable replaced by what nobody has seen": (route(0), route(0, stable="v3"), "ship it as canary first"),
    "stable replaced by an older version than the former": (
        route(0, stable="v2", former="v1", canary=None),
        route(0, stable="v0", canary=None),
        "go back to the former stable",
    ),
    "promotion while halted at 100": (
        route(0, halted=True),
        route(0, stable="v2", canary=None),
        "raise canary:weight first",
    ),
}


@pytest.mark.parametrize(("old", "new"), ALLOWED.values(), ids=ALLOWED.keys())
def test_allowed(old: Route | None, new: Route) -> None:
    assert refused(old, new) == []


@pytest.mark.parametrize(("old", "new", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(old: Route | None, new: Route, says: str) -> None:
    lines = refused(old, new)
    assert any(says in line for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_a_rise_passes_in_the_second_its_hold_ends() -> None:
    assert refused(route(5, since=NOW - timedelta(seconds=300)), route(10)) == []


@pytest.mark.parametrize("new", [route(10), route(5, opened=frozenset("b"))], ids=["a higher weight", "a wider rule"])
def test_a_reason_in_hold_stops_every_rise(new: Route) -> None:
    assert "'incident 42'" in refused(route(5), new, hold="incident 42")[0]


def test_taking_a_shield_away_is_a_rise() -> None:
    old = route(5, opened=frozenset("a"), shielded=frozenset("s"))
    assert weights.rises(old, replace(old, shielded=frozenset()))
    assert not weights.rises(replace(old, shielded=frozenset()), old)


def test_a_canary_that_is_not_ready_stops_a_rise_and_nothing_else() -> None:
    assert "not ready" in refused(route(5), route(10), canary_ready=False)[0]
    assert refused(route(5), route(0), canary_ready=False) == []
    assert refused(route(5), route(5), canary_ready=False) == []


def test_what_the_cluster_does_not_say_stops_nothing() -> None:
    assert refused(route(5), route(10), canary_ready=None) == []


def test_an_override_lets_exactly_its_change_pass_and_only_for_a_day() -> None:
    override = weights.Override(reason="x", until=NOW + timedelta(hours=1), from_weight=5, to_weight=50)
    assert weights.covered(override, {"web": (5, 50)}, NOW)
    assert not weights.covered(override, {"web": (5, 25)}, NOW)
    assert not weights.covered(override, {"web": (5, 50)}, NOW + timedelta(hours=1)), "it has ended"
    assert not weights.covered(override, {"web": (5, 50)}, NOW - timedelta(hours=24)), "it would last more than a day"
    assert not weights.covered(None, {"web": (5, 50)}, NOW)


def test_each_refusal_shows_the_way_round_it() -> None:
    text = weights.refusal_text("web", refused(route(5), route(50)), 5, 50, None, NOW)
    assert "canary:override {reason, until, from: 5, to: 50}" in text


def test_the_stay_is_counted_from_the_first_write_of_the_share() -> None:
    assert weights.since(route(5), route(5), NOW) == LONG_AGO
    assert weights.since(route(5), route(10), NOW) == NOW
    assert weights.since(route(5), route(5, canary="v3"), NOW) == NOW
    assert weights.since(None, route(5), NOW) == NOW


def test_after_promotion_the_way_back_is_known_and_after_the_way_back_there_is_none() -> None:
    promoted = route(0, stable="v2", canary=None)
    assert weights.former(route(100), promoted) == "v1"
    there = replace(promoted, former="v1")
    assert weights.former(there, there) == "v1"
    assert weights.former(there, route(0, stable="v1", canary=None)) is None


fingerprints = st.sampled_from(["v1", "v2", "v3"])
tokens = st.frozensets(st.sampled_from("abc"))


@st.composite
def any_route(draw: st.DrawFn) -> Route:
    canary = draw(st.none() | fingerprints)
    halted = draw(st.booleans())
    live = canary is not None and not halted
    return Route(
        weight=draw(st.integers(0, 100)) if live else 0,
        stable=draw(fingerprints),
        canary=canary,
        former=draw(st.none() | fingerprints),
        halted=halted,
        ports=draw(st.sampled_from(["80:3000", "80:8080"])),
        steps=draw(st.sampled_from([STEPS, STEPS[2:]])),
        opened=draw(tokens) if live else frozenset(),
        shielded=draw(tokens) if live else frozenset(),
        since=draw(st.sampled_from([LONG_AGO, NOW])),
    )


@given(any_route(), st.booleans(), st.text(max_size=3))
def test_every_revert_passes_from_anywhere_at_any_time(old: Route, halt: bool, hold: str) -> None:
    down = replace(old, weight=0, halted=halt, opened=frozenset(), shielded=frozenset())
    assert refused(old, down, hold=hold, canary_ready=False) == []


@given(any_route(), st.integers(0, 100), st.text(max_size=3))
def test_a_lower_weight_is_never_refused(old: Route, weight: int, hold: str) -> None:
    new = replace(old, weight=min(old.weight, weight))
    assert refused(old, new, hold=hold, canary_ready=False) == []


@given(st.none() | any_route(), any_route())
def test_a_change_is_never_a_rise_and_a_fall_at_once(old: Route | None, new: Route) -> None:
    assert not (weights.rises(old, new) and weights.falls(old, new))


@given(any_route(), any_route())
def test_no_accepted_rise_skips_a_rung_unless_it_goes_back(old: Route, new: Route) -> None:
    if new.weight > old.weight and refused(old, new) == [] and old.former not in (new.canary, new.stable):
        assert new.weight <= weights.next_rung(new.steps, old.weight)


@given(st.dictionaries(st.sampled_from("xyz"), st.tuples(st.none() | any_route(), any_route()), min_size=1))
def test_the_order_of_writes_follows_the_direction(pairs: dict[str, tuple[Route | None, Route]]) -> None:
    for name, order in plan.order(pairs).items():
        old, new = pairs[name]
        if weights.rises(old, new):
            assert (name, "canary") in order.after, "pods ready before a route rises"
        if weights.falls(old, new) and not weights.changes_stable(old, new):
            assert order.after == frozenset(), "nothing may hold back a route that falls"
            assert "stable" in order.waiting, "pods change after the route has left them"
        if not weights.changes_stable(old, new) and (name, "canary") not in order.after:
            assert order.after == frozenset()
        assert not {track for one, track in order.after if one == name} & order.waiting, "no circle"


@given(st.dictionaries(st.sampled_from("xyz"), st.tuples(st.none() | any_route(), any_route()), min_size=2))
def test_no_route_of_a_train_rises_before_all_rising_canaries_are_ready(
    pairs: dict[str, tuple[Route | None, Route]],
) -> None:
    rising = {(name, "canary") for name, pair in pairs.items() if weights.rises(*pair)}
    for name, order in plan.order(pairs).items():
        if weights.rises(*pairs[name]):
            assert rising <= order.after


@given(st.dictionaries(st.sampled_from("xyz"), st.tuples(st.none() | any_route(), any_route()), min_size=1))
def test_waiting_never_makes_a_circle_across_services(pairs: dict[str, tuple[Route | None, Route]]) -> None:
    orders = plan.order(pairs)
    blocked = {(name, track) for name, order in orders.items() for track in order.waiting}
    assert not any(order.after & blocked for order in orders.values()), "a route waits for pods that wait for a route"


@given(st.integers(0, 100))
def test_split_always_sums_to_100(weight: int) -> None:
    assert sum(weights.split(weight)) == 100
    assert weights.split(weight)[1] == weight


@pytest.mark.parametrize("weight", [-1, 101])
def test_split_refuses_what_is_no_weight(weight: int) -> None:
    with pytest.raises(ValueError, match=str(weight)):
        weights.split(weight)


def test_a_sum_other_than_100_is_named() -> None:
    assert weights.sum_problem([95, 5]) is None
    assert weights.sum_problem([95, 10]) == "weights must sum to 100, got 95 + 10 = 105"


@given(st.lists(st.builds(Step, weight=st.integers(1, 100), hold=st.integers(0, 9999)), max_size=6))
def test_a_ladder_survives_being_written_and_read(steps: list[Step]) -> None:
    assert weights.ladder_from_text(weights.ladder_text(steps)) == tuple(steps)


def test_phases() -> None:
    assert weights.phase(canary=False, weight=0, halted=False) == "stable"
    assert weights.phase(canary=True, weight=0, halted=False) == "qa"
    assert weights.phase(canary=True, weight=1, halted=False) == "rolling"
    assert weights.phase(canary=True, weight=100, halted=False) == "baking"
    assert weights.phase(canary=True, weight=0, halted=True) == "halted"
