"""What holds for every configuration: a thousand generated ones a run, and every fault by name."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pulumi
import pytest

from core import checks, record, routes, specs
from policies import weights
from tests import generate, program

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_every_rendered_route_is_complete() -> None:
    shares: Counter[int] = Counter()
    for seed, settings in generate.accepted():
        for name in settings.services:
            http = routes.virtual_service_spec(name, settings)["http"]
            names = [route["name"] for route in http]
            assert len(set(names)) == len(names), seed
            assert [route["name"] for route in http if not route.get("match")] == [names[-1]], f"{seed}: a way for all"
            for route in http:
                assert route["timeout"] != "0s", seed
                assert "attempts" in route["retries"], seed
                legs = [leg.get("weight", 100) for leg in route["route"]]
                assert sum(legs) == 100, seed
                told = [leg.get("headers", {}).get("response", {}).get("set", {}) for leg in route["route"]]
                wanted = [f"{route['name']}/{leg['destination']['subset']}" for leg in route["route"]]
                assert [one.get("x-canary-route") for one in told] == [
                    w if settings.route_header else None for w in wanted
                ]
                for match in route.get("match", []):
                    regexes = [one["regex"] for one in match.get("headers", {}).values() if "regex" in one]
                    assert all(len(one.encode()) <= 1024 for one in regexes), seed
            shares[http[-1]["route"][1]["weight"]] += 1
    assert {0, 1, 5, 50, 99, 100} <= shares.keys()


def test_what_istio_ignores_in_silence_is_never_rendered() -> None:
    """Of istio's list: gateways without mesh, subsets that no pod carries, a selector with a version, ports of tcp."""
    for seed, settings in generate.accepted():
        for name, service in settings.services.items():
            spec = routes.virtual_service_spec(name, settings)
            assert "mesh" in spec["gateways"], seed
            assert routes.service_host(name, settings.namespace) in spec["hosts"], seed
            subsets = routes.destination_rule_spec(name, settings.namespace)["subsets"]
            known = {subset["name"]: subset["labels"] for subset in subsets}
            whole = specs.service_spec(name, service)
            assert "version" not in whole["selector"], seed
            assert whole.get("clusterIP") is None, seed
            assert whole["ports"][0]["appProtocol"] in ("http", "grpc"), seed
            assert whole["ports"][0]["name"] == whole["ports"][0]["appProtocol"], seed
            for version, _ in service.tracks():
                labels = specs.labels(name) | {"version": version}
                assert (known[version] | whole["selector"]).items() <= labels.items(), seed
            for route in spec["http"]:
                for leg in route["route"]:
                    assert leg["destination"]["subset"] in known, seed
                for match in route.get("match", []):
                    assert set(match) <= {"headers", "queryParams", "uri", "method"}, seed
                    assert all(header == header.lower() for header in match.get("headers", {})), seed


def test_every_fault_is_refused_in_one_line_that_names_it() -> None:
    met = Counter[str]()
    for seed, raw, says in generate.faulty():
        with pytest.raises(checks.SettingsError) as caught:
            checks.parse(raw)
        assert [line.startswith(f"{says}: got ") for line in caught.value.lines] == [True], (seed, caught.value.lines)
        met[seed.partition(": ")[2]] += 1
    assert met.keys() == generate.FAULTS.keys()


@pytest.mark.parametrize("name", ["weight 101", "rule for everybody", "image missing"])
def test_a_fault_registers_nothing(name: str) -> None:
    """One of each place where a fault is found; all others raise from the same function."""
    raw = next(raw for seed, raw, _ in generate.faulty() if seed.endswith(f": {name}"))
    run = program.Run()
    with pytest.raises(pulumi.RunError, match=r"^canary:"):
        program.run({f"canary:{key}": value for key, value in raw.items()}, result=run)
    assert run.resources == []


def _recorded(name: str, settings: Any, since: datetime) -> weights.Route:
    notes = record.notes(None, record.wanted(name, settings), configured=settings.weight, now=since, cluster="")
    written = {"metadata": {"annotations": notes}, "spec": routes.virtual_service_spec(name, settings)}
    found = record.read(written, None)
    assert found is not None
    return found.route


REVERTS: list[dict[str, Any]] = [
    {"weight": 0},
    {"halted": True},
    {"weight": 0, "canary": None},
    {"weight": 0, "canary": {"image": 7, "colour": "red"}},
    {"halted": "true", "rules": "everybody", "hold": "because"},
    {"weight": 0, "steps": "all", "hold": "because"},
]
"""Ways down, some of them with what is broken besides."""


def test_every_revert_passes_from_every_recorded_state() -> None:
    reverted: Counter[int] = Counter()
    for number, (seed, before) in enumerate(generate.accepted()):
        raw, change = generate.valid(Random(seed)), REVERTS[number % len(REVERTS)]
        of_service = {key: value for key, value in change.items() if key in ("canary", "rules")}
        of_train = {key: value for key, value in change.items() if key not in of_service}
        services = {name: {**service, **of_service} for name, service in raw["services"].items()}
        after, _ = checks.parse({**raw, **of_train, "services": services})
        for name in raw["services"]:
            old = _recorded(name, before, NOW - timedelta(seconds=1))
            new = record.wanted(name, after)
            assert new.weight == 0, seed
            assert not weights.rises(old, new), seed
            assert weights.refusals(old, new, now=NOW, hold="frozen", canary_ready=False) == [], seed
            reverted[number % len(REVERTS)] += old.weight > 0
    assert min(reverted[number] for number in range(len(REVERTS))) > 50, "each way was taken from above 0"
