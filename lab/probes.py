"""Probes and hooks of containers, as kubelet runs them: httpGet, tcpSocket, exec, sleep."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

# kubelet waits a whole period between probes of a pod that is not ready yet. The lab looks more often at first, so that
# a rollout's time is the rollout's and not the probes'.
_EAGER_SECONDS = 0.1
_EAGER_FOR_SECONDS = 5.0
_EAGER_KINDS = ("httpGet", "tcpSocket")


@dataclass(frozen=True)
class Target:
    """What is probed: a container's address, its named ports and its environment."""

    address: str
    ports: Mapping[str, int]
    environment: Mapping[str, str]

    def port(self, wanted: int | str) -> int:
        text = str(wanted)
        return int(text) if text.isdigit() else self.ports.get(text, 0)


async def act(handler: Mapping[str, Any], target: Target, timeout: float) -> bool:
    """Do what a probe or hook says; whether it succeeded in time. A handler of another kind fails."""
    try:
        async with asyncio.timeout(timeout):
            if "httpGet" in handler:
                return await _http(handler["httpGet"], target)
            if "tcpSocket" in handler:
                return await _connect(handler["tcpSocket"], target)
            if "exec" in handler:
                return await _exec(handler["exec"]["command"], target)
            if "sleep" in handler:
                await asyncio.sleep(float(handler["sleep"]["seconds"]))
                return True
    except (TimeoutError, OSError, ValueError):
        return False
    return False


async def _connect(how: Mapping[str, Any], target: Target) -> bool:
    _, writer = await asyncio.open_connection(how.get("host") or target.address, target.port(how["port"]))
    writer.close()
    return True


async def _http(how: Mapping[str, Any], target: Target) -> bool:
    host = how.get("host") or target.address
    reader, writer = await asyncio.open_connection(host, target.port(how["port"]))
    try:
        headers = {"Host": host, "User-Agent": "lab-probe", "Connection": "close"}
        headers |= {header["name"]: header["value"] for header in how.get("httpHeaders") or []}
        lines = [f"GET {how.get('path') or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = (await reader.readline()).split()
        return len(status) > 1 and 200 <= int(status[1]) < 400
    finally:
        writer.close()


async def _exec(command: list[str], target: Target) -> bool:
    child = await asyncio.create_subprocess_exec(
        *command,
        env=dict(target.environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return await child.wait() == 0
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def watch(
    probe: Mapping[str, Any], target: Target, told: Callable[[bool], Awaitable[None]], *, eager: bool
) -> None:
    """Probe until cancelled; tells each change that the thresholds let through (the first success, then every change).

    `eager`: until the first success failures do not count and the period is short.
    """
    period = float(probe.get("periodSeconds") or 10)
    timeout = float(probe.get("timeoutSeconds") or 1)
    enough = {True: int(probe.get("successThreshold") or 1), False: int(probe.get("failureThreshold") or 3)}
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    loop, cheap = asyncio.get_running_loop(), any(kind in probe for kind in _EAGER_KINDS)
    began, state, last, count = loop.time(), None if eager else True, None, 0
    while True:
        good = await act(probe, target, timeout)
        count = count + 1 if good == last else 1
        last = good
        if good != state and (state is not None or good) and count >= enough[good]:
            state = good
            await told(good)
        hurry = state is None and cheap and loop.time() - began < _EAGER_FOR_SECONDS
        await asyncio.sleep(min(period, _EAGER_SECONDS) if hurry else period)
