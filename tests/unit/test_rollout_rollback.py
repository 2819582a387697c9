"""Order and outcome of a rollback with an engine and a mesh that only remember: no lock is the end of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout import mesh, stackfile
from rollout import rollback as rollback_module
from rollout.cli import Exit, Stop
from rollout.engine import MARK, Engine, Failed, Holder, Interrupted, Locked
from rollout.rollback import Why, edit, rollback
from rollout.site import Site

HERE = socket.gethostname()
FILE = """\
config:
  canary:namespace: shop
  canary:weight: 25 # the line of a step
  canary:services:
    web:
      stable: {image: "web:1"}
      canary: {image: "web:2"}
"""


def locked(host: str, pid: int) -> Locked:
    return Locked(f"the stack is currently locked by 1 lock(s) ...: created by ann@{host} (pid {pid}) at 2026-01-01")


class FakeEngine(Engine):
    """Remembers what it was asked; each `up` ends as the next of `ends` says, later ones well."""

    def __init__(self, told: list[str], ends: Sequence[Failed]) -> None:
        self.told, self.ends = told, list(ends)
        self.messages: list[str] = []

    def up(self, message: str, **options: Any) -> None:
        self.messages.append(message)
        self.told.append("up " + " ".join(options.get("target", ())) if options.get("target") else "up")
        if self.ends:
            raise self.ends.pop(0)

    def cancel(self) -> None:
        self.told.append("cancel")


class FakeSite(Site):
    client = None

    def __init__(self, folder: Path, ends: Sequence[Failed]) -> None:
        self.project, self.stack, self.told = folder, "lab", list[str]()
        self.engine = FakeEngine(self.told, ends)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeSite]:
    """A site whose engine ends as told; the mesh leads to canary until it is halted."""
    (tmp_path / "Pulumi.lab.yaml").write_text(FILE)
    monkeypatch.setattr(rollback_module, "TICK", 0.0)
    monkeypatch.setattr(rollback_module, "PATIENCE", 0.3)

    def make(*ends: Failed, reachable: bool = True) -> FakeSite:
        made = FakeSite(tmp_path, ends)
        on = ["web"]

        def halt(*_: Any) -> list[str]:
            if not reachable:
                raise OSError("no route to host")
            found, on[:] = list(on), []
            made.told.append(f"halt {found}")
            return found

        monkeypatch.setattr(mesh, "halt", halt)
        monkeypatch.setattr(mesh, "still_on", lambda *_: list(on))
        return made

    return make


def config(site: Site) -> dict[str, Any]:
    return stackfile.load(site.project / "Pulumi.lab.yaml").settings_raw


def test_it_halts_the_mesh_edits_the_stack_file_and_updates_without_a_preview(site: Callable[..., FakeSite]) -> None:
    found = site()
    rollback(found, Why(reason="it smells"), print)
    assert found.told == ["halt ['web']", "up", "halt []"]
    told = config(found)
    assert (str(told["weight"]), str(told["halted"]).lower(), told["rejected"]) == ("0", "true", ["web:2"])
    assert "# the line of a step" in (found.project / "Pulumi.lab.yaml").read_text()
    assert "Rollout-Reason: it smells" in found.engine.messages[0]  # type: ignore[attr-defined]


def test_a_dead_holder_is_named_and_its_lock_cancelled(site: Callable[..., FakeSite]) -> None:
    said: list[str] = []
    found = site(locked(HERE, 2**22 + 1))
    rollback(found, Why(reason="r"), said.append)
    assert found.told[1:4] == ["up", "cancel", "up"]
    assert f"pid {2**22 + 1}" in said[1] and "gone" in said[1]


def test_a_lock_from_another_host_is_never_cancelled_and_the_mesh_kept_halted(
    site: Callable[..., FakeSite],
) -> None:
    found = site(locked("elsewhere", 1), locked("elsewhere", 1))
    rollback(found, Why(reason="r"), print)
    assert found.told == ["halt ['web']", "up", "halt []", "up", "halt []", "up", "halt []"]


def test_a_backend_that_does_not_tell_who_holds_the_lock_is_somebody_elses(site: Callable[..., FakeSite]) -> None:
    found = site(Locked("[409] Conflict: Another update is currently in progress."))
    rollback(found, Why(reason="r"), print)
    assert found.told == ["halt ['web']", "up", "halt []", "up", "halt []"]


def test_an_update_of_ours_gets_one_interrupt_and_is_somebody_elses_when_it_goes_on(
    site: Callable[..., FakeSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(Holder, "dead", property(lambda _: False))
    monkeypatch.setattr(Holder, "ours", lambda self, stack: stack == "lab")
    found = site(locked(HERE, 77), locked(HERE, 77), locked(HERE, 77))
    rollback(found, Why(reason="r"), print)
    assert sent == [(77, signal.SIGINT)]
    assert found.told == ["halt ['web']", "up", "up", "halt []", "up", "halt []", "up", "halt []"]


def test_it_never_ends_with_locked(site: Callable[..., FakeSite], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback_module, "WAIT", -1.0)
    found = site(locked("elsewhere", 1))
    with pytest.raises(Stop) as stopped:
        rollback(found, Why(reason="r"), print)
    assert stopped.value.exit_code == Exit.FAILED
    assert "no route leads to canary" in stopped.value.message
    assert "halt ['web']" in found.told


def test_when_something_else_is_stuck_the_routes_go_through_alone(
    site: Callable[..., FakeSite],
) -> None:
    found = site(Failed(["helm is stuck"]))
    rollback(found, Why(reason="r"), print)
    assert found.told == ["halt ['web']", "up", "up **VirtualService**", "halt []"]


@pytest.mark.parametrize("error", [Failed(["no such bucket"]), Interrupted([])])
def test_a_failure_says_what_the_state_is(site: Callable[..., FakeSite], error: Failed) -> None:
    found = site(error, error)
    with pytest.raises(Stop) as stopped:
        rollback(found, Why(reason="r"), print)
    assert stopped.value.exit_code == Exit.FAILED
    assert "no route leads to canary; the next `pulumi up` with this stack file adopts it" in stopped.value.message
    assert config(found)["rejected"] == ["web:2"]


def test_without_a_cluster_and_a_backend_it_fails_and_says_both(site: Callable[..., FakeSite]) -> None:
    said: list[str] = []
    with pytest.raises(Stop) as stopped:
        rollback(site(Failed(["gone"]), Failed(["gone"]), reachable=False), Why(reason="r"), said.append)
    assert "still leads to canary" in stopped.value.message
    assert any("no route to host" in line for line in said)


def test_breaking_the_glass_is_content_without_a_backend_but_not_without_a_halt(site: Callable[..., FakeSite]) -> None:
    ends = Failed(["gone"]), Failed(["gone"])
    found = site(*ends)
    rollback(found, Why(reason="r"), print, without_backend=True)
    assert found.told[0] == "halt ['web']"
    with pytest.raises(Stop):
        rollback(site(*ends, reachable=False), Why(reason="r"), print, without_backend=True)


def test_a_stack_file_that_cannot_be_read_stops_no_halt(site: Callable[..., FakeSite]) -> None:
    found = site()
    (found.project / "Pulumi.lab.yaml").write_text(FILE + "  kubernetes:context: 'prod-eu'\n  canary:steps: [\n")
    with pytest.raises(Stop) as stopped:
        rollback(found, Why(reason="r"), print)
    assert stopped.value.exit_code == Exit.FAILED
    assert "is no YAML" in stopped.value.message and "no route leads to canary" in stopped.value.message
    assert found.told == ["halt ['web']", "halt []"]
    assert found.access == ("shop", "prod-eu", None)


@pytest.mark.parametrize(
    ("before", "after"),
    [("web:2", ["web:2"]), ("web:2, api:1", ["web:2", "api:1"]), ("web:1", ["web:1", "web:2"]), ("", ["web:2"])],
)
def test_an_image_is_rejected_once_and_others_stay(tmp_path: Path, before: str, after: list[str]) -> None:
    path = tmp_path / "Pulumi.lab.yaml"
    file = stackfile.StackFile(path, FILE + f"  canary:rejected: [{before}]\n")
    edit(file)
    assert file.settings_raw["rejected"] == after


@pytest.mark.parametrize("text", ["config:\n", "config:\n  canary:services: 5\n", "config:\n  canary:weight: much\n"])
def test_an_odd_stack_file_is_edited_all_the_same(tmp_path: Path, text: str) -> None:
    file = stackfile.StackFile(tmp_path / "Pulumi.lab.yaml", text)
    edit(file)
    assert str(file.settings_raw["weight"]) == "0"
    assert str(file.settings_raw["halted"]).lower() == "true"


def test_holders_are_told_apart_by_their_process() -> None:
    def holder(host: str, pid: int) -> Holder:
        return Holder("ann", host, pid, "2026")

    assert not holder(HERE, os.getpid()).ours("lab")
    assert holder(HERE, os.getpid()).dead, "the number lives, and is no engine's"
    assert holder(HERE, 2**22 + 1).dead
    assert not holder("elsewhere", 2**22 + 1).dead, "nobody can look there"
    assert MARK == "ROLLOUT_STACK"


LEADS: list[tuple[str, list[dict[str, Any]], bool]] = [
    ("halted", [{"name": "default", "route": [{"destination": {"subset": "stable"}, "weight": 100}]}], True),
    (
        "weight 0",
        [
            {
                "route": [
                    {"destination": {"subset": "stable"}, "weight": 100},
                    {"destination": {"subset": "canary"}, "weight": 0},
                ]
            }
        ],
        True,
    ),
    ("a rule", [{"match": [{}], "route": [{"destination": {"subset": "canary"}}]}], False),
    (
        "5 %",
        [
            {
                "route": [
                    {"destination": {"subset": "stable"}, "weight": 95},
                    {"destination": {"subset": "canary"}, "weight": 5},
                ]
            }
        ],
        False,
    ),
    ("nothing", [], True),
]


@pytest.mark.parametrize(("http", "off"), [(http, off) for _, http, off in LEADS], ids=[name for name, *_ in LEADS])
def test_a_direct_halt_leaves_only_stable(http: list[dict[str, Any]], off: bool) -> None:
    assert mesh.off(http) is off
    halted = mesh.halted(http, "web.shop.svc.cluster.local")
    assert mesh.off(halted)
    assert [leg["destination"]["subset"] for leg in halted[0]["route"]] == ["stable"]
    assert not halted[0].get("match")


@pytest.mark.parametrize(
    "context", ["arn:aws:eks:eu-west-1:123456789012:cluster/prod", "kubernetes-admin@kubernetes", "prod-eu"]
)
def test_of_a_broken_stack_file_the_cluster_is_read_all_the_same(tmp_path: Path, context: str) -> None:
    text = f'config:\n    kubernetes:context: "{context}"  # ours\n    canary:namespace: shop\n<<<<<<< HEAD\n'
    (tmp_path / "Pulumi.prod.yaml").write_text(text)
    with pytest.raises(Stop):
        Site(tmp_path, "prod").load()
    assert Site(tmp_path, "prod").access == ("shop", context, None)
