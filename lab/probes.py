"""Probes of containers, as kubelet runs them: httpGet, tcpSocket and grpc."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

KINDS = ("httpGet", "tcpSocket", "grpc")
# kubelet waits a whole period between probes of a pod that is not ready yet. The lab looks more often at first, so that
# a rollout's time is the rollout's and not the probes'.
_EAGER_SECONDS = 0.1
_EAGER_FOR_SECONDS = 5.0


async def _succeeds(probe: Mapping[str, Any], address: str, ports: Mapping[str, int]) -> bool:
    if "grpc" in probe:
        return await _serves(f"{address}:{probe['grpc']['port']}", probe)
    how = probe.get("httpGet") or probe["tcpSocket"]
    port = ports.get(str(how["port"])) or int(how["port"])
    try:
        async with asyncio.timeout(float(probe.get("timeoutSeconds") or 1)):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                if "tcpSocket" in probe:
                    return True
                head = f"GET {how.get('path') or '/'} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode())
                status = (await reader.readline()).split()
                return len(status) > 1 and 200 <= int(status[1]) < 400
            finally:
                writer.close()
    except (TimeoutError, OSError, ValueError):
        return False


async def _serves(target: str, probe: Mapping[str, Any]) -> bool:
    """Ask gRPC's health service; its messages are one field each: the service's name, and the status (1: SERVING)."""
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # the node's forks only start programs
    import grpc.aio  # few pods need it

    name = str(probe["grpc"].get("service") or "").encode()
    question = b"\x0a" + bytes([len(name)]) + name if name else b""
    try:
        async with grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            return bool(await check(question, timeout=float(probe.get("timeoutSeconds") or 1)) == b"\x08\x01")
    except grpc.RpcError:
        return False


async def watch(
    probe: Mapping[str, Any], address: str, ports: Mapping[str, int], told: Callable[[bool], None], *, eager: bool
) -> None:
    """Probe until cancelled; tells each change that the thresholds let through (the first success, then every change).

    `eager`: until the first success failures do not count and the period is short.
    """
    period = float(probe.get("periodSeconds") or 10)
    enough = {True: int(probe.get("successThreshold") or 1), False: int(probe.get("failureThreshold") or 3)}
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    loop = asyncio.get_running_loop()
    began, state, last, count = loop.time(), None if eager else True, None, 0
    while True:
        good = await _succeeds(probe, address, ports)
        count = count + 1 if good == last else 1
        last = good
        if good != state and (state is not None or good) and count >= enough[good]:
            state = good
            told(good)
        hurry = state is None and loop.time() - began < _EAGER_FOR_SECONDS
        await asyncio.sleep(min(period, _EAGER_SECONDS) if hurry else period)
