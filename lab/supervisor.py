"""Starts the lab's parts inside the namespace and watches over them: `python -m lab.supervisor`, run by `lab up`.

It restarts nothing by itself: a part that dies stays dead and is named in `lab status` and in the supervisor's log,
until `lab up` asks for the dead ones again (SIGHUP). SIGTERM stops everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from lab import aws, control_plane, monitoring, namespace
from lab.control_plane import Command
from lab.edge import part as edge_part
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
        process = Process(**part["process"]) if part["process"] else None
        found.append(Running(part["name"], process, part["exit"]))
    return raw["phase"], found


def python_part(name: str, module: str) -> Command:
    return Command(name, [sys.executable, "-u", "-m", module], {"PYTHONPATH": namespace.python_path()})


class Supervisor:
    """All parts of one lab."""

    def __init__(self, state: namespace.State) -> None:
        self._state = state
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._known: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._phase = "starting"

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._bring_up()))
        self._spawn(self._bring_up())
        await stop.wait()
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self._children and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for child in self._children.values():
            child.kill()  # the data is thrown away anyway

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self) -> None:
        """Start what does not run."""
        self._phase = "starting"
        telemetry = python_part("telemetry", "lab.telemetry")
        first = [control_plane.etcd(), control_plane.api_server(), aws.command(), telemetry]
        try:
            await self._start(*first, monitoring.prometheus(), monitoring.alertmanager())
            async with Api() as api:
                await control_plane.wait_ready(api)
                await control_plane.mark(api, self._state.id)
                await self._start(control_plane.controller_manager(), python_part("node", "lab.node"))
                await asyncio.gather(control_plane.prepare(api), aws.wait_ready())
                await self._start(edge_part.command())
            self._phase = "ready"
        except Exception as error:  # noqa: BLE001 - whatever it is, `lab up` has to hear of it
            self._phase = f"failed: {type(error).__name__} {error}"
        print(f"supervisor: {self._phase}", flush=True)
        self._write()

    async def _start(self, *commands: Command | None) -> None:
        for command in commands:
            if command is not None and command.name not in self._children:
                await self._start_one(command)
        self._write()

    async def _start_one(self, command: Command) -> None:
        with (LAB / "logs" / f"{command.name}.log").open("ab") as log:
            try:
                child = await asyncio.create_subprocess_exec(
                    *command.arguments,
                    env={**os.environ, "KUBECONFIG": str(LAB / "kubeconfig"), **command.environment},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    cwd=ROOT,
                    start_new_session=True,  # Ctrl-C in a terminal does not reach it
                )
            except OSError as error:
                log.write(f"lab: {command.arguments[0]} could not be started: {error}\n".encode())
                self._known[command.name] = Running(command.name, None, exit=127)
                return
        try:
            process = Process.of(child.pid)
        except LabError:
            process = None  # it ended at once; reaping says how
        self._children[command.name] = child
        self._known[command.name] = Running(command.name, process)
        self._spawn(self._reap(command.name, child))
        print(f"supervisor: {command.name} started as {child.pid}", flush=True)

    async def _reap(self, name: str, child: asyncio.subprocess.Process) -> None:
        self._known[name].exit = await child.wait()
        del self._children[name]
        print(f"supervisor: {name} died with exit code {child.returncode}: see .lab/logs/{name}.log", flush=True)
        self._write()

    def _write(self) -> None:
        listed = [asdict(known) for known in self._known.values()]
        namespace.write_atomic(PARTS_FILE, json.dumps({"phase": self._phase, "parts": listed}, indent=1))


if __name__ == "__main__":
    here = namespace.running()
    namespace.enter(here)
    asyncio.run(Supervisor(here).run())
