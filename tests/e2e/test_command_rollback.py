"""`rollout rollback` ends with nobody on canary, whoever holds the lock, and no checkout brings it back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import namespace
from lab.stack import api
from rollout import mesh
from tests.e2e.checkout import LOCKS, Checkout, git
from tests.e2e.conftest import Rested

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"


def off() -> bool:
    return mesh.off(api("GET", ROUTE)["spec"]["http"])


@pytest.fixture
def checkout(deployed: Rested, tmp_path: Path) -> Iterator[Checkout]:
    """At 5 %, with an image that was never rolled back, committed and pushed."""
    deployed.reset()
    deployed.service(canary={"image": f"sample-web:8.{time.time_ns()}"})
    deployed.edit(weight=5, gate={"prometheus": namespace.running().environment["PROMETHEUS_URL"]})
    (tmp_path / "operator").mkdir()
    found = Checkout.first(tmp_path / "operator", deployed.file)
    if found.up().code:  # another test left what rules forbid to go on from
        deployed.rest()
        found.up().check()
    assert not off()
    yield found
    shutil.rmtree(LOCKS, ignore_errors=True)


def assert_rolled_back(checkout: Checkout) -> None:
    told = checkout.outputs()
    assert off()
    assert (told["weight"], told["phase"]) == (0, "halted")
    assert checkout.planned() == {}


def assert_stays_off(stale: Checkout, *weights: int) -> None:
    """A checkout that knows nothing of the rollback cannot undo it, by whatever weight it asks for."""
    for weight in weights:
        stale.edit(weight=weight)
        refused = stale.up()
        assert refused.code != 0
        assert "rolled back" in refused.text
        assert off()


def long_update(checkout: Checkout) -> Path:
    """A stack file whose update waits for pods that do not come."""
    other = Checkout(checkout.project)
    other.file = checkout.project.parent / "long.yaml"
    shutil.copy2(checkout.file, other.file)
    other.service("late", stable={"image": "sample-web:1.0-unready"}, probe={"path": "/healthz"})
    other.edit(readyTimeout="90s")
    return other.file


def holder() -> int:
    """The process that holds the lock, when one does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for file in LOCKS.glob("*.json"):
            return int(json.loads(file.read_text())["pid"])
        time.sleep(0.1)
    raise AssertionError("nobody holds the lock")


