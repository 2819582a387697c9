"""A bad canary rings: rules as deployed in a real Prometheus, over the mesh's metrics, through a real Alertmanager."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core import alerts
from lab import load, monitoring, namespace
from lab.paths import LAB, ROOT
from lab.stack import Stack, inside
from tests.e2e import waiting
from tests.e2e.checkout import config_map
from tests.e2e.conftest import Rested

pytestmark = pytest.mark.lab

Json = dict[str, Any]
TOKEN = "a token of this test"
PORT = 9094
until = partial(waiting.until, within=360)
"""An alarm's rule waits two minutes, and a rate a while before."""


def http(method: str, url: str, **query: str) -> Any:
    """JSON of an answer, asked for inside the lab; None where it has no body."""
    ask = f"import httpx; a = httpx.request({method!r}, {url!r}, params={query!r}); a.raise_for_status(); print(a.text)"
    argv, environment = inside([sys.executable, "-c", ask])
    done = subprocess.run(argv, cwd=ROOT, env=environment, text=True, capture_output=True, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else None


def value(expr: str, **at: str) -> float:
    """Of the first series, now or `at` a `time`; 0 where there is none."""
    found = http("GET", f"{monitoring.PROMETHEUS_URL}/api/v1/query", query=expr, **at)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0


def reload() -> None:
    for url in (monitoring.PROMETHEUS_URL, monitoring.ALERTMANAGER_URL):
        http("POST", f"{url}/-/reload")


@contextmanager
def failing(stack: Stack, folder: Path) -> Iterator[Path]:
    """Two services with a canary that fails, watched by what the stack declared; the calls of the webhook, by line.

    Nobody has counted requests to them before: those of five minutes would hide the failures.
    """
    calls, token = folder / "told.jsonl", folder / "token"
    calls.touch()
    token.write_text(TOKEN)
    rule = {"name": "qa", "headers": {"x-canary": "true"}, "to": "canary"}
    canary = {"image": "sample-web:2.0", "replicas": 1, "env": {"FAIL_PERCENT": "100"}}
    loud = {"image": "sample-web:2.0-fail20"}
    stack.service("loud", stable={"image": "sample-web:1.0"}, canary=loud, hosts=["loud.lab.test"])
    stack.service("quiet", stable={"image": "sample-web:1.0"}, canary=canary, hosts=["quiet.lab.test"], rules=[rule])
    stack.edit(weight=5, alerts={"webhook": f"http://{namespace.NODE_IP}:{PORT}/webhook"})
    stack.up().check()
    rules, route = monitoring.RULES / "canary.yaml", LAB / "alertmanager.yml"
    former = route.read_text()
    rules.write_text(config_map("canary-alerts", "rules.yaml"))
    config = config_map("canary-alertmanager", "alertmanager.yaml")
    assert alerts.TOKEN_FILE in config
    route.write_text(config.replace(alerts.TOKEN_FILE, str(token)))
    argv, environment = inside([sys.executable, "-m", "tests.e2e.receiver", namespace.NODE_IP, str(PORT), str(calls)])
    receiver = subprocess.Popen(argv, cwd=ROOT, env=environment)
    try:
        reload()
        yield calls
    finally:
        receiver.terminate()
        receiver.wait(10)
        rules.unlink()
        route.write_text(former)
        reload()


@dataclass(frozen=True)
class Alarm:
    """What runs until it is closed, and what the webhook was told meanwhile."""

    running: ExitStack
    told: Path

    def calls(self, name: str) -> list[Json]:
        """Those for the alert of that name."""
        entries = [json.loads(line) for line in self.told.read_text().splitlines()]
        return [entry for entry in entries if entry["body"]["groupLabels"]["alertname"] == name]


@pytest.fixture(scope="session")
def alarm(deployed: Rested, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alarm]:
    """Under load, from the first test below to the second; conftest.py puts others between them."""
    deployed.rest()
    with ExitStack() as running:
        told = running.enter_context(failing(deployed, tmp_path_factory.mktemp("alarm")))
        running.enter_context(load.Steady("http://loud.lab.test", 50))
        yield Alarm(running, told)


QUIET = 'canary:failures:rate5m{service="quiet",track="canary"}'


def test_failures_of_a_quiet_service_are_recorded(alarm: Alarm) -> None:
    # Four failures: the first makes the series, the others raise it.
    failed = 'sum(istio_requests_total{destination_workload="quiet-canary",response_code="500"})'
    for sent in (1, 3):
        assert load.run("http://quiet.lab.test", sent, {"x-canary": "true"}).lost == sent
        until(lambda wanted=sent: value(failed) >= wanted, "a scrape")  # type: ignore[misc]
    until(lambda: value(QUIET) > 0, "a record of the quiet one")


def test_a_canary_that_fails_at_five_percent_calls_the_webhook_and_a_quiet_service_that_fails_does_not(
    alarm: Alarm,
) -> None:
    until(lambda: bool(alarm.calls("CanaryHighErrorRate")), "a call of the webhook")
    (call, *_) = alarm.calls("CanaryHighErrorRate")
    everything = http("GET", f"{monitoring.ALERTMANAGER_URL}/api/v2/alerts")
    alarm.running.close()  # what comes after this wants the stack
    assert (call["path"], call["authorization"]) == ("/webhook", f"Bearer {TOKEN}")
    (alert,) = call["body"]["alerts"]
    assert value(QUIET, time=alert["startsAt"]) > 0, "the quiet one had as long for it as the other"
    labels = {"stack": "lab", "service": "loud", "track": "canary", "namespace": "shop", "severity": "critical"}
    assert alert["labels"] == labels | {"alertname": "CanaryHighErrorRate"}
    share = float(alert["annotations"]["description"].partition("%")[0])
    assert 10 < share < 30, alert["annotations"]
    assert {one["labels"]["service"] for one in everything} == {"loud"}
