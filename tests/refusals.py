"""Changes that have to be refused: what is edited, and what the line says that refuses it.

All of them are tried on the whole program without an engine, and one of each mechanism with the real one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

TODAY = datetime.now(UTC)
CLOSED = f"{(TODAY + timedelta(days=3)):%a} 09:00-16:00 UTC"
"""A window that is not open today, and in a run over midnight not tomorrow either."""

FREEZE = {
    "from": str((TODAY - timedelta(days=1)).date()),
    "to": str((TODAY + timedelta(days=1)).date()),
    "why": "year end",
}


def override(old: int, new: int) -> dict[str, Any]:
    return {"reason": "drill", "until": (TODAY + timedelta(hours=2)).isoformat(), "from": old, "to": new}


FROM_REST: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "weight -1": ({"weight": -1}, {}, "canary:weight: got"),
    "weight 101": ({"weight": 101}, {}, "canary:weight: got"),
    "weight 5.5": ({"weight": 5.5}, {}, "canary:weight: got"),
    "weight abc": ({"weight": "abc"}, {}, "canary:weight: got"),
    "image missing": ({"weight": 5}, {"canary": {"replicas": 1}}, "canary:services.web.canary.image"),
    "unknown key": ({"wieght": 5}, {}, "did you mean weight?"),
    "weight without canary": ({"weight": 5}, {"canary": None}, "no service has a canary"),
    "ladder not rising": ({"weight": 5, "steps": [5, 5]}, {}, "canary:steps"),
    "rule without match": ({"weight": 5}, {"rules": [{"name": "all"}]}, "rules[0]"),
    "bad regex": ({"weight": 5}, {"rules": [{"name": "a", "headers": {"x": {"regex": "(?=b)"}}}]}, "RE2"),
    "regex too long": (
        {"weight": 5},
        {"rules": [{"name": "a", "headers": {"x": {"regex": "b" * 1025}}}]},
        "longer than 1024 bytes",
    ),
    "two rules of one name": (
        {"weight": 5},
        {"rules": [{"name": "a", "users": ["1"]}, {"name": "a", "users": ["2"]}]},
        "rules[1].name",
    ),
    "rule that is never reached": (
        {"weight": 5},
        {"rules": [{"name": "a", "users": ["1", "2"]}, {"name": "b", "users": ["2"]}]},
        "taken by rule a",
    ),
    "one host on two services": (
        {"services": {name: {"stable": {"image": "sample-web:1.0"}, "hosts": ["a.test"]} for name in ("x", "y")}},
        {},
        "already belongs to service x",
    ),
    "name too long for its children": (
        {"services": {"w" * 57: {"stable": {"image": "sample-web:1.0"}}}},
        {},
        "shorten it",
    ),
    "host *": ({"weight": 5}, {"hosts": ["*"]}, "hosts[0]"),
    "skipped rung": (
        {"weight": 50},
        {},
        "web: weight 0 -> 50 skips a rung of canary:steps; set canary:weight to 5 first",
    ),
    "hold": ({"weight": 5, "hold": "incident 42"}, {}, "web: weight 0 -> 5 is stopped by canary:hold ('incident 42')"),
    "window": (
        {"weight": 5, "windows": {"raise": CLOSED}},
        {},
        f"web: weight 0 -> 5 comes outside canary:windows.raise ({CLOSED}); allowed from ",
    ),
    "freeze": (
        {"weight": 5, "windows": {"freezes": [FREEZE]}},
        {},
        f"web: weight 0 -> 5 falls in the freeze {FREEZE['from']} to {FREEZE['to']} of canary:windows.freezes (year",
    ),
    "window that is none": ({"weight": 5, "windows": {"raise": "office hours"}}, {}, "canary:windows.raise: got"),
    "freeze that ends before it begins": (
        {"weight": 5, "windows": {"freezes": [{**FREEZE, "to": "2020-01-01"}]}},
        {},
        "canary:windows.freezes[0].to: got '2020-01-01'",
    ),
    "rejected image": (
        {"weight": 5, "rejected": ["sample-web:2.0"]},
        {},
        "web: weight 0 -> 5 brings back sample-web:2.0, which was rolled back",
    ),
    "too few pods": (
        {"weight": 5},
        {"replicas": 41, "canary": {"image": "sample-web:2.0", "replicas": 2}},
        "needs 3 pods of canary beside 41 of stable, and canary:services.web.canary.replicas is 2; set it to 3",
    ),
    "rule for all while held": (
        {"hold": "incident 42"},
        {"rules": [{"name": "more", "users": ["7"]}]},
        "web: a wider rule at weight 0 is stopped by canary:hold",
    ),
    "stable that nobody has seen": (
        {},
        {"stable": {"image": "sample-web:3.0"}},
        "without having served as canary; ship it as canary first",
    ),
    "override of another change": (
        {"weight": 50, "override": override(0, 25)},
        {},
        "canary:override does not cover it: it is for 0 -> 25, and this is 0 -> 50",
    ),
    "override that has ended": (
        {"weight": 50, "override": override(0, 50) | {"until": "2020-01-01T00:00:00Z"}},
        {},
        "canary:override does not cover it: it ended at 2020-01-01T00:00:00Z",
    ),
    "override for more than a day": (
        {"weight": 50, "override": override(0, 50) | {"until": "2099-01-01"}},
        {},
        "canary:override does not cover it: it may last a day at most",
    ),
}

IN_FLIGHT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "too early": ({"weight": 10}, {}, "web: weight 5 -> 10 comes before the hold of 5 has passed; allowed from "),
    "wider rule too early": (
        {},
        {"rules": [{"name": "more", "users": ["7"]}]},
        "web: a wider rule at weight 5 comes before the hold of 5 has passed; allowed from ",
    ),
    "another canary": ({}, {"canary": {"image": "sample-web:3.0"}}, "web: canary's template changes from "),
    "other ports": ({}, {"targetPort": 3001}, "web: ports changes from 80:3000 to 80:3001 while canary serves 5 %"),
    "another ladder": ({"steps": [5, 100]}, {}, "web: canary:steps changes from 5:3600,10:0 to 5:300,100:300 while"),
    "promotion": (
        {"weight": 0},
        {"stable": {"image": "sample-web:2.0"}, "canary": None},
        "which as canary carries 5 %, and promotion needs 100; raise canary:weight first",
    ),
}
"""From 5 %, in the first seconds of a stay of an hour."""

HELD = [{"weight": 5, "hold": "1h"}, {"weight": 10, "hold": "0s"}]
"""The ladder of those."""
