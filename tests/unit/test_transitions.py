"""What may follow what: every class of (recorded, wanted) pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
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
    "back to where it was before the window for serving closed": (route(0, reached=25), route(25)),
    "back to less than that": (route(0, reached=25), route(10)),
    "the other way about, to any weight at once": (
        route(0, stable="v2", canary=None, former="v1"),
        route(50, stable="v1", canary="v2"),
    ),
    "promotion and the next canary at once": (route(100), route(0, stable="v2", canary="v3")),
    "promotion when the bake is over": (
        route(100, since=NOW - timedelta(seconds=300)),
        route(0, stable="v2", canary=None),
    ),
    "a revert with a new rule": (route(50), route(0, opened=frozenset("a"))),
    "a rule is taken away": (route(5, opened=frozenset("ab")), route(5, opened=frozenset("a"))),
}

SEEN = "without having served as canary; ship it as canary first, or go back to the former stable"
FIXED = "set canary:weight to 0"

REFUSED: dict[str, tuple[Route | None, Route, str]] = {
    "a skipped rung": (
        route(5),
        route(25),
        "weight 5 -> 25 skips a rung of canary:steps; set canary:weight to 10 first",
    ),
    "more than the first rung at once": (
        None,
        route(10),
        "weight 0 -> 10 skips a rung of canary:steps; set canary:weight to 5 first",
    ),
    "a jump to where it was before the halt": (
        route(0, halted=True),
        route(25),
        "weight 0 -> 25 skips a rung of canary:steps; set canary:weight to 5 first",
    ),
    "a jump from between two rungs": (
        route(7),
        route(25),
        "weight 7 -> 25 skips a rung of canary:steps; set canary:weight to 10 first",
    ),
    "another new canary at once beside the former stable": (
        route(0, stable="v2", canary=None, former="v1"),
        route(100, stable="v1", canary="v3"),
        "weight 0 -> 100 skips a rung of canary:steps; set canary:weight to 5 first",
    ),
    "more than it had before the window for serving closed": (
        route(0, reached=25),
        route(50),
        "weight 0 -> 50 skips a rung of canary:steps; set canary:weight to 25 first",
    ),
    "another canary than the one that the closing window interrupted": (
        route(0, reached=25),
        route(25, canary="v3"),
        "weight 0 -> 25 skips a rung of canary:steps; set canary:weight to 5 first",
    ),
    "too early": (
        route(5, since=NOW - timedelta(seconds=299)),
        route(10),
        "weight 5 -> 10 comes before the hold of 5 has passed; allowed from 2026-11-21T12:00:01Z",
    ),
    "a wider rule too early": (
        route(5, since=NOW, opened=frozenset("a")),
        route(5, opened=frozenset("ab")),
        "a wider rule at weight 5 comes before the hold of 5 has passed; allowed from 2026-11-21T12:05:00Z",
    ),
    "another canary in flight": (
        route(5),
        route(10, canary="v3"),
        f"canary's template changes from v2 to v3 while canary serves 5 %; {FIXED}",
    ),
    "another canary at 100": (
        route(100),
        route(100, canary="v3"),
        f"canary's template changes from v2 to v3 while canary serves 100 %; {FIXED}",
    ),
    "other ports in flight": (
        route(5),
        route(5, ports="80:8080"),
        f"ports changes from 80:3000 to 80:8080 while canary serves 5 %; {FIXED}",
    ),
    "another ladder in flight": (
        route(5),
        route(5, steps=STEPS[:2]),
        "canary:steps changes from 5:300,10:300,25:300,50:300,100:300 to 5:300,10:300 "
        f"while canary serves 5 %; {FIXED}",
    ),
    "promotion before 100": (
        route(50),
        route(0, stable="v2", canary=None),
        "stable's template changes from v1 to v2, which as canary carries 50 %, and promotion needs 100; "
        "raise canary:weight first",
    ),
    "promotion before the bake is over": (
        route(100, since=NOW - timedelta(seconds=299)),
        route(0, stable="v2", canary=None),
        "stable's template changes from v1 to v2 before the bake (the hold of 100) is over; "
        "allowed from 2026-11-21T12:00:01Z",
    ),
    "promotion while the window for serving is closed": (
        route(0, reached=100),
        route(0, stable="v2", canary=None),
        "stable's template changes from v1 to v2, which as canary carries 0 %, and promotion needs 100; "
        "promote inside canary:windows.serve",
    ),
    "stable replaced by what nobody has seen": (
        route(0),
        route(0, stable="v3"),
        f"stable's template changes from v1 to v3 {SEEN}",
    ),
    "stable replaced by an older version than the former": (
        route(0, stable="v2", former="v1", canary=None),
        route(0, stable="v0", canary=None),
        f"stable's template changes from v2 to v0 {SEEN}",
    ),
    "promotion while halted at 100": (
        route(0, halted=True),
        route(0, stable="v2", canary=None),
        "stable's template changes from v1 to v2, which as canary carries 0 %, and promotion needs 100; "
        "raise canary:weight first",
    ),
}


@pytest.mark.parametrize(("old", "new"), ALLOWED.values(), ids=ALLOWED.keys())
def test_allowed(old: Route | None, new: Route) -> None:
    assert refused(old, new) == []


@pytest.mark.parametrize(("old", "new", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(old: Route | None, new: Route, line: str) -> None:
    assert refused(old, new) == [line]


def test_a_rise_passes_in_the_second_its_hold_ends() -> None:
    assert refused(route(5, since=NOW - timedelta(seconds=300)), route(10)) == []


def test_a_record_that_does_not_know_since_when_holds_nothing_up() -> None:
    assert refused(route(5, since=None), route(10)) == []


def test_between_two_rungs_the_hold_is_that_of_the_next_one() -> None:
    steps = tuple(Step(weight=weight, hold=60 * weight) for weight in (5, 10, 25))
    assert [weights.hold_of(steps, weight) for weight in (0, 3, 5, 7, 100)] == [0, 300, 300, 600, 1500]


def test_where_the_record_lost_its_ladder_the_new_one_holds() -> None:
    assert "hold of 5" in refused(route(5, since=NOW, steps=()), route(10))[-1]
    assert refused(route(5, since=NOW, steps=()), route(10, steps=())) == [], "nor has the new one any"


RISES = {
    "weight 5 -> 10": (route(5), route(10)),
    "a wider rule at weight 5": (route(5), route(5, opened=frozenset("b"))),
    "canary:halted true -> false at weight 0": (route(0, halted=True), route(0)),
    "weight 0 -> 5": (None, route(5)),
}


@pytest.mark.parametrize(("what", "pair"), RISES.items(), ids=RISES)
def test_what_stops_a_rise_stops_every_kind_of_it_and_names_it(what: str, pair: tuple[Route | None, Route]) -> None:
    assert refused(*pair, hold="incident 42", canary_ready=False, obstacles=["comes too soon", "costs too much"]) == [
        f"{what} comes too soon",
        f"{what} costs too much",
        f"{what} is stopped by canary:hold ('incident 42'); clear canary:hold to go on",
        f"{what} needs a ready canary and it is not ready; repair it, or leave canary's share as it is",
    ]
    assert refused(*pair) == []


def test_taking_a_shield_away_is_a_rise() -> None:
    old = route(5, opened=frozenset("a"), shielded=frozenset("s"))
    assert weights.rises(old, replace(old, shielded=frozenset()))
    assert not weights.rises(replace(old, shielded=frozenset()), old)


def test_what_the_cluster_does_not_say_stops_nothing() -> None:
    assert refused(route(5), route(10), canary_ready=None) == []


GAPS = {
    "in force": (5, 50, timedelta(hours=1), None),
    "to its last second": (5, 50, timedelta(seconds=1), None),
    "for a whole day": (5, 50, timedelta(hours=24), None),
    "another target": (5, 25, timedelta(hours=1), "it is for 5 -> 50, and this is 5 -> 25"),
    "another start": (0, 50, timedelta(hours=1), "it is for 5 -> 50, and this is 0 -> 50"),
    "ended": (5, 50, timedelta(0), "it ended at 2026-11-21T12:00:00Z"),
    "too long": (
        5,
        50,
        timedelta(hours=24, seconds=1),
        "it may last a day at most; set until to 2026-11-22T12:00:00Z or before",
    ),
}


@pytest.mark.parametrize(("old", "new", "left", "gap"), GAPS.values(), ids=GAPS)
def test_an_override_lets_exactly_its_change_pass_and_only_for_a_day(
    old: int, new: int, left: timedelta, gap: str | None
) -> None:
    override = weights.Override(reason="x", until=NOW + left, from_weight=5, to_weight=50)
    assert override.gap(old, new, NOW) == gap
    assert weights.covered(override, {"web": (old, new)}, NOW) is (gap is None)
    assert not weights.covered(None, {"web": (old, new)}, NOW)


def test_an_override_covers_a_train_only_when_it_covers_every_service() -> None:
    override = weights.Override(reason="x", until=NOW + timedelta(hours=1), from_weight=5, to_weight=50)
    assert weights.covered(override, {"web": (5, 50), "api": (5, 50)}, NOW)
    assert not weights.covered(override, {"web": (5, 50), "api": (0, 50)}, NOW)


def test_each_refusal_shows_the_way_round_it() -> None:
    assert weights.refusal_text("web", ["one", "two"], 5, 50, None, NOW) == (
        "web: one; or state canary:override {reason, until, from: 5, to: 50}\n"
        "web: two; or state canary:override {reason, until, from: 5, to: 50}"
    )


def test_an_override_that_does_not_help_is_told_why() -> None:
    override = weights.Override(reason="x", until=NOW, from_weight=5, to_weight=50)
    text = weights.refusal_text("web", ["one"], 5, 50, override, NOW)
    assert text == "web: one; canary:override does not cover it: it ended at 2026-11-21T12:00:00Z"
    other = replace(override, until=NOW + timedelta(hours=1))
    assert "or state canary:override" in weights.refusal_text("web", ["one"], 5, 50, other, NOW)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("web:1", "web:1", True),
        ("web:1", "web:2", False),
        ("web:1@sha256:a", "web:1", True),
        ("web:1", "web:1@sha256:a", True),
        ("web:1@sha256:a", "web:1@sha256:b", False),
        ("web:1@sha256:a", "web:2@sha256:a", True),
        ("web:1@sha256:a", "web:2", False),
    ],
)
def test_images_are_the_same_by_digest_where_both_have_one(one: str, other: str, same: bool) -> None:
    assert weights.same_image(one, other) is same


@pytest.mark.parametrize(
    ("image", "name"),
    [("web", "web"), ("web:1", "web"), ("r.example.com:5000/team/web:1@sha256:a", "r.example.com:5000/team/web")],
)
def test_a_repository_is_the_name_without_tag_and_digest(image: str, name: str) -> None:
    assert weights.repository(image) == name


def test_the_record_keeps_the_latest_ten_rejected_images_and_settles() -> None:
    listed = [f"web:{number}" for number in range(12)]
    kept = weights.remembered(["web:old", "web:11"], listed)
    assert list(kept) == listed[2:]
    assert weights.remembered(kept, listed) == kept
    assert weights.remembered(("web:a",), ["web:b", "web:b"]) == ("web:a", "web:b")
    assert weights.remembered(("web:a", "web:b"), []) == ("web:a", "web:b"), "a checkout without the list loses none"


def test_a_rejected_image_is_an_obstacle_until_it_changes() -> None:
    assert weights.rejection("web:2", ["web:1", "web:2"]) == (
        "brings back web:2, which was rolled back (canary:rejected, and the record of the route); ship another"
    )
    assert weights.rejection("web:3", ["web:1", "web:2"]) is None
    assert weights.rejection(None, ["web:1"]) is None


def test_what_a_closed_window_interrupted_is_known_of_the_very_same_rollout_only() -> None:
    assert weights.reach(route(25), route(0)) == 25
    assert weights.reach(route(0, reached=25), route(0)) == 25
    assert weights.reach(route(10, reached=25), route(0)) == 25
    assert weights.reach(None, route(0)) == weights.reach(route(0), route(0)) == 0
    for other in (route(0, canary="v3"), route(0, ports="80:1"), route(0, steps=STEPS[:2])):
        assert weights.reach(route(25), other) == 0
    assert weights.reach(route(0, reached=25, halted=True), route(0)) == 0


def test_the_stay_is_counted_from_the_first_write_of_the_share() -> None:
    assert weights.since(route(5), route(5), NOW) == LONG_AGO
    assert weights.since(route(5), route(10), NOW) == NOW
    assert weights.since(route(5), route(5, canary="v3"), NOW) == NOW
    assert weights.since(None, route(5), NOW) == NOW
    assert weights.since(route(5, since=None), route(5), NOW) == NOW


def test_after_promotion_the_way_back_is_known_and_after_the_way_back_there_is_none() -> None:
    promoted = route(0, stable="v2", canary=None)
    assert weights.former(None, promoted) is None
    assert weights.former(route(100), promoted) == "v1"
    there = replace(promoted, former="v1")
    assert weights.former(there, there) == "v1"
    assert weights.former(there, route(0, stable="v1", canary=None)) is None


# Every class of (recorded, wanted, circumstances), judged by the rules as the contract words them.

WEIGHTS = (0, 5, 10, 25, 50, 100)
WORDS = {
    "skips": "skips a rung",
    "early": "comes before the hold of",
    "hold": "is stopped by canary:hold",
    "unready": "needs a ready canary",
    "obstacle": "comes outside",
    "template": "canary's template changes",
    "ports": "ports changes",
    "ladder": "canary:steps changes",
    "unseen": "without having served as canary",
    "below 100": "promotion needs 100",
    "bake": "before the bake",
}
"""Each rule, and the words by which its refusal is known."""


def known(lines: list[str]) -> set[str]:
    """The rules that `lines` name; every line names one."""
    found = [{rule for rule, words in WORDS.items() if words in line} for line in lines]
    assert all(found), lines
    return set().union(*found)


def verdict(old: Route | None, new: Route, stopped: bool) -> set[str]:
    """The rules that forbid the change.  Nothing of this is taken from the module under test."""
    found = set()
    fresh, former = old is not None and old.since == NOW, old.former if old else None
    reachable = new.canary is not None and not new.halted
    # Stable's template: what canary carried at 100, or the former stable; the first deployment is exempt.
    if old is not None and new.stable not in (old.stable, former):
        if new.stable != old.canary:
            found.add("unseen")
        elif old.weight < 100:
            found.add("below 100")
        elif fresh:
            found.add("bake")
    # Nothing of a canary changes while it serves a share.
    if old is not None and old.weight > 0 and new.weight > 0:
        found |= {"template"} if new.canary != old.canary else set()
        found |= {"ports"} if new.ports != old.ports else set()
        found |= {"ladder"} if new.steps != old.steps else set()
    # Up: the effective weight rises, halted ends, a rule is added; but weight 0 takes users away, whatever else.
    share = old.weight if old else 0
    rules = old.opened if old else frozenset()
    unhalted = old is not None and old.canary is not None and old.halted
    up = reachable and (new.weight > share or unhalted or not new.opened <= rules)
    if not up or (new.weight == 0 and share > 0):
        return found
    if stopped:
        found |= {"hold", "unready", "obstacle"}
    way_back = old is not None and (new.stable, new.canary) in ((old.stable, former), (former, old.stable))
    if way_back:
        return found
    same = old is not None and (new.canary, new.ports, new.steps) == (old.canary, old.ports, old.steps)
    interrupted = old.reached if old is not None and same and not old.halted else 0
    rung = next((step.weight for step in new.steps if step.weight > share), 100)
    if new.weight > share and new.weight > rung and new.weight > interrupted:
        found.add("skips")
    if fresh and share > 0:
        found.add("early")
    return found


def recorded() -> Iterator[Route | None]:
    yield None
    for since, former in product((NOW, LONG_AGO), (None, "former")):
        alone = Route(weight=0, stable="stable", former=former, ports="80:3000", steps=STEPS, since=since)
        yield alone
        yield replace(alone, canary="canary", halted=True)
        for weight in WEIGHTS:
            yield replace(alone, canary="canary", weight=weight, opened=frozenset("a"))
        for reached in (5, 25, 100):
            yield replace(alone, canary="canary", reached=reached, opened=frozenset("a"))


def wanted() -> Iterator[Route]:
    tracks = product(("stable", "canary", "former", "other"), (None, "canary", "former", "other"))
    shapes = (("80:3000", STEPS), ("80:8080", STEPS), ("80:3000", STEPS[1:]))
    for (stable, canary), (ports, steps) in product(tracks, shapes):
        base = Route(weight=0, stable=stable, canary=canary, ports=ports, steps=steps)
        yield replace(base, halted=True)
        if canary is None:
            yield base
            continue
        for weight, opened in product(WEIGHTS, ("", "a", "ab")):
            yield replace(base, weight=weight, opened=frozenset(opened))


CLASSES = [(old, new, stopped) for old in recorded() for new in wanted() for stopped in (False, True)]
"""Direction, canary, halt, template, promotion and way back, ports, ladder, rules, hold, and what stops every rise."""


def told(old: Route | None, new: Route, stopped: bool) -> list[str]:
    if not stopped:
        return refused(old, new)
    return refused(old, new, hold="x", canary_ready=False, obstacles=["comes outside canary:windows.raise"])


def test_every_class_of_change_gets_the_verdict_that_the_rules_give_it() -> None:
    seen: Counter[str] = Counter()
    for old, new, stopped in CLASSES:
        expected, lines = verdict(old, new, stopped), told(old, new, stopped)
        assert known(lines) == expected, (old, new, lines)
        seen.update(expected or ["allowed"])
    assert seen.keys() == {*WORDS, "allowed"}, "every refusal was met, and not everything was refused"
    assert min(seen.values()) > 20, seen


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
        reached=draw(st.sampled_from([0, 5, 100])) if live else 0,
    )


NO = {"hold": "x", "canary_ready": False, "obstacles": ["comes outside"]}


@given(any_route(), st.booleans(), st.none() | fingerprints, tokens, st.sampled_from([STEPS, STEPS[2:]]))
def test_every_revert_passes_from_anywhere_at_any_time(
    old: Route, halt: bool, canary: str | None, opened: frozenset[str], steps: tuple[Step, ...]
) -> None:
    halt = halt or old.halted  # to lift a halt is no revert
    opened = opened if old.weight else old.opened & opened
    down = replace(old, weight=0, halted=halt, canary=canary, opened=opened, shielded=old.shielded, steps=steps)
    assert refused(old, down, **NO) == []


@given(any_route(), st.integers(0, 100))
def test_a_lower_weight_is_never_refused(old: Route, weight: int) -> None:
    new = replace(old, weight=min(old.weight, weight))
    assert refused(old, new, **NO) == []


@given(st.none() | any_route(), any_route())
def test_a_change_is_never_a_rise_and_a_fall_at_once(old: Route | None, new: Route) -> None:
    assert not (weights.rises(old, new) and weights.falls(old, new))


@given(any_route(), any_route())
def test_no_accepted_rise_skips_a_rung_unless_it_goes_back(old: Route, new: Route) -> None:
    if new.weight > old.weight and refused(old, new) == [] and {new.canary, new.stable} != {old.stable, old.former}:
        assert new.weight <= max(weights.next_rung(new.steps, old.weight), old.reached)


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


@pytest.mark.parametrize("weight", [0, 1, 50, 99, 100])
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


@pytest.mark.parametrize(
    ("old", "new", "direction"),
    [
        (None, route(0, canary=None), "neither"),
        (None, route(5), "up"),
        (route(0, canary=None), route(0, canary=None), "neither"),
        (route(0, canary=None), route(0), "neither"),
        (route(5), route(5), "neither"),
        (route(5), route(10), "up"),
        (route(10), route(5), "down"),
        (route(5), route(0, canary=None), "down"),
        (route(0), route(0, canary=None), "down"),
        (route(5), route(0, halted=True), "down"),
        (route(0), route(0, halted=True), "down"),
        (route(0, halted=True), route(0, halted=True), "neither"),
        (route(0, halted=True), route(0, halted=True, canary=None), "neither"),
        (route(0, halted=True), route(0), "up"),
        (route(0, halted=True, canary=None), route(0), "neither"),
        (route(5, opened=frozenset("ab")), route(5, opened=frozenset("a")), "down"),
        (route(5, opened=frozenset("a")), route(5, opened=frozenset("b")), "up"),
        (route(5), route(5, shielded=frozenset("s")), "down"),
        (route(5, shielded=frozenset("s")), route(5), "up"),
        (route(0, shielded=frozenset("s")), route(0), "neither"),
        (route(5, shielded=frozenset("s")), route(0), "down"),
        (route(5, shielded=frozenset("s"), opened=frozenset("a")), route(5, opened=frozenset("a")), "up"),
        (route(0, shielded=frozenset("s"), opened=frozenset("a")), route(0, opened=frozenset("a")), "up"),
        (route(5, opened=frozenset("a")), route(0, opened=frozenset("ab")), "down"),
        (route(10, opened=frozenset("a")), route(5, opened=frozenset("ab")), "up"),
    ],
)
def test_each_change_has_one_direction(old: Route | None, new: Route, direction: str) -> None:
    assert (weights.rises(old, new), weights.falls(old, new)) == (direction == "up", direction == "down")


def test_a_route_waits_for_what_is_new_behind_it() -> None:
    assert weights.changes_stable(None, route(0))
    assert weights.changes_stable(route(0), route(0, stable="v3"))
    assert not weights.changes_stable(route(0), route(50, canary="v3"))
    assert weights.adds_canary(None, route(0))
    assert weights.adds_canary(route(0, canary=None), route(0))
    assert weights.adds_canary(route(0, halted=True), route(0))
    assert not weights.adds_canary(route(0), route(5))
    assert not weights.adds_canary(None, route(0, canary=None))
    assert not weights.adds_canary(None, route(0, halted=True))
    assert not weights.promotes(None, route(0))


@pytest.mark.parametrize(
    ("ladder", "problem"),
    [
        ([1, 100], None),
        ([], "must name at least one weight"),
        ([0, 5], "every weight must be 1 to 100"),
        ([5, 101], "every weight must be 1 to 100"),
        ([5, 5], "must rise from step to step"),
        ([5, 10, 10], "must rise from step to step"),
        ([10, 5], "must rise from step to step"),
    ],
)
def test_a_ladder_rises_from_1_to_100(ladder: list[int], problem: str | None) -> None:
    assert weights.ladder_problem(ladder) == problem
