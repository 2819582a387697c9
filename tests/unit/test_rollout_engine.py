"""The engine's client with a CLI that is a shell script: locks, errors, signals."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rollout.cli import Exit
from rollout.engine import Engine, Failed, Interrupted, Locked, outputs, records

LOCK = (
    "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete the "
    "lock file with `pulumi cancel`.\n  file:///x/aaaa.json: created by root@vm (pid 999999) at 2026-11-21T11:41:26Z"
)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """`pulumi` is what `script` makes it."""
    (tmp_path / "Pulumi.yaml").write_text("name: canary\nruntime: python\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return Engine(tmp_path, "lab")


def script(engine: Engine, body: str) -> None:
    path = engine.project / "pulumi"
    path.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo v3.259.0 && exit\n{body}\n')
    path.chmod(0o755)


def test_a_lock_names_its_holder(engine: Engine) -> None:
    script(engine, f"cat >&2 <<'END'\n{LOCK}\nEND\nexit 255")
    with pytest.raises(Locked) as stopped:
        engine.up("x")
    (holder,) = stopped.value.holders
    assert (holder.user, holder.host, holder.pid) == ("root", "vm", 999999)
    assert stopped.value.exit_code == Exit.LOCKED


def test_an_update_that_runs_elsewhere_is_a_lock_without_a_name(engine: Engine) -> None:
    script(engine, "echo 'error: [409] Conflict: Another update is currently in progress.' >&2; exit 255")
    with pytest.raises(Locked) as stopped:
        engine.up("x")
    assert stopped.value.holders == []


@pytest.mark.parametrize(
    ("told", "code"),
    [("web: weight 5 -> 50 skips a rung; or state canary:override {...}", Exit.HELD), ("no such bucket", Exit.FAILED)],
)
def test_what_the_rules_refuse_is_held_and_anything_else_failed(engine: Engine, told: str, code: Exit) -> None:
    script(engine, f"echo '    pulumi:pulumi:Stack canary-lab error: {told}' >&2; exit 255")
    with pytest.raises(Failed) as stopped:
        engine.up("x")
    assert stopped.value.exit_code == code
    assert told in stopped.value.lines[0]


def test_without_a_pulumi_it_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Failed, match="pulumi cannot be run"):
        engine.up("x")


def test_signals_reach_the_update_once_and_it_is_waited_for(engine: Engine) -> None:
    told = engine.project / "signals"
    told.touch()
    ready = engine.project / "ready"
    script(
        engine,
        f"trap 'echo INT >> {told}' INT\ntouch {ready}\n"
        f"while ! [ -s {told} ]; do sleep 0.05; done\nsleep 0.5\necho 'error: update canceled' >&2; exit 255",
    )

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.01)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    thread = threading.Thread(target=interrupt)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    with pytest.raises(Interrupted):
        engine.up("x")
    thread.join()
    assert told.read_text() == "INT\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_process_of_the_engine_carries_the_mark_and_its_message(engine: Engine) -> None:
    script(engine, f"""echo "$ROLLOUT_STACK $*" >> {engine.project}/told; echo '{{"deployment": {{}}}}'""")
    assert engine.state() == []
    told = (engine.project / "told").read_text()
    assert told.startswith("lab --non-interactive stack export --stack lab")


def test_outputs_and_records_are_read_of_the_state() -> None:
    state = [
        {"type": "pulumi:pulumi:Stack", "outputs": {"weight": 5}},
        {"type": "kubernetes:networking.istio.io/v1:VirtualService", "outputs": {"metadata": {"name": "x"}}},
        {
            "type": "kubernetes:networking.istio.io/v1:VirtualService",
            "outputs": {
                "metadata": {"name": "web", "annotations": {"canary/stable": "a", "canary/canary": "b"}},
                "spec": {"http": [{"route": [{"destination": {"subset": "canary"}}]}]},
            },
        },
    ]
    assert outputs(state) == {"weight": 5}
    assert outputs([]) == {}
    found = records(state)
    assert list(found) == ["web"]
    assert (found["web"].route.weight, found["web"].route.canary) == (100, "b")
    assert json.dumps(outputs(state))
