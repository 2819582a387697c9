"""Each forbidden change stops the whole program in one line, and nothing is registered."""

from __future__ import annotations

import copy
from typing import Any

import pulumi
import pytest

from tests import program
from tests.refusals import FROM_REST, HELD, IN_FLIGHT

CANARY = {"image": "sample-web:2.0"}


def lab(keys: dict[str, Any], service: dict[str, Any]) -> dict[str, Any]:
    """The lab's configuration with these keys, and these of its service; None removes one."""
    config = copy.deepcopy(program.stack_config("lab", edge=False))
    web = config["canary:services"]["web"] | service
    config["canary:services"]["web"] = {key: value for key, value in web.items() if value is not None}
    return config | {f"canary:{key}": value for key, value in keys.items()}


def refused(config: dict[str, Any], recorded: dict[str, Any], says: str) -> None:
    seen = program.Run()
    with pytest.raises(pulumi.RunError) as error:
        program.run(config, recorded=recorded, result=seen)
    assert any(says in line for line in str(error.value).splitlines()), error.value
    assert seen.resources == []


@pytest.fixture(scope="module")
def rest() -> dict[str, Any]:
    """What is recorded of stable alone."""
    return program.recorded_from(program.run(lab({}, {})))


@pytest.mark.parametrize(("keys", "service", "says"), FROM_REST.values(), ids=FROM_REST.keys())
def test_from_rest(keys: dict[str, Any], service: dict[str, Any], says: str, rest: dict[str, Any]) -> None:
    refused(lab(keys, {"canary": CANARY} | service), rest, says)


@pytest.mark.parametrize(("keys", "service", "says"), IN_FLIGHT.values(), ids=IN_FLIGHT.keys())
def test_in_flight(keys: dict[str, Any], service: dict[str, Any], says: str, rest: dict[str, Any]) -> None:
    there = {"weight": 5, "steps": HELD}, {"canary": CANARY}
    before = program.run(lab(*there), recorded=rest)
    refused(lab(there[0] | keys, there[1] | service), program.recorded_from(before), says)


def test_a_promotion_waits_for_the_bake(rest: dict[str, Any]) -> None:
    there = {"weight": 100, "steps": [{"weight": 100, "hold": "1h"}]}
    before = program.run(lab(there, {"canary": CANARY}), recorded=rest)
    promoted = lab(there | {"weight": 0}, {"stable": CANARY, "canary": None})
    refused(promoted, program.recorded_from(before), "before the bake (the hold of 100) is over; allowed from ")
