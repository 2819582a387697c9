"""Who serves a described request, followed from the viewer on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from core import checks
from live import Live
from rollout import explain
from rollout.cli import Exit
from rollout.engine import Failed

EDGE = {
    "aliases": ["shop.lab.test"],
    "certificateArn": "arn:aws:acm:us-east-1:1:certificate/x",
    "greenCidrs": ["192.0.2.0/24"],
}


@pytest.fixture
def asked(web: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command's document for some words, with the settings `web` and a state that cannot be read."""

    def state() -> None:
        raise Failed(["no such bucket"])

    site = SimpleNamespace(engine=SimpleNamespace(state=state), live=Live, settings=lambda: checks.parse(web)[0])
    monkeypatch.setattr(explain, "Site", SimpleNamespace(find=lambda stack: site))

    def run(*words: str) -> Any:
        found = CliRunner().invoke(explain.command, ["--json", *words])
        return found.exit_code, json.loads(found.stdout) if found.exit_code == 0 else found.output

    return run


def test_without_an_edge_a_rule_decides_by_what_the_caller_sends(asked: Any) -> None:
    code, found = asked("--header", "x-canary=true")
    assert (code, found["edge"], found["config"]["shares"]) == (0, None, {"canary": 1.0})


def test_the_edge_takes_the_rules_header_away_and_decides_by_the_address(asked: Any, web: dict[str, Any]) -> None:
    web |= {"edge": EDGE, "originSecret": "sealed-0123456789abcdef"}
    code, found = asked("--header", "x-canary=true", "--header", "x-deployment=green", "--address", "198.51.100.7")
    assert (code, found["edge"]["arm"], found["edge"]["reason"]) == (0, "blue", "bucket")
    assert (found["config"]["layer"], found["config"]["shares"]) == ("stamp", {"stable": 1.0})
    code, found = asked("--address", "192.0.2.9")
    assert (found["edge"]["reason"], found["config"]["shares"]) == ("cidr", {"canary": 1.0})


def test_past_the_edge_no_address_is_needed_and_before_it_one_is(asked: Any, web: dict[str, Any]) -> None:
    web |= {"edge": EDGE, "originSecret": "sealed-0123456789abcdef"}
    code, found = asked("--door", "mesh", "--header", "x-canary=true")
    assert (code, found["edge"], found["config"]["shares"]) == (0, None, {"canary": 1.0})
    code, text = asked()
    assert code == Exit.BAD_INPUT and "--address" in text
