"""Shares at both doors, nothing lost, one changed resource a step, a stack that agrees with itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from core import split
from lab import load, namespace
from lab.paths import ROOT
from lab.stack import Stack, api, inside

pytestmark = pytest.mark.lab

REQUESTS = 2000
CHECKS = 20  # at most so many shares are judged here: together they fail a healthy lab once in a thousand runs


def doors() -> dict[str, str]:
    environment = namespace.running().environment
    return {"gateway": environment["GATEWAY_URL"], "mesh": environment["MESH_URL"]}


def assert_share(percent: int, headers: dict[str, str] | None = None, requests: int = REQUESTS) -> None:
    for door, url in doors().items():
        found = load.run(url, requests, headers)
        assert (found.lost, found.refused) == (0, 0), door
        assert split.accepts(found.canary, found.served, percent / 100, 0.001 / CHECKS), (door, percent, found)


def test_rules_and_stamps_decide_before_the_weight(at_five: Stack) -> None:
    assert_share(100, {"x-canary": "true"}, 200)
    assert_share(100, {"user-id": "3"}, 200)
    assert_share(5, {"user-id": "33"})
    assert_share(100, {"x-deployment": "green"}, 200)
    assert_share(0, {"x-deployment": "blue"}, 200)
    assert_share(0, {"x-deployment": "purple"}, 200)
    assert_share(0, {"x-deployment": "blue", "x-deployment-reason": "cidr", "x-canary": "true"}, 200)


def test_at_weight_zero_cohorts_still_reach_canary_and_late_stamps_do_not(stack: Stack) -> None:
    stack.service(canary={"image": "sample-web:2.0"})
    stack.up().check()
    assert_share(0)
    assert_share(100, {"x-canary": "true"}, 200)
    assert_share(100, {"x-deployment": "green", "x-deployment-reason": "cidr"}, 200)
    assert_share(0, {"x-deployment": "green", "x-deployment-reason": "bucket"}, 200)


def test_a_weight_step_previews_as_one_changed_resource(at_five: Stack) -> None:
    at_five.edit(weight=10)
    assert at_five.planned() == {"update": ["web-vs"]}


def test_a_second_update_changes_nothing_and_a_refresh_finds_no_drift(at_five: Stack) -> None:
    assert at_five.planned() == {}
    assert at_five.refresh("--expect-no-changes").code == 0
    assert at_five.up("--expect-no-changes").code == 0


def test_outputs_tell_of_the_written_route(at_five: Stack) -> None:
    told = at_five.outputs()
    assert (told["weight"], told["effectiveWeight"], told["phase"]) == (5, 5, "rolling")
    assert told["gatewayUrl"] == "http://shop.lab.test"
    assert told["services"]["web"]["canary"] == "sample-web:2.0"
    at_five.edit(weight=100)
    assert at_five.up().code != 0
    assert at_five.outputs()["weight"] == 5, "a refused update does not make the outputs lie"


def test_prometheus_holds_what_ambient_reports_of_each_track_at_each_door(at_five: Stack) -> None:
    for url in doors().values():
        load.run(url, 400)
    wanted = {("source", "stable"), ("source", "canary"), ("waypoint", "stable"), ("waypoint", "canary")}
    query = 'sum by (reporter, destination_version) (istio_requests_total{destination_service_name="web"})'
    url = f"{namespace.running().environment['PROMETHEUS_URL']}/api/v1/query"
    ask = f"import httpx; print(httpx.get({url!r}, params={{'query': {query!r}}}).text)"
    found: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 30  # a scrape comes every 5 s
    while not wanted <= found and time.monotonic() < deadline:
        argv, environment = inside([sys.executable, "-c", ask])
        answer = subprocess.run(argv, env=environment, text=True, capture_output=True, check=True).stdout
        series = [item["metric"] for item in json.loads(answer)["data"]["result"]]
        found = {(one.get("reporter", ""), one.get("destination_version", "")) for one in series}
        time.sleep(1)
    assert wanted <= found
    assert not any(reporter == "destination" for reporter, _ in found), "ambient has no such series"


def test_destroy_leaves_an_empty_cluster_and_up_works_again(stack: Stack) -> None:
    stack.destroy().check()
    spaces = {item["metadata"]["name"] for item in api("GET", "/api/v1/namespaces")["items"]}
    assert spaces == {"default", "kube-node-lease", "kube-public", "kube-system"}
    assert api("GET", "/api/v1/pods")["items"] == []
    stack.up().check()
    assert_share(0, requests=200)


def test_parts_tell_what_is_real() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab", "parts", "--json"], cwd=ROOT, text=True, capture_output=True, check=True
    )
    parts = {part["name"]: part for part in json.loads(done.stdout)}
    assert all(part.keys() == {"name", "real", "version", "path", "why"} for part in parts.values())
    for name in ("pulumi", "etcd", "kube-apiserver", "kube-controller-manager", "envoy"):
        assert parts[name]["real"] is True, "these are built or installed everywhere"
    assert parts["ztunnel"]["real"] is False
