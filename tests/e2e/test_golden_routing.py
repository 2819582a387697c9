"""Every probe of every recorded case, through a real Envoy configured by the translation, against what
istiod's Envoy did.

Deterministic probes must be answered exactly as recorded; weighted ones within a binomial interval of the configured
share, with a family-wise error of 0.1 % over all weighted checks. `GOLDEN_DIR` adds another folder of cases.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core import split
from lab.mesh.translate import gateway_config, node_config
from lab.mesh.xds import static_bootstrap
from lab.proxy import envoy_command
from tests import generate
from tests.golden_routes import generated
from tests.golden_routes.cases import CASES, Case, compact_cases, folder_cases, shared_folder
from tests.golden_routes.oracle import Shares, expected
from tests.golden_routes.replay import both_doors
from tests.golden_routes.world import GATEWAY_LABELS, GATEWAY_NAMESPACE, recorded_world

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
FAMILY_ERROR = 0.001


def _cases() -> dict[str, Case]:
    """Our own facts for the known names; cases of $GOLDEN_DIR are taken from there, all of them."""
    given = shared_folder() if os.environ.get("GOLDEN_DIR") else None
    return {**compact_cases(), **(folder_cases(given) if given else {})}


ALL = _cases()


def weighted(shares: Shares) -> bool:
    return len(shares) > 1 and not any(math.isnan(s) for s in shares.values())


def run_alone(module: str, work: Path) -> dict[str, Any]:
    """The results of a module that runs by itself in a private network namespace."""
    alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-Urn"]
    command = [*alone, sys.executable, "-m", f"tests.golden_routes.{module}", str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    log = work / "envoy.log"
    tail = log.read_text()[-3000:] if log.exists() else ""
    assert done.returncode == 0, f"{module} failed:\n{done.stdout}{done.stderr}\n{tail}"
    results: dict[str, Any] = json.loads((work / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("golden")
    (work / "cases.json").write_text(
        json.dumps({n: {"manifests": c.manifests, "probes": c.probes} for n, c in ALL.items()})
    )
    results = run_alone("replay", work)
    rate = results["requests"] / results["seconds"]
    print(f"\ngolden replay: {results['requests']} requests in {results['seconds']:.1f} s ({rate:.0f}/s)")
    return results


@functools.cache
def error() -> float:
    doors = ("gateway", "waypoint")
    checks = sum(
        len(s) for c in ALL.values() for p in c.probes for d in doors if weighted(s := expected(c.manifests, p, door=d))
    )
    return FAMILY_ERROR / max(1, checks)


def assert_shares(served: dict[str, int], shares: Shares, where: str) -> None:
    total = sum(served.values())
    assert set(served) <= set(shares), f"{where}: answered by {served}, only {shares} may answer"
    for answer, share in shares.items():
        if not math.isnan(share):
            count = served.get(answer, 0)
            assert split.accepts(count, total, share, error()), (
                f"{where}: {answer} answered {count} of {total}, not {share:.1%}"
            )


def test_no_case_is_left_out(replayed: dict[str, Any]) -> None:
    assert set(CASES) <= set(ALL), f"missing: {sorted(set(CASES) - set(ALL))}"
    assert sorted(replayed["cases"]) == sorted(ALL)
    for name, case in ALL.items():
        assert sorted(replayed["cases"][name]["gateway"]) == sorted(p["probe"] for p in case.probes)


@pytest.mark.parametrize("name", sorted(ALL))
def test_gateway_answers_as_recorded(name: str, replayed: dict[str, Any]) -> None:
    case = ALL[name]
    for probe in case.probes:
        where = f"{name}/{probe['probe']}"
        shares = expected(case.manifests, probe)
        got = replayed["cases"][name]["gateway"][probe["probe"]]
        assert sum(got["served_by"].values()) == probe["requests"]
        assert_shares(probe["served_by"], shares, f"{where} as recorded")
        assert_shares(got["served_by"], shares, where)
        if not weighted(shares):
            assert got["served_by"] == probe["served_by"], where
        recorded = dict(probe.get("response") or {})
        if len(probe["served_by"]) > 1 and "503" in probe["served_by"]:
            continue  # which of the two kinds of answer came first is chance
        if "x-version" in recorded:
            recorded["x-version"] = got["version"]
        assert got["response"].items() >= recorded.items(), where
        assert got["seen"] == (probe.get("seen") or {}), where


@pytest.mark.parametrize("name", sorted(ALL))
def test_waypoint_splits_as_configured(name: str, replayed: dict[str, Any]) -> None:
    case = ALL[name]
    for probe in case.probes:
        got = replayed["cases"][name]["waypoint"][probe["probe"]]
        mesh = probe | {"headers": {**probe["headers"], "host": "web.shop.svc.cluster.local"}}
        assert_shares(
            got["served_by"], expected(case.manifests, mesh, door="waypoint"), f"{name}/{probe['probe']} at waypoint"
        )


def test_mirror_reaches_the_canary(replayed: dict[str, Any]) -> None:
    sent = sum(p["requests"] for p in ALL["mirror"].probes if p["probe"] != "other-host")
    assert split.accepts(replayed["cases"]["mirror"]["canary_reached"], sent, 0.10, FAMILY_ERROR)


@pytest.mark.parametrize("name", sorted(ALL))
def test_envoy_validates_what_is_generated(name: str, tmp_path: Path) -> None:
    world = recorded_world(ALL[name].manifests)
    gateway, _ = gateway_config(world, GATEWAY_NAMESPACE, GATEWAY_LABELS, "/dev/null")
    for part, config in (
        ("doors", both_doors(ALL[name].manifests)),
        ("gateway", gateway),
        ("node", node_config(world, set())),
    ):
        path = tmp_path / f"{part}.json"
        path.write_text(json.dumps(static_bootstrap(config)))
        if part == "doors" or name == CASES[0]:
            command = [*envoy_command(path), "--mode", "validate"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


def test_evaluator_and_envoy_agree_on_generated_requests_to_a_thousand_generated_routes(tmp_path: Path) -> None:
    found = run_alone("generated", tmp_path)
    assert found["differ"] == []
    assert found["configurations"] == generate.COUNT
    layers = ("rule", "weight", "stamp", "cidr", "absent", "halted", "door")
    assert min(found["layers"].get(f"gateway {layer}", 0) for layer in layers) >= 50, found["layers"]
    assert min(found["layers"].get(f"mesh {layer}", 0) for layer in layers[:3]) >= 50, found["layers"]
    draws = found["draws"]
    assert len(draws) >= 10
    for draw in draws:
        assert split.accepts(draw["canary"], generated.DRAWS, draw["share"], FAMILY_ERROR / len(draws)), draw
