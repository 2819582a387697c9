"""The judge over the mesh's own metrics in a real Prometheus: every request once, and the same answer twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab import load, monitoring, namespace
from lab.paths import ROOT
from lab.stack import Stack, inside
from tests.e2e.test_alerts import value
from tests.e2e.waiting import until

pytestmark = pytest.mark.lab

IMAGES = {"web": {"stable": "sample-web:1.0", "canary": "sample-web:2.0-fail50"}}
ASK = """
import json, sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from core import checks
from core.timeline import Update
from rollout import judge, stackfile
path, prometheus, began, at, images = json.loads(sys.argv[1])
settings, _ = checks.parse(stackfile.load(Path(path)).settings_raw | {"gate": {"prometheus": prometheus}})
moment = datetime.fromisoformat(began)
update = Update(version=1, began=moment, ended=None, result="succeeded", weight=5, halted=False, images=images)
print(json.dumps(asdict(judge.verdict(settings, [update], datetime.fromisoformat(at)))))
"""


def verdict(stack: Stack, began: datetime, at: datetime, prometheus: str = monitoring.PROMETHEUS_URL) -> dict[str, Any]:
    told = json.dumps([str(stack.file), prometheus, began.isoformat(), at.isoformat(), IMAGES])
    argv, environment = inside([sys.executable, "-c", ASK, told])
    done = subprocess.run(argv, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def counted(found: Mapping[str, Any]) -> tuple[int, int]:
    """(requests of canary, of stable) in a verdict; a count is [requests, failures, slow]."""
    tally = found["tallies"]["web"]
    return tally["canary"][0] + tally["cold"][0], tally["stable"][0]


def now() -> datetime:
    return datetime.now(UTC)


def test_a_canary_that_fails_is_found_by_counting_each_request_once_and_a_replay_finds_the_same(stack: Stack) -> None:
    # A door that has served before; what it counted by then is not this canary's.
    gateway = namespace.running().environment["GATEWAY_URL"]
    counter, served = 'sum(istio_requests_total{destination_workload="web-stable"})', 20
    earlier = value(counter)
    assert load.run(gateway, served).stable == served
    until(lambda: value(counter) == earlier + served, "a scrape", within=360)
    stack.service(canary={"image": IMAGES["web"]["canary"]})
    stack.edit(weight=5)
    began = now()
    stack.up().check()
    before = verdict(stack, began, now())
    assert before["kind"] == "hold", before
    with load.Steady(gateway, 100) as steady:
        deadline = time.monotonic() + 75
        while (found := verdict(stack, began, at := now()))["kind"] == "hold":
            assert time.monotonic() < deadline, found
            time.sleep(2)
    assert (found["kind"], found["peak"] >= found["limit"]) == ("rollback", True), found
    assert found["reason"].startswith("web: canary failed "), found["reason"]
    # The last answers are stored with the next scrape, which a verdict waits for.
    answers = [answer for answer in steady.answers() if answer.status]
    sent = sum(answer.version == "canary" for answer in answers), sum(answer.version == "stable" for answer in answers)
    assert min(sent) > 0
    deadline = time.monotonic() + 30
    while counted(last := verdict(stack, began, now())) != sent:
        assert time.monotonic() < deadline, (counted(last), sent)
        time.sleep(2)
    again = verdict(stack, began, at)
    assert again == found, "the past was judged in another way"
    assert verdict(stack, began, began + timedelta(seconds=1))["kind"] == "hold"


def test_a_prometheus_that_refuses_holds_with_the_reason(stack: Stack) -> None:
    found = verdict(stack, now() - timedelta(minutes=1), now(), f"http://{namespace.NODE_IP}:1")
    assert found["kind"] == "hold"
    assert found["reason"].startswith(f"Prometheus at http://{namespace.NODE_IP}:1 cannot be read")
