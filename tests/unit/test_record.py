"""What one update tells the next, also when somebody's hands were on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from core import checks, record, routes
from policies import weights

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def written(web: dict[str, Any], **changes: Any) -> dict[str, Any]:
    settings, _ = checks.parse(web | changes)
    notes = record.notes(None, record.wanted("web", settings), configured=settings.weight, now=NOW, cluster="one")
    notes |= record.Written({}, 3).notes
    return {"metadata": {"annotations": notes}, "spec": routes.virtual_service_spec("web", settings)}


def test_what_is_written_is_what_is_read(web: dict[str, Any]) -> None:
    found = record.read(written(web, weight=25), None)
    assert found is not None
    settings, _ = checks.parse(web | {"weight": 25})
    wanted = record.wanted("web", settings)
    assert found.route.since == NOW
    assert found.route == weights.Route(**{**vars(wanted), "since": NOW})
    assert (found.configured, found.cluster, found.written.repairs) == (25, "one", 3)


def test_a_virtual_service_of_somebody_else_holds_no_record() -> None:
    assert record.read({"metadata": {"annotations": {"other/stable": "x"}}, "spec": {"http": []}}, None) is None


@pytest.mark.parametrize(
    ("notes", "spec"),
    [
        ({"canary/since": "yesterday", "canary/steps": "all", "canary/weight": "many", "canary/repairs": "?"}, {}),
        ({}, {"http": []}),
        ({}, {"http": [{}]}),
        ({}, {"http": [{"route": [{"destination": {"host": "x"}}]}]}),
        ({}, {"http": [{"name": "rule-x", "redirect": {"uri": "/"}}]}),
    ],
)
def test_no_hand_edit_can_make_the_record_unreadable(
    web: dict[str, Any], notes: dict[str, str], spec: dict[str, Any]
) -> None:
    edited = written(web)
    edited["metadata"]["annotations"].update(notes)
    if spec:
        edited["spec"] = spec
    found = record.read(edited, None)
    assert found is not None
    assert weights.weight_problem(found.route.weight) is None


@pytest.mark.parametrize(("given", "share"), [((3, 1), 25), ((0, 0), 0), ((0, 7), 100), ((100, 0), 0)])
def test_the_share_is_what_istio_makes_of_the_weights(given: tuple[int, int], share: int) -> None:
    legs = [{"destination": {"subset": name}, "weight": n} for name, n in zip(("stable", "canary"), given, strict=True)]
    assert record.canary_share({"http": [{"route": legs}]}) == share


def test_a_stack_is_read_whole_and_what_was_never_written_counts_as_nothing(web: dict[str, Any]) -> None:
    route = written(web, weight=25)
    route["metadata"]["name"] = "web"
    route_kind, rule_kind, service_kind = record.RECORDING
    states = [
        (route_kind, route),
        (rule_kind, {"metadata": {"name": "web", "annotations": {"canary/repairs": "2"}}, "spec": {"host": "web"}}),
        (service_kind, {"metadata": {"name": "web"}, "spec": {}}),
        (service_kind, {}),  # its first write has failed
        ("aws:ecs/service:Service", {"metadata": {"name": "web"}}),
    ]
    found = record.all_of(states)
    assert [(name, one.route.weight, one.rule and one.rule.repairs) for name, one in found.items()] == [("web", 25, 2)]
