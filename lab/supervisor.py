"""Starts the lab's parts inside the namespace and watches over them: `python -m lab.supervisor`, run by `lab up`.

It restarts nothing by itself: a part that dies stays dead and is named in `lab status` and in the supervisor's log,
until `lab up` asks for the dead ones again (SIGHUP). SIGTERM stops everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from lab import control_plane, monitoring, namespace
from lab.control_plane import Command
from lab.kube import Api
from lab.namespace import LabError, Process
from lab.paths import LAB, ROOT

PARTS_FILE = LAB / "parts.json"
STOP_SECONDS = 3.0


@dataclass
class Running:
    """What `.lab/parts.json` says of one part."""

    name: str
    process: Process | None
    exit: int | None = None  # as in subprocess: negative for a signal
    since: float = 0.0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.exit is None and self.process.alive()


def read() -> tuple[str, list[Running]]:
    """How far the start got (`starting`, `ready`, or what went wrong), and the parts."""
    try:
        raw: dict[str, Any] = json.loads(PARTS_FILE.read_text())
    except FileNotFoundError:
        return "starting", []
    found = []
    for part in raw["parts"]:
        process = Process(**part.pop("process")) if part.get("process") else part.pop("process")
        found.append(Running(process=process, **part))
    return raw["phase"], found


def python_part(name: str, module: str) -> Command:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Command(name, [sys.executable, "-u", "-m", module], {"PYTHONPATH": path})


class Supervisor:
    """All parts of one lab. Only the main thread starts and reaps; the one that waits for the API server asks it to."""

    def __init__(self, state: namespace.State) -> None:
        self._state = state
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Command] = {}
        self._known: dict[str, Running] = {}
        self._wake = threading.Event()
        self._wanted: list[Command] = []
        self._phase = "starting"
        self._stop = False
        self._again = False

    def run(self) -> int:
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.set())
        signal.signal(signal.SIGTERM, lambda *_: self._signalled(stop=True))
        signal.signal(signal.SIGINT, lambda *_: self._signalled(stop=True))
        signal.signal(signal.SIGHUP, lambda *_: self._signalled(stop=False))
        telemetry = python_part("telemetry", "lab.telemetry")
        first = [control_plane.etcd(), control_plane.api_server(), telemetry]
        for command in [*first, monitoring.prometheus(), monitoring.alertmanager()]:
            if command is not None:
                self._start(command)
        threading.Thread(target=self._bring_up, daemon=True).start()
        while not self._stop:
            self._wake.wait()
            self._wake.clear()
            self._reap()
            while self._wanted:
                self._start(self._wanted.pop(0))
            if self._again:
                self._again = False
                self._restart_dead()
            self._write()
        return self._end()

    def _signalled(self, *, stop: bool) -> None:
        self._stop, self._again = self._stop or stop, not stop
        self._wake.set()

    def _bring_up(self) -> None:
        try:
            asyncio.run(self._prepare_cluster())
            self._phase = "ready"
        except Exception as error:  # noqa: BLE001 - whatever it is, `lab up` has to hear of it
            self._phase = f"failed: {error}"
            print(f"supervisor: the cluster could not be prepared: {error!r}", flush=True)
        self._wake.set()

    async def _prepare_cluster(self) -> None:
        async with Api() as api:
            await control_plane.wait_ready(api)
            print("supervisor: API server ready", flush=True)
            await control_plane.mark(api, self._state.id)
            later = (control_plane.controller_manager(), python_part("node", "lab.node"))
            self._wanted += [command for command in later if command.name not in self._known]
            self._wake.set()
            await control_plane.prepare(api)
            print("supervisor: node and Gateway API ready", flush=True)

    def _start(self, command: Command) -> None:
        self._commands[command.name] = command
        with (LAB / "logs" / f"{command.name}.log").open("ab") as log:
            try:
                child = subprocess.Popen(
                    command.arguments,
                    env={**os.environ, "KUBECONFIG": str(LAB / "kubeconfig"), **command.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=ROOT,
                    start_new_session=True,  # Ctrl-C in a terminal does not reach it
                )
            except OSError as error:
                log.write(f"lab: {command.arguments[0]} could not be started: {error}\n".encode())
                self._known[command.name] = Running(command.name, None, exit=127, since=time.time())
                return
        self._children[command.name] = child
        try:
            process = Process.of(child.pid)
        except LabError:
            process = None  # it ended at once; reaping says how
        self._known[command.name] = Running(command.name, process, since=time.time())
        print(f"supervisor: {command.name} started as {child.pid}", flush=True)
        self._write()

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[name]
                self._known[name].exit, self._known[name].since = code, time.time()
                print(f"supervisor: {name} died with exit code {code}: see .lab/logs/{name}.log", flush=True)

    def _restart_dead(self) -> None:
        for name, known in self._known.items():
            if known.exit is not None:
                print(f"supervisor: {name} is started again, as `lab up` asked", flush=True)
                self._start(self._commands[name])
        self._phase = "starting"
        threading.Thread(target=self._bring_up, daemon=True).start()

    def _write(self) -> None:
        listed = [asdict(known) for known in self._known.values()]
        namespace.write_atomic(PARTS_FILE, json.dumps({"phase": self._phase, "parts": listed}, indent=1))

    def _end(self) -> int:
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()  # the data is thrown away anyway
        return 0


def main() -> int:
    state = namespace.running()
    namespace.enter(state)
    return Supervisor(state).run()


if __name__ == "__main__":
    sys.exit(main())
