"""Updates one after another, of settings, record and cluster: windows, rejected images, capacity, overrides."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pulumi
import pytest

import transition
from core import capacity, checks, outputs, record, routes
from core.plan import Transition
from live import Live

MONDAY = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
NIGHT = MONDAY.replace(hour=20)
TUESDAY = MONDAY + timedelta(days=1)
SUNDAY = MONDAY + timedelta(days=6)
OFFICE = "Mon-Fri 09:00-16:00 UTC"


@dataclass
class Stack:
    """A stack file, and what its updates recorded."""

    raw: dict[str, Any]
    before: dict[str, record.Record] = field(default_factory=dict)
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    now: datetime = MONDAY

    def up(self, *, live: Live | None = None, canary: Mapping[str, Any] | None = None, **changes: Any) -> Transition:
        """One update at `now`, an hour after the last; a refused one changes nothing.  None removes a key."""
        raw = copy.deepcopy(self.raw)
        for key, value in changes.items():
            raw.pop(key, None)
            raw |= {} if value is None else {key: value}
        if canary is not None:
            raw["services"]["web"]["canary"] = canary
        settings, _ = checks.parse(raw)
        settings = settings.at(self.now)
        found = transition.decide(settings, self.before, live or Live(), self.now)
        for name in settings.services:
            spec = routes.virtual_service_spec(name, settings)
            self.written[name] = {"metadata": {"annotations": found.notes[name]}, "spec": spec}
            entry = record.read(self.written[name], None)
            assert entry is not None
            self.before[name] = entry
        self.raw, self.settings = raw, settings
        self.now += timedelta(hours=1)
        return found

    def refuses(self, *says: str, **changes: Any) -> None:
        """The update is refused, with one line for each of `says`, in that order."""
        with pytest.raises(pulumi.RunError) as error:
            self.up(**changes)
        lines = str(error.value).splitlines()
        assert len(lines) == len(says), lines
        assert all(text in line for text, line in zip(says, lines, strict=True)), lines

    def climb(self, *weights: int) -> None:
        for weight in weights:
            self.up(weight=weight)

    def shares(self) -> tuple[int, int]:
        """(weight as configured, weight in force), as the outputs tell of the last update."""
        told = outputs.summary(self.written, self.settings)
        return told["weight"], told["effectiveWeight"]


@pytest.fixture
def stack(web: dict[str, Any]) -> Stack:
    """Deployed, with canary at 0."""
    found = Stack(web)
    found.up(weight=0)
    return found


def override(until: datetime, old: int, new: int) -> dict[str, Any]:
    return {"reason": "black friday", "until": until.isoformat(), "from": old, "to": new}


# Windows and freezes


def test_a_rise_outside_the_window_names_when_it_would_pass_and_a_fall_passes(stack: Stack) -> None:
    stack.climb(5, 10)
    stack.now = SUNDAY
    windows = {"raise": OFFICE}
    stack.refuses(
        f"web: weight 10 -> 25 comes outside canary:windows.raise ({OFFICE}); allowed from 2026-11-30T09:00:00Z",
        weight=25,
        windows=windows,
    )
    stack.up(weight=10, windows=windows)
    stack.up(weight=5, windows=windows)
    stack.up(weight=0, windows=windows)
    stack.now = SUNDAY + timedelta(days=1)
    stack.up(weight=5)


def test_a_rise_in_a_freeze_names_its_days_its_reason_and_its_end(stack: Stack) -> None:
    freezes = [{"from": "2026-11-23", "to": "2026-11-24", "why": "audit"}]
    stack.refuses(
        "falls in the freeze 2026-11-23 to 2026-11-24 of canary:windows.freezes (audit); allowed from 2026-11-25T00:",
        weight=5,
        windows={"freezes": freezes},
    )
    stack.up(windows={"freezes": freezes}, halted=True)


# windows.serve


def test_outside_its_window_the_percentage_goes_to_stable_and_comes_back_to_where_it_was(stack: Stack) -> None:
    stack.climb(5, 10, 25)
    stack.now = NIGHT
    stack.up(windows={"serve": OFFICE})
    assert stack.shares() == (25, 0)
    stack.up()
    assert stack.shares() == (25, 0), "a second update in the night forgets nothing"
    stack.now = TUESDAY
    stack.up()
    assert stack.shares() == (25, 25)
    assert stack.before["web"].route.since == TUESDAY, "the stay at 25 is counted from the return"
    stack.climb(50)


def test_what_was_raised_while_the_window_was_closed_comes_back_to_where_it_was_first(stack: Stack) -> None:
    stack.climb(5)
    stack.now = NIGHT
    stack.up(windows={"serve": OFFICE})
    stack.up(weight=50)
    assert stack.shares() == (50, 0)
    stack.now = TUESDAY
    stack.refuses("weight 0 -> 50 skips a rung of canary:steps; set canary:weight to 5 first")
    stack.up(weight=5)
    stack.up(weight=10)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"weight": 0}, 5),
        ({"weight": 10}, 10),
        ({"halted": True}, 5),
        ({"canary": {"image": "sample-web:3.0"}}, 5),
        ({"steps": [7, 25, 100]}, 7),
    ],
    ids=["reverted", "lowered", "halted", "another canary", "another ladder"],
)
def test_what_changed_while_the_window_was_closed_is_no_return(
    stack: Stack, changes: dict[str, Any], first: int
) -> None:
    stack.climb(5, 10, 25)
    stack.now = NIGHT
    stack.up(windows={"serve": OFFICE})
    stack.up(**changes)
    stack.now = TUESDAY
    stack.refuses(f"set canary:weight to {first} first", weight=25, halted=False)
    stack.up(weight=first, halted=False)


def test_a_return_is_a_rise_in_all_but_the_rung(stack: Stack) -> None:
    stack.climb(5, 10, 25)
    stack.now = NIGHT
    stack.up(
        windows={"serve": OFFICE, "raise": "Wed 09:00-16:00 UTC"}, hold="x", live=Live(ready={"web-canary": False})
    )
    stack.now = TUESDAY
    stack.refuses("canary:windows.raise", "canary:hold", "needs a ready canary", live=Live(ready={"web-canary": False}))


def test_the_outputs_show_the_window_for_serving(stack: Stack) -> None:
    stack.now = NIGHT
    stack.up(windows={"serve": OFFICE})
    assert outputs.summary(stack.written, stack.settings)["windows"] == {"serve": OFFICE, "serving": False}


# Rejected images


def test_a_rolled_back_image_stays_out_even_from_a_checkout_that_does_not_list_it(stack: Stack) -> None:
    stack.climb(5)
    stack.up(weight=0, halted=True, rejected=["sample-web:2.0"])  # what a robot's rollback writes
    stale: dict[str, Any] = {"weight": 5, "halted": False, "rejected": None}
    says = "weight 0 -> 5 brings back sample-web:2.0, which was rolled back"
    stack.refuses(says, **stale)
    stack.up(weight=0, rejected=None)
    stack.refuses(says, **stale)
    assert outputs.summary(stack.written, stack.settings)["rejected"] == ["sample-web:2.0"]
    stack.up(canary={"image": "sample-web:3.0"}, **stale)
    stack.up(weight=0)
    stack.refuses(says, canary={"image": "sample-web:2.0"}, weight=5)


def test_an_image_on_the_list_cannot_rise_before_it_was_ever_recorded(web: dict[str, Any]) -> None:
    Stack(web).refuses("weight 0 -> 5 brings back sample-web:2.0", rejected=["sample-web:2.0"])


def test_a_wider_rule_does_not_reach_a_rejected_image_either(stack: Stack) -> None:
    services = copy.deepcopy(stack.raw["services"])
    services["web"]["rules"].append({"name": "more", "users": ["3"]})
    stack.up(rejected=["sample-web:2.0"])
    stack.refuses("a wider rule at weight 0 brings back sample-web:2.0", services=services)


def test_a_record_holds_the_images_of_its_own_service(stack: Stack) -> None:
    stack.raw["services"]["api"] = {"stable": {"image": "api:1"}, "canary": {"image": "api:2"}}
    stack.up(rejected=["api:0", "sample-web:0", "other:1"])
    assert {name: entry.route.rejected for name, entry in stack.before.items()} == {
        "web": ("sample-web:0",),
        "api": ("api:0",),
    }


def test_an_override_lets_a_rejected_image_rise_and_takes_it_off_the_record(stack: Stack) -> None:
    stack.up(rejected=["sample-web:1.9", "sample-web:2.0"])
    stack.up(weight=5, rejected=None, override=override(stack.now + timedelta(hours=2), 0, 5))
    assert stack.before["web"].route.rejected == ("sample-web:1.9",)
    stack.up(weight=10, override=None)


# Capacity


@pytest.mark.parametrize(
    ("canary", "live", "needed"),
    [
        ({"replicas": 2}, {}, None),
        ({"replicas": 1}, {}, 2),
        ({"replicas": 2}, {"web-stable": 8}, None),
        ({"replicas": 2}, {"web-stable": 9}, 3),
        ({"replicas": 2}, {"web-stable": 1}, None),
        ({"replicas": "auto"}, {"web-stable": 9}, None),
        ({"autoscale": {"min": 1, "max": 3}}, {"web-stable": 9}, None),
    ],
)
def test_a_rung_needs_the_pods_that_carry_it(
    stack: Stack, canary: dict[str, Any], live: dict[str, int], needed: int | None
) -> None:
    stack.raw["services"]["web"] |= {"replicas": 8, "canary": {"image": "sample-web:2.0", **canary}}
    seen = Live(replicas={"web-canary": 1, **live})
    stack.climb(5, 10)
    if needed is None:
        stack.up(weight=25, live=seen)
        return
    stable = max(8, live.get("web-stable", 0))
    stack.refuses(
        f"weight 10 -> 25 needs {needed} pods of canary beside {stable} of stable, and "
        f"canary:services.web.canary.replicas is {canary['replicas']}; set it to {needed} at least",
        weight=25,
        live=seen,
    )
    stack.up(live=seen)
    stack.up(weight=5, live=seen)
    stack.up(weight=0, live=seen)


def test_with_an_autoscaler_its_most_counts(stack: Stack) -> None:
    stack.raw["services"]["web"]["canary"] = {"image": "sample-web:2.0", "autoscale": {"min": 1, "max": 2}}
    stack.climb(5, 10)
    stack.refuses(
        "canary:services.web.canary.autoscale.max is 2; set it to 3", weight=25, live=Live(replicas={"web-stable": 9})
    )


def test_where_somebody_else_counts_pods_nothing_is_checked(web: dict[str, Any]) -> None:
    web["services"]["web"]["canary"]["replicas"] = 1
    settings, _ = checks.parse(web | {"weight": 100})
    assert capacity.shortage(settings, "web", 9) is not None
    assert capacity.shortage(settings.model_copy(update={"strategy": "flagger"}), "web", 9) is None


# Promotion


def test_a_promoted_stable_gets_as_many_pods_as_canary_has(stack: Stack) -> None:
    stack.climb(5, 10, 25, 50, 100)
    services = {"web": {"stable": {"image": "sample-web:2.0"}}}
    seen = Live(replicas={"web-canary": 7, "web-stable": 2})
    assert stack.up(live=seen).at_least == {}, "only in the update that promotes"
    assert stack.up(weight=0, services=services, live=seen).at_least == {"web": 7}
    assert stack.up(live=seen).at_least == {}


def test_where_the_cluster_could_not_be_read_a_promotion_has_no_floor(stack: Stack) -> None:
    stack.climb(5, 10, 25, 50, 100)
    assert stack.up(weight=0, services={"web": {"stable": {"image": "sample-web:2.0"}}}).at_least == {}


# Overrides


def test_an_override_covers_every_rule_and_says_what_it_let_pass(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.up(steps=[{"weight": 5, "hold": "240h"}, 10, 25, 50, 100])
    stack.climb(5)
    stack.now = SUNDAY
    stack.raw["services"]["web"] |= {"replicas": 9}
    stack.raw["services"]["web"]["canary"] |= {"replicas": 1}
    forbidden: dict[str, Any] = {
        "weight": 50,
        "hold": "incident 42",
        "windows": {"raise": OFFICE, "freezes": [{"from": "2026-11-29", "to": "2026-11-29", "why": "audit"}]},
        "rejected": ["sample-web:2.0"],
        "live": Live(ready={"web-canary": False}),
    }
    says = ("freeze", "needs 5 pods", "brings back", "incident 42", "not ready", "set canary:weight to 10 first")
    stack.refuses(*says, "before the hold of 5", **forbidden)
    stack.refuses(
        *["canary:override does not cover it: it is for 5 -> 25, and this is 5 -> 50"] * 7,
        **forbidden,
        override=override(SUNDAY + timedelta(hours=1), 5, 25),
    )
    stack.up(**forbidden, override=override(SUNDAY + timedelta(hours=1), 5, 50))
    told = capsys.readouterr().err
    assert told.count("allowed by canary:override (black friday): web: weight 5 -> 50") == 7
    assert "or state canary:override" not in told


def test_one_refused_service_of_two_stops_the_train_with_a_line_for_each_reason(stack: Stack) -> None:
    stack.raw["services"]["api"] = {"stable": {"image": "api:1"}, "canary": {"image": "api:2"}}
    stack.climb(0, 5)
    stack.refuses("web: weight 5 -> 50 skips", "api: weight 5 -> 50 skips", weight=50)
    stack.refuses("api: weight 5 -> 10 brings back api:2", weight=10, rejected=["api:2"])


# Hands on the cluster


@pytest.mark.parametrize(
    ("route", "counter"), [({}, "canary/restored"), ({"web": {}}, "canary/repairs")], ids=["deleted", "edited"]
)
def test_what_hands_did_to_a_route_is_counted_once_for_each_time(
    stack: Stack, route: dict[str, Any], counter: str
) -> None:
    for times in (1, 2):
        notes = stack.up(live=Live(routes=route)).notes["web"]
        assert notes[counter] == str(times)
        there = Live(routes={"web": stack.written["web"]["spec"]})
        assert stack.up(live=there).notes["web"] == notes, "as it should be: nothing to count"
    assert "canary/restored" not in Stack(stack.raw).up().notes["web"]


def test_a_deleted_route_takes_no_memory_with_it(stack: Stack) -> None:
    stack.climb(5, 10)
    stack.up(live=Live(routes={}))
    stack.refuses("set canary:weight to 25 first", weight=50)
