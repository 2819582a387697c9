"""Through the edge: who is canary's by address, late edge locations, and what happens when AWS fails.

Two edge nodes run the functions as published; `edge_late` learns of writes to the store when a test says so.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

import pytest
import yaml

from core import checks, edge, split
from core.evaluate import stamp
from core.model import Settings
from lab import aws, load, namespace
from lab import edge as nodes
from lab.load import Answer, Counts, viewers
from lab.paths import ROOT
from lab.stack import Stack, api, inside
from tests.e2e.conftest import STATE, Rested

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"
VIEWERS = viewers(5_000)
BLUE, GREEN = ("198.51.100.0/24", "2001:db8:b1::/48"), ("203.0.113.0/24", "2001:db8:9::/48")
WALK = (1, 5, 25, 50, 100)
SHARES = len(WALK) + 1
FOREVER = 100_000.0
"""Seconds by which the late node is late where it is to learn of nothing."""

SPOOFED = {"x-deployment": "green", "x-deployment-reason": "cidr", "x-canary": "true", "user-id": "1"}


def url(door: str) -> str:
    """EDGE, EDGE_LATE or GATEWAY."""
    return namespace.running().environment[f"{door}_URL"]


def as_viewers(addresses: Sequence[str], door: str = "EDGE", **headers: str) -> list[Answer]:
    """One request of each, through an edge node that has what was stored last."""
    nodes.settle()
    return load.each(url(door), [{nodes.VIEWER: address, **headers} for address in addresses])


def tracks(answers: Sequence[Answer]) -> list[str]:
    """Who served each; nothing may be lost."""
    assert [answer.why for answer in answers if answer.outcome == "lost"] == []
    return [answer.outcome for answer in answers]


def told(node: str = "edge") -> list[str]:
    """`arm reason generation` of the access log, by request."""
    lines = (nodes.FOLDER / node / "access.jsonl").read_text().splitlines(keepends=True)
    return [str(json.loads(line)["data"]) for line in lines if line.endswith("\n")]


def members(networks: Sequence[str], count: int) -> list[str]:
    """Addresses spread over each network, its first and last among them."""
    found = []
    for network in map(ip_network, networks):
        last = network.num_addresses - 1
        found += [str(network[last * place // (count - 1)]) for place in range(count)]
    return found


def wanted(stack: Stack) -> Settings:
    """The settings of the stack file, for the evaluator; the secret is none."""
    data = yaml.safe_load(stack.file.read_text())["config"] | {"canary:originSecret": "not-the-secret-of-it"}
    return checks.parse(checks.raw(data, "canary"))[0]


def ladder(*steps: int) -> list[dict[str, Any]]:
    """The value of `canary:steps` without holds."""
    return [{"weight": weight, "hold": "0s"} for weight in steps]


def share() -> int:
    """Canary's weight in the live route."""
    weight: int = api("GET", ROUTE)["spec"]["http"][-1]["route"][1]["weight"]
    return weight


def green() -> int:
    """Buckets that the node `edge` sends to canary now."""
    nodes.settle()
    (store,) = (nodes.FOLDER / "edge").glob("*/store.json")
    return int(json.loads(json.loads(store.read_text())["green_percentage"])["buckets"])


@pytest.fixture(scope="module")
def public(deployed: Rested) -> Iterator[Stack]:
    """The checkout's stack file, edge included, with a short ladder; both nodes are current."""
    deployed.reset(edge=True)
    deployed.edit(steps=ladder(25, 50, 100))
    if deployed.up().code:
        deployed.destroy().check()
        deployed.up().check()
    nodes.set_lag(0)
    yield deployed
    aws.faults()
    nodes.set_lag(60)


# --- shares, cohorts, spoofing ---


