"""`lab up`, `lab down` and `lab status`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from lab import edge, environment, namespace, pki, supervisor
from lab.addresses import balancer_address
from lab.kube import Api, ApiError, Json, key
from lab.namespace import LabError, State
from lab.paths import LAB, ROOT

UP_SECONDS = 90
LAST_LINES = 8
_KEPT = {"logs", "pulumi-home", "lock"}  # logs are worth reading after the end; plugins of a user are not a lab's state


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One `up` or `down` at a time in this checkout."""
    LAB.mkdir(exist_ok=True)
    with (LAB / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_alone()
def up() -> None:
    """Start the lab, or start again what died of a running one."""
    began = time.monotonic()
    state = namespace.load()
    if state is None or state.supervisor is None or not (state.keeper.alive() and state.supervisor.alive()):
        state = _begin(state)
    elif dead := [part.name for part in supervisor.read()[1] if not part.alive]:
        say(f"starting again what died: {', '.join(dead)}")
        state.supervisor.kill(signal.SIGHUP)
        time.sleep(1)
    environment.prepare(state)
    state.save()
    environment.create_stack(state)
    _wait_ready(state)
    say(f"up after {time.monotonic() - began:.1f} s: `source .lab/env`, then `python -m lab exec -- pulumi up`")


def _begin(earlier: State | None) -> State:
    if earlier is not None:
        say("an earlier lab ended without `lab down`: its leftovers are removed")
        namespace.stop_all(earlier, grace=1)
    _wipe(keep=_KEPT - {"logs"})
    (LAB / "logs" / "pods").mkdir(parents=True)
    state = namespace.create(uuid.uuid4().hex[:12])
    state.save()
    say(f"network namespace made ({'user namespace' if state.user_namespace else 'root'})")
    pki.create(LAB / "pki", LAB / "kubeconfig")
    state.supervisor = _start_supervisor()
    state.save()
    say("etcd, API server, AWS, Prometheus, Alertmanager and telemetry are starting; then the edge")
    return state


def _start_supervisor() -> namespace.Process:
    with (LAB / "logs" / "supervisor.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor"],
            env={**os.environ, "PYTHONPATH": namespace.python_path()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
    return namespace.Process.of(child.pid)


def _wait_ready(state: State) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while True:
        phase, running = supervisor.read()
        dead = [part for part in running if not part.alive]
        if state.supervisor is None or not state.supervisor.alive():
            raise LabError(f"the supervisor died:\n{last_lines('supervisor')}")
        if dead:
            lines = "\n".join(f"{part.name} died (exit {part.exit}):\n{last_lines(part.name)}" for part in dead)
            raise LabError(f"{lines}\nAll logs are in .lab/logs; `python -m lab down` cleans up")
        if phase == "ready" and {"node", "kube-controller-manager"} <= {part.name for part in running}:
            return
        if phase.startswith("failed"):
            raise LabError(f"start {phase}")
        if time.monotonic() > deadline:
            raise LabError(f"not ready after {UP_SECONDS} s: see `python -m lab status` and .lab/logs")
        time.sleep(0.1)


@_alone()
def down() -> None:
    """Stop what this checkout's lab started, and remove what it made but for its logs."""
    state = namespace.load()
    if state is None:
        say("not running")
        return
    namespace.stop_all(state, grace=supervisor.STOP_SECONDS + 1)
    _wipe(keep=_KEPT)
    say("down; logs stay in .lab/logs")


def _wipe(keep: set[str]) -> None:
    LAB.mkdir(exist_ok=True)
    for entry in LAB.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def last_lines(part: str, count: int = LAST_LINES) -> str:
    path = LAB / "logs" / f"{part}.log"
    lines = path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []
    return "\n".join(f"    {line}" for line in lines) or "    (no output)"


def status() -> int:
    """Print the lab's state; 0 if every part lives and the routing stand-in found nothing that it cannot do."""
    state = namespace.load()
    if state is None or not state.keeper.alive():
        say("not running")
        return 1
    phase, running = supervisor.read()
    if state.supervisor is None or not state.supervisor.alive():
        phase = "the supervisor died: `python -m lab down`, then `python -m lab up`"
    say(phase)
    for part in running:
        print(f"  {part.name:<26} {'alive' if part.alive else f'DEAD, exit {part.exit}'}")
        if not part.alive:
            print(last_lines(part.name))
    namespace.enter(state)
    answers = asyncio.run(_print_cluster(state))
    print("\naddresses")
    for name in ("GATEWAY_URL", "EDGE_URL", "EDGE_LATE_URL", "MESH_URL", "PROMETHEUS_URL", "ALERTMANAGER_URL"):
        print(f"  {name:<18} {state.environment.get(name) or '-'}")
    for node, read in edge.told().items():
        print(f"  {node:<18} {read}")
    print("\naccess logs of gateways and waypoints: .lab/access/NAMESPACE.POD.jsonl (route_name, upstream_cluster)")
    problems = _routing_problems()
    errors = [problem for problem in problems if not problem.get("known")]
    for head, listed in (
        ("NOT IN FORCE: the routing stand-in does not support", errors),
        ("accepted, but not enforced by this lab", [problem for problem in problems if problem.get("known")]),
    ):
        if listed:
            print("\n".join([f"\n{head}", *("  {resource}: {field}: {message}".format(**p) for p in listed)]))
    print(f"\nlogs: {Path(os.path.relpath(LAB / 'logs'))}")
    return 0 if phase == "ready" and all(part.alive for part in running) and not errors and answers else 1


async def _print_cluster(state: State) -> bool:
    """Pods and services; False if the cluster does not answer or is not this lab's."""
    try:
        async with Api() as api:
            await api.check_is_lab(state.id)
            pods, services = [(await api.get(f"/api/v1/{kind}"))["items"] for kind in ("pods", "services")]
    except (httpx.HTTPError, ApiError, LabError) as error:
        print(f"cluster: {type(error).__name__}: {error}")
        return False
    _table(["pod", "image", "address", "state", "restarts"], [_pod(pod) for pod in pods])
    _table(["service", "address", "external", "ports"], [_service(service) for service in services])
    return True


def _routing_problems() -> list[dict[str, Any]]:
    path = LAB / "xds" / "errors.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def _pod(pod: Json) -> list[str]:
    told = pod.get("status") or {}
    containers = told.get("containerStatuses") or []
    waiting = [c["state"]["waiting"]["reason"] for c in containers if "waiting" in c["state"]]
    unready = ["not ready"] if not all(c["ready"] for c in containers) else []
    ending = ["Terminating"] if pod["metadata"].get("deletionTimestamp") else []
    state = [*ending, *waiting, *unready, told.get("phase", "Pending")][0]
    images = ", ".join(container["image"] for container in pod["spec"]["containers"])
    restarts = sum(c["restartCount"] for c in containers)
    return ["/".join(key(pod)), images, told.get("podIP", ""), state, str(restarts)]


def _service(service: Json) -> list[str]:
    ports = ", ".join(str(port["port"]) for port in service["spec"].get("ports") or [])
    return ["/".join(key(service)), service["spec"].get("clusterIP", ""), balancer_address(service) or "", ports]


def _table(heads: list[str], rows: list[list[str]]) -> None:
    print()
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
