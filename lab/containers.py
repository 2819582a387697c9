"""One container of a pod: its host process, probes, restarts and state."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping

from lab import images, probes
from lab.kube import Json
from lab.paths import LAB, ROOT

# kubelet's series is 10, 20, 40 … 300 s; the lab's is shorter so that tests need not wait for minutes.
BACKOFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
GOOD_RUN_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)|\$\$")

Environment = Callable[[Json], Awaitable[dict[str, str]]]
"""Gives a container's variables from its spec."""


class ConfigError(Exception):
    """A variable's source is not there, or the lab's node does not support a field of the container."""

    reason = "CreateContainerConfigError"


class MountError(ConfigError):
    """What a volume is made from is not there; kubelet tells that in events only, which the lab does not have."""

    reason = "ContainerCreating"


def refuse_unsupported(spec: Json) -> None:
    """What the node would have to ignore stops the container instead."""
    hooks = spec.get("lifecycle") or {}
    unsupported = [field for field in ("volumeDevices",) if spec.get(field)]
    unsupported += [f"lifecycle.{hook}" for hook in hooks if hook != "preStop"]
    unsupported += [f"lifecycle.preStop.{kind}" for kind in hooks.get("preStop") or {} if kind != "sleep"]
    for field in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = spec.get(field)
        if probe and not any(kind in probe for kind in probes.KINDS):
            unsupported.append(f"{field} other than {', '.join(probes.KINDS)}")
    if unsupported:
        raise ConfigError(f"the lab's node does not support {', '.join(unsupported)} of container {spec['name']}")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def expand(value: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` as in Kubernetes: unknown names stay as they are, `$$` is a dollar sign."""
    return _VARIABLE.sub(lambda m: "$" if m[0] == "$$" else known.get(m[1], m[0]), value)


def _die_with_node() -> None:
    # Without the node nobody would stop, probe or report the process.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Container:
    """Runs until `stop`; calls `changed` whenever its status did."""

    def __init__(
        self, pod: Json, spec: Json, address: str, environment: Environment, changed: Callable[[], None], before: Json
    ) -> None:
        self._pod = pod
        self._spec = spec
        self._address = address
        self._environment = environment
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._begun = ""
        self.name: str = spec["name"]
        self._label = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}/{self.name}"
        self.ready = False
        self.started = False
        self.state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Json = {}
        self.restarts = int(before.get("restartCount", 0))
        if "running" in (before.get("state") or {}):  # the node itself was started again
            self.restarts += 1

    def status(self) -> Json:
        image = self._spec.get("image", "")
        return {
            "name": self.name,
            "image": image,
            "imageID": f"lab://{image}",
            "containerID": f"lab://{self._pod['metadata']['uid']}/{self.name}/{self.restarts}",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }

    def _become(self, state: Json, *, ready: bool = False, started: bool = False) -> None:
        self.state, self.ready, self.started = state, ready, started
        self._changed()

    async def run(self) -> None:
        """Start the process, and again with growing pauses when it ends."""
        failures = 0
        while not self._stopping.is_set():
            try:
                refuse_unsupported(self._spec)
                environment = await self._environment(self._spec)
                start = images.start_of(self._pod, self._spec, environment, self._address)
            except (images.PullError, ConfigError) as error:
                reason = error.reason if isinstance(error, ConfigError) else "ImagePullBackOff"
                self._become({"waiting": {"reason": reason, "message": str(error)}})
                await self._pause(2)
                continue
            if start is None:
                self._become({"running": {"startedAt": now()}}, ready=True, started=True)
                await self._stopping.wait()
                return
            began = time.monotonic()
            code = await self._once(start)
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - began > GOOD_RUN_SECONDS else failures + 1
            await self._back_off(code, BACKOFF_SECONDS[min(failures - 1, len(BACKOFF_SECONDS) - 1)])

    async def _back_off(self, code: int, seconds: float) -> None:
        self.last_state = self._terminated(code)
        message = f"back-off {seconds:.0f}s restarting failed container={self.name}"
        self._become({"waiting": {"reason": "CrashLoopBackOff", "message": message}} if seconds else self.last_state)
        await self._pause(seconds)
        self.restarts += 1

    def _terminated(self, code: int) -> Json:
        shown = code if code >= 0 else 128 - code
        reason = "Completed" if code == 0 else "Error"
        told = {"exitCode": shown, "reason": reason, "finishedAt": now()}
        return {"terminated": told | ({"startedAt": self._begun} if self._begun else {})}

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _once(self, start: images.Start) -> int:
        """Run the process to its end, with its probes beside it."""
        meta = self._pod["metadata"]
        name = f"{meta['namespace']}.{meta['name']}"
        folder = LAB / "pods" / name
        folder.mkdir(parents=True, exist_ok=True)
        environment = start.environment
        arguments = [start.arguments[0], *(expand(word, environment) for word in start.arguments[1:])]
        with (LAB / "logs" / "pods" / f"{name}.log").open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *arguments,
                    env=environment,
                    cwd=ROOT,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_node,
                )
            except OSError as error:
                log.write(f"node: {arguments[0]} could not be started: {error}\n".encode())
                return 128
        if self._stopping.is_set():  # it was told to stop while this process was made
            self._kill_group(self._process.pid)
        self._begun = now()
        ports = {port["name"]: int(port["containerPort"]) for port in self._spec.get("ports") or [] if "name" in port}
        started = "startupProbe" not in self._spec
        ready = started and "readinessProbe" not in self._spec
        self._become({"running": {"startedAt": self._begun}}, ready=ready, started=started)
        probing = asyncio.create_task(self._probe(ports))
        try:
            return await self._process.wait()
        finally:
            probing.cancel()
            self._kill_group(self._process.pid)  # what the process left behind
            self.ready = self.started = False

    async def _probe(self, ports: Mapping[str, int]) -> None:
        """The startup probe lets the others begin; nothing is killed for failing it, it is only told as not started."""
        started = asyncio.Event()

        def start(good: bool) -> None:
            self.started = self.started or good
            started.set()

        def set_ready(good: bool) -> None:
            self.ready = good
            self._changed()

        async with asyncio.TaskGroup() as group:
            if "startupProbe" in self._spec:
                probe = self._spec["startupProbe"]
                watching = group.create_task(probes.watch(probe, self._address, ports, start, eager=True))
                await started.wait()
                watching.cancel()
            if "readinessProbe" in self._spec:
                probe = self._spec["readinessProbe"]
                group.create_task(probes.watch(probe, self._address, ports, set_ready, eager=True))
            else:
                set_ready(True)
            if "livenessProbe" in self._spec:
                probe = self._spec["livenessProbe"]
                group.create_task(probes.watch(probe, self._address, ports, self._dead, eager=False))

    def _dead(self, good: bool) -> None:
        if not good and self._process is not None and not self._stopping.is_set():
            print(f"node: {self._label} failed its liveness probe and is killed", flush=True)
            grace = float(self._pod["spec"].get("terminationGracePeriodSeconds") or 30)
            self._ending = asyncio.create_task(self._end(self._process, grace))

    async def stop(self, grace: float) -> None:
        """preStop while the process still serves, then SIGTERM, then SIGKILL when the grace is over."""
        deadline = time.monotonic() + grace
        process = self._process
        if process is not None and process.returncode is None:
            hook = (self._spec.get("lifecycle") or {}).get("preStop")
            if hook and grace > 0:
                ended = asyncio.create_task(process.wait())
                await asyncio.wait({ended}, timeout=min(grace, float(hook["sleep"]["seconds"])))
            self._stopping.set()
            # Not `process`: a liveness probe may have ended that one, and another has been started since.
            await self._end(self._process or process, max(0.0, deadline - time.monotonic()))
        self._stopping.set()

    async def _end(self, process: asyncio.subprocess.Process, grace: float) -> None:
        if process.returncode is not None:
            return
        if grace > 0:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await process.wait()
                    return
            except TimeoutError:
                print(f"node: {self._label} outlived its grace and is killed", flush=True)
        self._kill_group(process.pid)
        await process.wait()

    @staticmethod
    def _kill_group(pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
