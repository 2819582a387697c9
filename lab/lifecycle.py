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

from lab import environment, namespace, pki, supervisor
from lab.kube import Api, ApiError, Json, NotOurCluster
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


def up() -> None:
    """Start the lab, or start again what died of a running one."""
    with _alone():
        _up()


def down() -> None:
    """Stop what this checkout's lab started, and remove what it made but for its logs."""
    with _alone():
        _down()


def _up() -> None:
    state = namespace.load()
    if state is not None and state.keeper.alive() and state.supervisor is not None and state.supervisor.alive():
        _again(state)
        return
    began = time.monotonic()
    if state is not None:
        say("an earlier lab ended without `lab down`: its leftovers are removed")
        namespace.stop_all(state, grace=1)
    _wipe(keep=_KEPT - {"logs"})
    (LAB / "logs" / "pods").mkdir(parents=True)
    state = namespace.create(uuid.uuid4().hex[:12])
    state.save()
    say(f"network namespace made ({'user namespace' if state.user_namespace else 'root'})")
    pki.create(LAB / "pki", LAB / "kubeconfig")
    state.supervisor = _start_supervisor()
    state.save()
    say("etcd, API server, Prometheus, Alertmanager and telemetry are starting")
    environment.prepare(state)
    state.save()
    environment.create_stack(state)
    say(f"stack {environment.STACK}, plugins and charts ready")
    _wait_ready(state)
    say(f"up after {time.monotonic() - began:.1f} s: `source .lab/env`, then `python -m lab exec -- pulumi up`")


def _again(state: State) -> None:
    _, running = supervisor.read()
    dead = [part.name for part in running if not part.alive]
    if dead:
        say(f"starting again what died: {', '.join(dead)}")
        assert state.supervisor is not None
        state.supervisor.kill(signal.SIGHUP)
        time.sleep(1)
    environment.prepare(state)
    state.save()
    environment.create_stack(state)
    _wait_ready(state)
    say("running")


def _start_supervisor() -> namespace.Process:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (LAB / "logs" / "supervisor.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor"],
            env={**os.environ, "PYTHONPATH": path},
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


def _down() -> None:
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


def status(as_json: bool) -> int:
    """Print the lab's state; 0 if every part lives and the routing stand-in found nothing that it cannot do."""
    state = namespace.load()
    if state is None or not state.keeper.alive():
        print('{"running": false}' if as_json else "lab: not running")
        return 1
    phase, running = supervisor.read()
    if state.supervisor is None or not state.supervisor.alive():
        phase = "the supervisor died: `python -m lab down`, then `python -m lab up`"
    namespace.enter(state)
    try:
        pods, services = asyncio.run(_cluster(state))
        problem = ""
    except (httpx.HTTPError, ApiError, NotOurCluster) as error:
        pods, services, problem = [], [], f"{type(error).__name__}: {error}"
    errors = _routing_errors()
    report = {
        "running": True,
        "phase": phase,
        "parts": [{"name": part.name, "alive": part.alive, "exit": part.exit} for part in running],
        "pods": [_pod(pod) for pod in pods],
        "services": [_service(service) for service in services],
        "environment": state.environment,
        "unsupported": errors,
        "cluster": problem or "ok",
    }
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    return 0 if phase == "ready" and all(part.alive for part in running) and not errors and not problem else 1


async def _cluster(state: State) -> tuple[list[Json], list[Json]]:
    async with Api() as api:
        await api.check_is_lab(state.id)
        pods, services = await asyncio.gather(api.items("/api/v1/pods"), api.items("/api/v1/services"))
        return pods, services


def _routing_errors() -> list[Any]:
    path = LAB / "xds" / "errors.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return found if isinstance(found, list) else [found] if found else []


def _pod(pod: Json) -> dict[str, Any]:
    told = pod.get("status") or {}
    containers = told.get("containerStatuses") or []
    waiting = [c["state"]["waiting"].get("reason", "") for c in containers if "waiting" in (c.get("state") or {})]
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in told.get("conditions") or [])
    ending = ["Terminating"] if pod["metadata"].get("deletionTimestamp") else []
    return {
        "namespace": pod["metadata"]["namespace"],
        "name": pod["metadata"]["name"],
        "image": ", ".join(container["image"] for container in pod["spec"]["containers"]),
        "address": told.get("podIP", ""),
        "ready": ready,
        "state": [*ending, *waiting, told.get("phase", "Pending")][0],
        "restarts": sum(c.get("restartCount", 0) for c in containers),
    }


def _service(service: Json) -> dict[str, Any]:
    balancer = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return {
        "namespace": service["metadata"]["namespace"],
        "name": service["metadata"]["name"],
        "address": service["spec"].get("clusterIP", ""),
        "external": ", ".join(entry.get("ip", "") for entry in balancer),
        "ports": ", ".join(str(port["port"]) for port in service["spec"].get("ports") or []),
    }


def _print(report: dict[str, Any]) -> None:
    print(f"lab: {report['phase']}")
    for part in report["parts"]:
        print(f"  {part['name']:<26} {'alive' if part['alive'] else 'DEAD, exit ' + str(part['exit'])}")
        if not part["alive"]:
            print(last_lines(part["name"]))
    if report["cluster"] != "ok":
        print(f"cluster: {report['cluster']}")
    for title in ("pods", "services"):
        if report[title]:
            print(f"\n{title}")
            _table(report[title])
    print("\naddresses")
    for name, value in report["environment"].items():
        if name.endswith("_URL") and value and "PULUMI" not in name:
            print(f"  {name:<18} {value}")
    if report["unsupported"]:
        print("\nNOT IN FORCE: the routing stand-in does not support")
        for error in report["unsupported"]:
            print("  " + (": ".join(map(str, error.values())) if isinstance(error, dict) else str(error)))
    print(f"\nlogs: {Path(os.path.relpath(LAB / 'logs'))}")


def _table(rows: list[dict[str, Any]]) -> None:
    heads = list(rows[0])
    cells = [heads, *([str(row[head]) for head in heads] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