def pods_awaited() -> None:
    """Until the long update has got as far as the pods."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        names = {one["metadata"]["name"] for one in api("GET", "/apis/apps/v1/namespaces/shop/deployments")["items"]}
        if "late-stable" in names:
            return
        time.sleep(0.2)
    raise AssertionError("the long update did not begin")


def test_a_rollback_halts_remembers_the_image_and_tells_git_and_stale_checkouts_cannot_undo_it(
    checkout: Checkout,
) -> None:
    stale = checkout.clone("stale")
    done = checkout.rollout("rollback", "--git", "--reason", "it smells")
    assert done.code == 0, done.text
    assert_rolled_back(checkout)
    assert "sample-web:8." in str(checkout.outputs()["rejected"])
    assert "it smells" in git(checkout.project.with_name("remote.git"), "log", "-1", "--format=%s", "main")
    assert "canary:halted: true" in git(checkout.project.with_name("remote.git"), "show", "main:Pulumi.lab.yaml")
    assert_stays_off(stale, 5, 25)
    told = json.loads(checkout.rollout("history", "--json").out)
    assert [one["said"].get("reason") for one in told if one["said"]][-1] == "it smells"
    assert any((one["weight"], one["said"], one["result"]) == (5, {}, "succeeded") for one in told), (
        "a bare `pulumi up`"
    )
    assert {one["weight"] for one in told if one["version"] > told[-1]["version"] - 3} == {0}, (
        "refused ones count as none"
    )


def test_a_push_that_is_refused_becomes_a_branch(checkout: Checkout) -> None:
    hook = checkout.project.with_name("remote.git") / "hooks" / "update"
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/main ]\n')
    hook.chmod(0o755)
    done = checkout.rollout("rollback", "--git")
    assert done.code == 0, done.text
    branches = git(checkout.project.with_name("remote.git"), "branch", "--format=%(refname:short)").split()
    proposed = [one for one in branches if one.startswith("rollout/lab-")]
    assert proposed and "open a pull request" in done.text
    assert "canary:halted: true" in git(
        checkout.project.with_name("remote.git"), "show", f"{proposed[0]}:Pulumi.lab.yaml"
    )


def test_a_route_edited_by_hand_is_written_again_although_zero_is_recorded(checkout: Checkout) -> None:
    assert checkout.rollout("rollback").code == 0
    spec = api("GET", ROUTE)["spec"]
    spec["http"][-1]["route"][0]["weight"], spec["http"][-1]["route"][1]["weight"] = 50, 50
    api("PATCH", ROUTE, {"spec": spec})
    status = checkout.rollout("status", "--json")
    assert status.code == 6
    assert json.loads(status.out)["live"] == {"web": 50}
    assert checkout.rollout("rollback").code == 0
    assert_rolled_back(checkout)


def test_a_lock_whose_holder_is_gone_is_cancelled_aloud(checkout: Checkout) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    LOCKS.mkdir(parents=True, exist_ok=True)
    lock = {"pid": dead.pid, "username": "root", "hostname": socket.gethostname(), "timestamp": "2026-01-01T00:00:00Z"}
    (LOCKS / "11111111-1111-1111-1111-111111111111.json").write_text(json.dumps(lock))
    assert checkout.rollout("advance", "--dry-run").code != 4, "reading needs no lock"
    done = checkout.rollout("rollback")
    assert done.code == 0, done.text
    assert f"pid {dead.pid}" in done.out and "is gone" in done.out
    assert_rolled_back(checkout)


def test_a_live_update_of_ours_is_interrupted_once(checkout: Checkout) -> None:
    file = long_update(checkout)
    code = f"Engine(Path('.'), 'lab').up('x', config=Path({str(file)!r}))"
    code = f"from rollout.engine import Engine; from pathlib import Path; {code}"
    ours = checkout.spawn([sys.executable, "-c", code], {})
    try:
        pods_awaited()
        pid = holder()
        done = checkout.rollout("rollback")
        assert done.code == 0, done.text
        assert f"pid {pid}" in done.out and "is ours: interrupted" in done.out
        assert_rolled_back(checkout)
    finally:
        _, err = ours.communicate(timeout=60)
    assert "Interrupted" in err or "Failed" in err


def test_while_somebody_elses_update_runs_the_mesh_is_halted_and_afterwards_the_stack(checkout: Checkout) -> None:
    file = long_update(checkout)
    foreign = checkout.spawn(
        ["pulumi", "up", "--yes", "--skip-preview", "--stack", "lab", "--non-interactive", "--config-file", str(file)],
        {},
    )
    try:
        pods_awaited()
        pid = holder()
        rollback = checkout.start("rollback")
        assert rollback.stdout is not None
        assert "halted web directly in the mesh" in rollback.stdout.readline()
        assert f"(pid {pid}, " in (told := rollback.stdout.readline()) and "waiting for it" in told
        assert off() and foreign.poll() is None, "the mesh is halted while both go on"
        os.kill(pid, signal.SIGINT)  # as its owner may
    finally:
        foreign.communicate(timeout=90)
    out, err = rollback.communicate(timeout=90)
    assert rollback.returncode == 0, out + err
    assert_rolled_back(checkout)


def test_without_a_backend_the_mesh_is_halted_and_the_next_update_adopts_it(checkout: Checkout) -> None:
    stale = checkout.clone("stale")
    done = checkout.rollout("rollback", "--break-glass", PULUMI_BACKEND_URL="file:///nowhere/at/all")
    assert done.code == 0, done.text
    assert "halted web directly in the mesh" in done.text
    assert off()
    assert checkout.outputs()["weight"] == 5, "the state knows nothing of it"
    assert stale.rollout("status").code == 6
    assert_stays_off(stale, 5, 25)
    checkout.up().check()
    assert_rolled_back(checkout)


def test_the_one_line_of_kubectl_halts_and_no_checkout_takes_it_back(checkout: Checkout, tmp_path: Path) -> None:
    """Where the machine has no kubectl, a stand-in sends what the line says."""
    line = checkout.status()["halt"]
    assert line in checkout.rollout("status").out.splitlines()
    path = os.environ["PATH"]
    if shutil.which("kubectl") is None:
        standin = tmp_path / "kubectl"
        standin.write_text(
            f"#!{sys.executable}\nimport json, sys\nsys.path.insert(0, {str(Path.cwd())!r})\n"
            "from lab.stack import api\nwords = sys.argv[1:]\nassert words[2] == 'patch', words\n"
            f"api('PATCH', {ROUTE!r}, json.loads(words[words.index('-p') + 1]))\n"
        )
        standin.chmod(0o755)
        path = f"{tmp_path}:{path}"
    process = checkout.spawn(["sh", "-c", line], {"PATH": path})
    assert process.wait(60) == 0, process.communicate()
    assert off()
    assert checkout.rollout("status").code == 6
    assert_stays_off(checkout, 5)
