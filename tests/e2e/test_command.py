"""`rollout run` and `rollout watch`: a good version is promoted, bad ones go back by themselves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from core import alerts
from lab import load, namespace
from lab.stack import Stack, api
from tests.e2e import waiting
from tests.e2e.checkout import PORT, Checkout, ask, git, watched

pytestmark = pytest.mark.lab

RATE = 100
until = partial(waiting.until, within=300)


@pytest.fixture
def checkout(stack: Stack, tmp_path: Path) -> Checkout:
    """At rest, committed and pushed; images here were never rolled back."""
    webhook = f"http://{namespace.NODE_IP}:{PORT}/webhook"
    stack.edit(
        gate={"prometheus": namespace.running().environment["PROMETHEUS_URL"], "errorRate": "5%"},
        alerts={"webhook": webhook},
    )
    (tmp_path / "operator").mkdir()
    return Checkout.first(tmp_path / "operator", stack.file)


def image(*words: str) -> str:
    """A version of the sample app that nobody has seen before."""
    return "-".join([f"sample-web:7.{time.time_ns()}", *words])


def url() -> str:
    return namespace.running().environment["GATEWAY_URL"]


def test_a_good_version_is_started_climbs_and_is_promoted_and_git_has_every_rung(checkout: Checkout) -> None:
    good = image()
    with load.Steady(url(), RATE) as steady:
        started = checkout.rollout("start", "web", good, "--git")
        assert started.code == 0, started.text
        done = checkout.rollout("run", "--interval", "2", "--git", "--for", "900")
        lost = steady.lost()
    assert done.code == 0, done.text
    assert not lost
    told = checkout.outputs()
    assert (told["phase"], told["weight"], told["services"]["web"]["stable"]) == ("stable", 0, good)
    remote = checkout.project.with_name("remote.git")
    titles = git(remote, "log", "--format=%s", "main").splitlines()
    assert [title.split(": ")[1] for title in titles if title.startswith("rollout: ")] == [
        "promote",
        *["advance"] * 4,
        "start",
    ]
    assert git(checkout.project, "status", "--porcelain", "--untracked-files=no") == "", (
        "Git agrees with what is deployed"
    )
    history = json.loads(checkout.rollout("history", "--json").out)
    mine = [one for one in history if one["said"].get("verdict") in ("start", "advance", "promote")][-6:]
    assert [one["weight"] for one in mine] == [5, 10, 25, 50, 100, 0]
    assert checkout.rollout("advance").code == 2, "nothing is left to do"


def test_a_version_that_fails_is_rolled_back_by_the_judge_with_its_reason(checkout: Checkout) -> None:
    bad = image("fail60")
    with load.Steady(url(), RATE):
        assert checkout.rollout("start", "web", bad).code == 0
        done = checkout.rollout("run", "--interval", "1", "--for", "900")
    assert done.code == 3, done.text
    told = checkout.outputs()
    assert (told["phase"], told["weight"]) == ("halted", 0)
    assert bad in told["rejected"]
    last = json.loads(checkout.rollout("history", "--json").out)[-1]
    assert (last["said"]["verdict"], last["said"]["by"]) == ("rollback", "judge")
    assert "failed" in last["said"]["reason"]
    page = checkout.project / "evidence.html"
    assert checkout.rollout("history", "--html", str(page)).code == 0
    assert 'class="curve evidence"' in page.read_text() and "rolled back at 5" in page.read_text()
    refused = checkout.rollout("start", "web", bad)
    assert refused.code == 5, refused.text
    assert "was rolled back" in refused.text


def test_without_metrics_nothing_rises_and_nothing_goes_back(checkout: Checkout) -> None:
    checkout.edit(gate={"prometheus": f"http://{namespace.NODE_IP}:1"})
    assert checkout.rollout("start", "web", image()).code == 0
    done = checkout.rollout("advance")
    assert done.code == 5
    assert "Prometheus" in done.text
    run = checkout.start("run", "--interval", "1")
    assert run.stdout is not None and "hold" in run.stdout.readline()
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert (run.returncode, "canary stays where it is" in out) == (1, True), out
    assert checkout.outputs()["weight"] == 5


def test_an_interrupted_update_says_what_it_left(checkout: Checkout) -> None:
    before = checkout.file.read_text()
    start = checkout.start("start", "web", image("unready"))
    deployments = "/apis/apps/v1/namespaces/shop/deployments"
    until(
        lambda: "web-canary" in [one["metadata"]["name"] for one in api("GET", deployments)["items"]], "canary's pods"
    )
    start.send_signal(signal.SIGINT)
    _, err = start.communicate(timeout=60)
    assert start.returncode == 1, err
    assert "interrupted" in err and "canary stays at 0 %, and the stack file is as before" in err
    assert (checkout.file.read_text(), checkout.status()["live"]) == (before, {"web": 0})


def test_an_alert_of_a_real_prometheus_through_a_real_alertmanager_takes_canary_back(
    checkout: Checkout, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    # A service of its own: rates look back five minutes, and other tests have had failing canaries.
    tracks = {"stable": {"image": "sample-web:1.0"}, "canary": {"image": image("fail20")}}
    checkout.service("fresh", **tracks, hosts=["fresh.lab.test"])
    checkout.edit(weight=5)
    checkout.up().check()
    # The two minutes for which an alert waits are the only thing that is taken away.
    with watched(checkout, tmp_path, hold="0s"):
        with load.Steady("http://fresh.lab.test", RATE) as steady:
            until(lambda: checkout.outputs()["phase"] == "halted", "a rollback by alert")
            time.sleep(2)
            answers = steady.answers()
        remote = checkout.project.with_name("remote.git")
        until(lambda: "rollback" in git(remote, "log", "-1", "--format=%s", "main"), "a push")
        exported = f"http://{namespace.NODE_IP}:{PORT}/metrics"
        # The state is read again after the push.
        until(lambda: 'canary_weight{service="fresh",stack="lab"} 0.0' in ask(exported), "the recorded weight")
        metrics = ask(exported)
    canary = [one.at for one in answers if one.version == "canary"]
    after = [one for one in answers if one.at > canary[-1]]
    assert len(after) > RATE, "load went on, and nobody met canary any more"
    last = json.loads(checkout.rollout("history", "--json").out)[-1]
    assert last["said"]["by"] == "alert"
    assert last["said"]["reason"].partition(":")[0] in alerts.OF_FAILURES, "those of one moment come in any order"
    assert 'rollout_alerts_total{outcome="rolled back",stack="lab"} 1.0' in metrics
    came = float(metrics.partition('rollout_last_alert_timestamp_seconds{stack="lab"} ')[2].split()[0])
    record_property("seconds from the alert's arrival to the last canary answer", round(canary[-1] - came, 2))
    print(f"alert received -> last canary answer: {canary[-1] - came:.2f} s")