def test_the_share_of_viewers_is_the_weight_and_who_has_canary_keeps_it_as_the_weight_rises(public: Stack) -> None:
    public.service(canary={"image": "sample-web:2.0"})
    public.edit(steps=ladder(*WALK))
    blues, greens, before = members(BLUE, 50), members(GREEN, 50), set[str]()
    for weight in (0, *WALK):
        public.edit(weight=weight)
        update = public.up().check()
        if weight:
            assert "~ 2 updated" in update.text
            changed = re.findall(r"^ [^ ] +\S+ (\S+) updated \(", update.text, re.MULTILINE)
            assert changed == ["web-vs", "edge-keys"], "the route, then the keys, and nothing else"
        served = tracks(as_viewers(VIEWERS + blues + greens))
        canary = {viewer for viewer, track in zip(VIEWERS, served, strict=False) if track == "canary"}
        print(f"{weight} %: {100 * len(canary) / len(VIEWERS):.2f} % of {len(VIEWERS)} viewers")
        assert split.accepts(len(canary), len(VIEWERS), weight / 100, 0.001 / SHARES), (weight, len(canary))
        settings = wanted(public)
        assert canary == {one for one in VIEWERS if stamp(settings, one, {}).arm == "green"}, "as the evaluator says"
        assert served[len(VIEWERS) :] == ["stable"] * len(blues) + ["canary"] * len(greens)
        assert before <= canary, "nobody is sent back by a rise"
        before = canary
        if weight == 5:
            all_buckets(settings)
            nobody_chooses(canary)
    assert len(before) == len(VIEWERS)


def all_buckets(settings: Settings) -> None:
    """Of 10,000 cookies exactly those below the weight, and after the next rise those too: it only adds some."""
    cookies = [{"cookie": f"a=b; {edge.COOKIE}={bucket}"} for bucket in range(edge.BUCKETS)]
    nodes.settle()
    served = tracks(load.each(url("EDGE"), cookies))
    first = (-edge.salt(settings)) % edge.BUCKETS
    assert {bucket for bucket, track in enumerate(served) if track == "canary"} == {
        (first + number) % edge.BUCKETS for number in range(500)
    }


def nobody_chooses(canary: set[str]) -> None:
    """1,000 viewers with stamps and rule headers of their own get what they get without; the gateway takes nobody."""
    some = VIEWERS[-1_000:]
    expected = ["canary" if one in canary else "stable" for one in some]
    assert 20 < expected.count("canary") < 100
    assert tracks(as_viewers(some, **SPOOFED)) == expected
    assert load.run(url("GATEWAY"), 1_000, SPOOFED, secret=False) == Counts(refused=1_000)
    guess = SPOOFED | {"x-origin-secret": "a-guess-of-the-secret"}
    assert load.run(url("GATEWAY"), 100, guess, secret=False) == Counts(refused=100)


# --- late edge locations ---


def test_a_promotion_loses_nothing_at_an_edge_that_does_not_hear_of_it_and_its_stamps_lead_to_stable(
    public: Stack,
) -> None:
    if share() != 100:  # else it goes on from the test before
        public.service(canary={"image": "sample-web:2.0"})
        for weight in (25, 50, 100):
            public.edit(weight=weight)
            public.up().check()
        nodes.set_lag(0)
    nodes.set_lag(FOREVER)
    public.service(stable={"image": "sample-web:2.0"}, canary=None)
    public.edit(weight=0, steps=ladder(25, 50, 100))
    with load.Steady(url("EDGE"), 100, viewers=500) as current, load.Steady(url("EDGE_LATE"), 100, viewers=500) as late:
        public.up().check()
    for steady in (current, late):
        counts = steady.counts()
        assert (counts.lost, counts.refused) == (0, 0), steady.lost()
        assert counts.canary, "canary served until the route moved"
        assert counts.stable, "and stable afterwards"
    before = len(told("edge_late"))
    assert load.run(url("EDGE_LATE"), 500, viewers=500) == Counts(stable=500)
    assert {line.rpartition(" ")[0] for line in told("edge_late")[before:]} == {"green bucket"}, "there is no canary"


def test_after_a_revert_nobody_reaches_canary_by_percentage_though_a_late_edge_still_says_so(public: Stack) -> None:
    public.service(canary={"image": "sample-web:3.0"})
    public.edit(weight=25)
    public.up().check()
    nodes.set_lag(0)
    nodes.set_lag(FOREVER)
    late = url("EDGE_LATE")
    before = load.run(late, 1_000, viewers=1_000)
    assert split.accepts(before.canary, 1_000, 0.25, 0.0001), before
    public.edit(weight=0)
    with load.Steady(late, 200, viewers=1_000) as steady:
        public.up().check()
        ended = time.time()
        logged = len(told("edge_late"))
        after = load.run(late, 2_000, viewers=1_000)
    assert after == Counts(stable=2_000)
    assert [one for one in steady.answers() if one.at > ended and one.version == "canary"] == []
    assert (steady.counts().lost, steady.counts().refused) == (0, 0), steady.lost()
    stamps = [line.rpartition(" ")[0] for line in told("edge_late")[logged:]]
    assert stamps.count("green bucket") > 300, "that edge has not heard of it"
    assert set(tracks(as_viewers(members(GREEN, 20), "EDGE_LATE"))) == {"canary"}, "who is named stays"
    nodes.set_lag(0)


