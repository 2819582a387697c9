"""Which write waits for which: the direction of a change decides the order.

Up: pods ready → route.  Down: route → pods.  A route waits for canary only when canary's share rises (or canary is
new), and for stable only when stable's template changes, so that nothing unready can hold back a revert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies import weights


@dataclass(frozen=True)
class Order:
    """For one service: what its route waits for, and which Deployments wait for the route.

    `after` holds (service, track) pairs, of the whole train: if one service cannot get ready, no route of it rises.
    """

    after: frozenset[tuple[str, str]]
    waiting: frozenset[str]


def order(pairs: Mapping[str, tuple[weights.Route | None, weights.Route]]) -> dict[str, Order]:
    """The order of writes for each service, from (recorded, wanted)."""
    canaries = {
        (name, "canary")
        for name, (old, new) in pairs.items()
        if weights.rises(old, new) or weights.adds_canary(old, new)
    }
    stables = {(name, "stable") for name, (old, new) in pairs.items() if weights.changes_stable(old, new)}
    found = {}
    for name, (old, new) in pairs.items():
        after: set[tuple[str, str]] = set()
        if (name, "canary") in canaries:
            after |= canaries
        if canaries & {(name, "canary")} or stables & {(name, "stable")}:
            after |= stables
        falling = weights.falls(old, new) and not after
        waiting = {
            track for track in ("stable", "canary") if falling and not (track == "canary" and new.canary is None)
        }
        found[name] = Order(frozenset(after), frozenset(waiting))
    return found


@dataclass(frozen=True)
class Transition:
    """What one update writes besides the settings: per service the record for its route and its rule, and the order.

    `shares` are the recorded weights by service.  `at_least` is, by service, how many pods stable
    needs in this update at the least, to carry what canary carries.
    """

    notes: Mapping[str, Mapping[str, str]]
    rule_notes: Mapping[str, Mapping[str, str]]
    order: Mapping[str, Order]
    at_least: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
