"""A mesh that was halted past the engine stays halted, whatever the state and a stack file say."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core import checks, record
from core.model import Settings
from policies import weights
from rollout import mesh
from rollout.cli import Stop
from rollout.stackfile import StackFile

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)


def settings(**raw: Any) -> Settings:
    services = {"web": {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}}}
    return checks.parse({"namespace": "shop", "weight": 25, "services": services, **raw})[0]


def entry() -> record.Record:
    route = replace(record.wanted("web", settings()), since=NOW)
    return record.Record(route, 25, None, record.Written({}, 0), None)


def notes() -> dict[str, str]:
    """What the line of kubectl leaves."""
    words = shlex.split(mesh.line(settings(), "prod-eu"))
    assert words[:5] == ["kubectl", "--context", "prod-eu", "-n", "shop"]
    found: dict[str, str] = json.loads(words[-1])["metadata"]["annotations"]
    return found


def test_the_line_of_kubectl_writes_what_an_update_of_a_halted_stack_writes() -> None:
    body = json.loads(shlex.split(mesh.line(settings(), None))[-1])
    assert mesh.off(body["spec"]["http"])
    assert [leg["destination"]["subset"] for leg in body["spec"]["http"][0]["route"]] == ["stable"]
    assert body["metadata"]["annotations"] == {"canary/halted": "true", "canary/rejected": "web:2"}


def test_the_line_has_a_part_for_each_service_of_the_train() -> None:
    services = {name: {"stable": {"image": f"{name}:1"}} for name in ("web", "api")}
    assert mesh.line(settings(services=services, weight=0), None).count("kubectl ") == 2


def test_without_a_mesh_the_line_takes_canarys_pods_away() -> None:
    line = mesh.line(settings(strategy="replicas", weight=0), None)
    # Stable's first: at 100 % it has none, and somebody has to answer.
    assert line == (
        "kubectl -n shop scale deployment web-stable --replicas=2"
        " && kubectl -n shop rollout status deployment web-stable"
        " && kubectl -n shop scale deployment web-canary --replicas=0"
    )


@pytest.mark.parametrize("weight", [5, 10, 25, 50, 100])
def test_after_a_direct_halt_any_weight_is_a_rise_and_refused(weight: int) -> None:
    old = record.adopted(entry(), notes()).route
    new = record.wanted("web", settings(weight=weight), old)
    assert (old.weight, old.halted) == (0, True)
    obstacle = weights.rejection("web:2", new.rejected)
    assert obstacle is not None
    assert weights.refusals(old, new, now=NOW, obstacles=[obstacle])
    assert not weights.refusals(entry().route, new, now=NOW) or weight != 25, "without it 25 would pass for no change"


def test_an_update_that_is_halted_adopts_it() -> None:
    old = record.adopted(entry(), notes()).route
    new = record.wanted("web", settings(weight=0, halted=True, rejected=["web:2"]), old)
    assert weights.refusals(old, new, now=NOW) == []
    told = record.notes(old, new, configured=0, now=NOW, cluster=None)
    assert (told["canary/halted"], told["canary/rejected"]) == ("true", "web:2")


@pytest.mark.parametrize("live", [{}, {"canary/halted": "false"}, {"canary/halted": "false", "canary/rejected": "x"}])
def test_a_route_that_nobody_halted_changes_nothing(live: dict[str, str]) -> None:
    assert record.adopted(entry(), live) == entry()


def test_the_line_goes_on_after_a_service_that_fails() -> None:
    services = {name: {"stable": {"image": f"{name}:1"}} for name in ("web", "api")}
    line = mesh.line(settings(services=services, weight=0), None)
    assert line.count("; kubectl ") == 1 and "&&" not in line


def test_a_stack_file_that_cannot_be_written_says_so_in_one_line() -> None:
    file = StackFile(Path("/proc/Pulumi.prod.yaml"), "config: {}\n")
    file.set("weight", 0)
    with pytest.raises(Stop, match="cannot be written"):
        file.save()