# --- faults ---


@pytest.fixture
def rolling(public: Stack) -> Stack:
    """Canary at 25 %, in the route and in the store; by no update where the test before left it so."""
    aws.faults()
    public.service(canary={"image": "sample-web:3.0"})
    public.edit(weight=25)
    if (share(), green()) != (25, 2_500):
        public.up().check()
    assert (share(), green()) == (25, 2_500)
    return public


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "permission": (
        {"code": "AccessDeniedException", "status": 403, "message": "not authorized to perform UpdateKeys"},
        "not authorized to perform UpdateKeys",
    ),
    "throttled": ({"code": "ThrottlingException", "status": 429, "message": "Rate exceeded"}, "Rate exceeded"),
    "stale ETag": ({"overtaken": True}, "Pre-Condition failed"),
    "not READY": ({"provisioning": True, "operation": "DescribeKeyValueStore"}, "not READY"),
}


def test_a_refused_write_of_the_store_fails_the_update_with_the_reason_and_running_again_converges(
    rolling: Stack,
) -> None:
    rolling.edit(weight=50)
    with load.Steady(url("EDGE"), 50, viewers=500) as steady:
        for name, (fault, reason) in REFUSALS.items():
            aws.faults({"operation": "UpdateKeys", "times": 20, **fault})
            failed = rolling.up()
            assert failed.code != 0, name
            assert reason in failed.text, (name, failed.text)
            assert (share(), green()) == (50, 2_500), f"{name}: the route is there, the edge waits"
        assert rolling.outputs()["edge"]["buckets"] == 2_500, "a failed update does not make the outputs lie"
        aws.faults()
        rolling.up().check()
        assert (share(), green()) == (50, 5_000)
        rolling.edit(weight=0)
        aws.faults({"operation": "UpdateKeys", "times": 20, **REFUSALS["permission"][0]})
        assert rolling.up().code != 0
        reverted = time.time()
        assert (share(), green()) == (0, 5_000), "the route came first"
        assert load.run(url("EDGE"), 1_000, viewers=1_000) == Counts(stable=1_000)
        aws.faults()
        rolling.up().check()
        assert (share(), green()) == (0, 0)
    assert (steady.counts().lost, steady.counts().refused) == (0, 0), steady.lost()
    assert [one for one in steady.answers() if one.at > reverted and one.version == "canary"] == []


def test_a_refused_function_leaves_the_published_one_at_work_and_running_again_converges(rolling: Stack) -> None:
    refusals: dict[str, dict[str, Any]] = {
        "UpdateFunction": {"code": "FunctionSizeLimitExceeded", "status": 413, "message": "The function is too large"},
        "PublishFunction": {"code": "InternalError", "status": 500, "message": "Publishing went wrong"},
    }
    rules = yaml.safe_load(rolling.file.read_text())["config"]["canary:services"]["web"]["rules"]
    beta = {"x-beta": "1"}
    rolling.service(rules=[*rules, {"name": "beta", "headers": beta}])
    viewer = next(one for one in VIEWERS if stamp(wanted(rolling), one, {}).arm == "blue")
    with load.Steady(url("EDGE"), 50, viewers=500) as steady:
        for operation, fault in refusals.items():
            aws.faults({"operation": operation, "times": 20, **fault})
            failed = rolling.up()
            assert failed.code != 0, operation
            assert fault["message"] in failed.text, (operation, failed.text)
            assert green() == 2_500
            assert tracks(as_viewers([viewer])) == ["stable"]
        aws.faults()
        rolling.up("--refresh").check()  # without, the provider takes the new code for written
        assert tracks(as_viewers([viewer], **beta)) == ["stable"], "the new function takes the new header away"
    assert (steady.counts().lost, steady.counts().refused) == (0, 0), steady.lost()
    assert rolling.planned() == {}


