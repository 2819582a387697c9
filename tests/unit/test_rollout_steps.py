"""What `advance` and `run` decide: only evidence and rules raise, everything else stays or goes down."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest

from core import checks, record
from core.judge import Verdict
from live import Live
from policies import weights
from rollout import engine, steps
from rollout.cli import Exit, Stop
from rollout.stackfile import StackFile
from rollout.steps import Action, View, decide, drift, promoted

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)
ADVANCE, HOLD, ROLLBACK = (Verdict(kind, f"the judge says {kind}") for kind in ("advance", "hold", "rollback"))
RAW: dict[str, Any] = {
    "namespace": "shop",
    "weight": 5,
    "steps": [5, 10, 25, 50, 100],
    "services": {"web": {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}}},
}


def view(weight: int = 5, *, minutes: float = 60, halted: bool = False, live: Live | None = None, **raw: Any) -> View:
    settings = checks.parse({**RAW, "weight": weight, "halted": halted, **raw})[0].at(NOW)
    route = replace(
        record.wanted("web", settings), weight=0 if halted else weight, since=NOW - timedelta(minutes=minutes)
    )
    entry = record.Record(route, weight, None, record.Written({"http": []}, 0), None)
    told = {"weight": weight, "services": {"web": {"stable": "web:1", "canary": "web:2"}}}
    found = View(settings=settings, told=told, records={"web": entry}, live=live or Live(), at=NOW)
    return replace(found, drift=list(drift(found)))


@pytest.mark.parametrize(("weight", "onward"), [(0, 5), (5, 10), (10, 25), (25, 50), (50, 100)])
def test_with_a_good_verdict_and_after_the_hold_the_next_rung_comes(weight: int, onward: int) -> None:
    assert decide(view(weight), ADVANCE) == Action(kind="rise", text=ADVANCE.reason, weight=onward)


def test_after_the_last_rung_comes_promotion() -> None:
    assert decide(view(100), ADVANCE).kind == "promote"
    assert decide(view(100, minutes=1), ADVANCE).kind == "hold", "the bake is not over"


@pytest.mark.parametrize("verdict", [HOLD, ROLLBACK])
def test_no_other_verdict_raises(verdict: Verdict) -> None:
    for weight in (0, 5, 50, 100):
        assert decide(view(weight), verdict).kind == verdict.kind


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"hold": "lunch"}, "lunch"),
        ({"windows": {"raise": "Sat 09:00-10:00 UTC"}}, "canary:windows.raise"),
        ({"windows": {"freezes": [{"from": "2026-11-18", "to": "2026-11-18", "why": "sale"}]}}, "sale"),
        ({"rejected": ["web:2"]}, "rolled back"),
        ({"windows": {"serve": "Sat 09:00-10:00 UTC"}}, "windows.serve"),
    ],
)
def test_rules_hold_whatever_the_judge_says_and_hold_no_rollback(raw: dict[str, Any], told: str) -> None:
    held = decide(view(5, **raw), ADVANCE)
    assert held.kind == "hold" and told in held.text
    assert decide(view(5, **raw), ROLLBACK).kind == "rollback"


def test_a_hold_that_has_not_passed_says_until_when() -> None:
    held = decide(view(5, minutes=1), ADVANCE)
    assert held.kind == "hold" and "2026-11-18T12:04:00Z" in held.text


def test_a_canary_that_is_not_ready_does_not_rise() -> None:
    assert decide(view(5, live=Live(ready={"web-canary": False})), ADVANCE).kind == "hold"
    assert decide(view(5, live=Live(ready={"web-canary": True})), ADVANCE).kind == "rise"


def test_halted_is_neither_raised_nor_rolled_back_again() -> None:
    for verdict in (ADVANCE, HOLD, ROLLBACK):
        assert decide(view(0, halted=True), verdict).kind == "halted"


def test_a_mesh_that_was_halted_directly_counts_as_halted_although_the_state_does_not_know() -> None:
    live = Live(routes={"web": {"http": [{}]}}, notes={"web": {"canary/halted": "true"}})
    found = view(5, live=live)
    assert decide(found, ADVANCE).kind == "halted"
    assert any("halted directly" in line for line in found.drift)


def test_without_a_canary_there_is_nothing_to_do() -> None:
    found = view(0, services={"web": {"stable": {"image": "web:1"}}})
    assert decide(found, ADVANCE).kind == "idle"


def test_drift_stops_a_rise_and_no_rollback() -> None:
    edited = view(5, live=Live(routes={"web": {"http": [{"route": []}]}}))
    assert decide(edited, ADVANCE).kind == "drift"
    assert decide(edited, ROLLBACK).kind == "rollback"
    assert decide(view(5, live=Live(routes={"web": {"http": []}})), ADVANCE).kind == "rise", "it is what was written"
    assert decide(view(5, live=Live(routes=None)), ADVANCE).kind == "rise", "what cannot be read is no drift"


@pytest.mark.parametrize("told", [{"weight": 10}, {"services": {"web": {"stable": "web:1", "canary": "web:3"}}}])
def test_a_stack_file_that_is_not_what_is_deployed_is_drift(told: dict[str, Any]) -> None:
    found = view(5)
    assert found.drift == []
    (line,) = drift(replace(found, told=found.told | told))
    assert "git pull" in line


def test_each_action_that_changes_nothing_has_its_exit_code() -> None:
    assert {kind: int(code) for kind, code in steps.EXITS.items()} == {"idle": 2, "halted": 5, "hold": 5, "drift": 6}


def test_promotion_is_one_edit_in_which_canary_becomes_stable_and_keeps_stables_size(tmp_path: Any) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(
        "config:\n"
        "  canary:weight: 100 # all\n"
        "  canary:services:\n"
        "    web:\n"
        "      stable: {image: 'web:1', replicas: 6, env: {A: '1'}}\n"
        "      canary: {image: 'web:2', replicas: auto, env: {B: '2'}}\n"
        "    api:\n"
        "      stable: {image: 'api:1'}\n"
    )
    file = StackFile(path, path.read_text())
    assert promoted(file) == ["web"]
    services = file.settings_raw["services"]
    assert services == {
        "web": {"stable": {"image": "web:2", "env": {"B": "2"}, "replicas": 6}},
        "api": {"stable": {"image": "api:1"}},
    }
    assert str(file.settings_raw["weight"]) == "0"
    assert weights.LOWEST == 0


@pytest.mark.parametrize(
    ("error", "code", "recorded", "told"),
    [
        (engine.Locked("created by eve@far (pid 7) at noon"), Exit.LOCKED, None, "canary stays at 0 %"),
        (engine.Interrupted(["update canceled"]), Exit.FAILED, None, "interrupted"),
        (engine.Failed(["weight: 5 -> 50; canary:override lets it through"]), Exit.HELD, None, "as before"),
        (engine.Failed(["the key of the edge was refused"]), Exit.FAILED, 10, "canary is at 10 %; `pulumi up`"),
    ],
)
def test_an_update_that_fails_has_its_exit_code_and_says_what_it_left(
    tmp_path: Any, error: engine.Failed, code: Exit, recorded: int | None, told: str
) -> None:
    path = tmp_path / "Pulumi.lab.yaml"
    path.write_text("config:\n  canary:weight: 5\n")
    file = StackFile(path, path.read_text())
    file.set("weight", 10)
    site = mock.MagicMock()
    site.engine.up.side_effect = error
    site.engine.state.return_value = []
    entry = {"web": mock.Mock(route=mock.Mock(weight=recorded))} if recorded else {}
    with mock.patch.object(engine, "records", return_value=entry), pytest.raises(Stop) as stopped:
        steps.update(site, file, "message")
    assert (stopped.value.exit_code, told in stopped.value.message) == (code, True), stopped.value.message
    assert ("weight: 10" in path.read_text()) is (recorded is not None), "the stack file is what is deployed"