def test_garbage_in_the_store_and_no_store_at_all_are_blue_and_the_next_update_mends_them(rolling: Stack) -> None:
    outputs = {one["urn"].rpartition("::")[2]: one.get("outputs", {}) for one in rolling.resources()}
    arn, function = outputs["edge-store"]["arn"], outputs["edge-viewer-request"]["name"]
    with load.Steady(url("EDGE"), 50, viewers=500) as steady:
        control(f"kvs.put_key(KvsARN={arn!r}, Key='green_percentage', Value='garbage', IfMatch=etag({arn!r}))")
        assert set(tracks(as_viewers(members(GREEN, 5) + VIEWERS[:200]))) == {"stable"}
        assert told()[-1] == "blue error "
        rolling.edit(weight=50)
        rolling.up().check()
        assert (share(), green()) == (50, 5_000), "each update writes all keys that differ"
        control(f"take_from({function!r})\ndelete({arn!r})")
        assert set(tracks(as_viewers(members(GREEN, 5) + VIEWERS[:200]))) == {"stable"}
        rolling.edit(weight=25)
        failed = rolling.up()
        assert failed.code != 0
        assert "the store is not there" in failed.text, failed.text
        assert share() == 25, "the route came first"
        rolling.refresh().check()
        rolling.up().check()
        assert (share(), green()) == (25, 2_500)
    assert (steady.counts().lost, steady.counts().refused) == (0, 0), steady.lost()


def control(line: str) -> None:
    """Calls to AWS by other hands."""
    program = f"""
import boto3
from botocore.config import Config
cf, kvs = boto3.client("cloudfront"), boto3.client("cloudfront-keyvaluestore")
def etag(arn): return kvs.describe_key_value_store(KvsARN=arn)["ETag"]
def take_from(name):  # a store that a function reads cannot be deleted
    had = cf.get_function(Name=name, Stage="DEVELOPMENT")
    config = dict(Comment="", Runtime="cloudfront-js-2.0")
    new = cf.update_function(
        Name=name, IfMatch=had["ETag"], FunctionConfig=config, FunctionCode=had["FunctionCode"].read()
    )
    cf.publish_function(Name=name, IfMatch=new["ETag"])
def delete(arn):
    name = arn.rpartition("/")[2]
    cf.delete_key_value_store(Name=name, IfMatch=cf.describe_key_value_store(Name=name)["ETag"])
{line}
"""
    argv, environment = inside([str(ROOT / ".venv/bin/python"), "-c", program])
    subprocess.run(argv, env=environment, check=True, timeout=60)


def writing(name: str) -> bool:
    """Whether an update has begun to write that resource, by the state."""
    try:
        pending = json.loads(STATE.read_text())["checkpoint"]["latest"].get("pending_operations", [])
    except (FileNotFoundError, json.JSONDecodeError):
        return False  # it is being written
    return any(one["resource"]["urn"].endswith(f"::{name}") for one in pending)


def test_an_update_that_is_killed_between_mesh_and_edge_is_finished_by_the_next(rolling: Stack) -> None:
    rolling.edit(weight=50)
    words = ["pulumi", "up", "--yes", "--skip-preview", "--stack", "lab", "--config-file", str(rolling.file)]
    argv, environment = inside(words)
    aws.faults({"operation": "UpdateKeys", "times": 20, "seconds": 30, **REFUSALS["throttled"][0]})
    with load.Steady(url("EDGE"), 50, viewers=500) as steady:
        update = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not writing("edge-keys"):  # the engine waits: not while it writes the state, which a kill would cut off
            assert update.poll() is None, "the update ended before it was killed"
            time.sleep(0.05)
        os.killpg(update.pid, signal.SIGKILL)
        update.wait()
        aws.faults()
        assert (share(), green()) == (50, 2_500)
        rolling.run("cancel", "--yes").check()
        rolling.up().check()
        assert (share(), green()) == (50, 5_000)
    assert (steady.counts().lost, steady.counts().refused) == (0, 0), steady.lost()
    assert rolling.planned() == {}
