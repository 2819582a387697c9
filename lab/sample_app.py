"""The process of the image `sample-web`: a small HTTP/1.1 server that says which version and pod served.

The tag chooses how it behaves (`2.0`, `2.0-slow`, `2.0-fail5`, `2.0-above35`, `2.0-crash`, `2.0-unready`), and so do
variables; lab/README.md lists both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METRICS_PORT = 9102  # of `sample-grpc`; `sample-web` has its metrics beside its pages
LINGER_SECONDS = 0.3  # connections that arrive while a stop is on its way are still answered


@dataclass(frozen=True)
class Behaviour:
    """What the tag and the variables ask for; a variable wins over the tag."""

    slow_ms: float
    fail_percent: float
    fail_above_rps: float
    fail_file: str
    crash_after: float | None
    crash_file: str
    unready: bool

    @classmethod
    def of(cls, tag: str, env: Mapping[str, str]) -> Behaviour:
        variants = tag.split("-")[1:]
        fails = [float(match[1] or 50) for word in variants if (match := re.fullmatch(r"fail(\d*)", word))]
        above = [match[1] for word in variants if (match := re.fullmatch(r"above(\d+)", word))]
        crash = env.get("CRASH_AFTER") or ("3" if "crash" in variants else "")
        return cls(
            slow_ms=float(env.get("SLOW_MS") or (300 if "slow" in variants else 0)),
            fail_percent=float(env.get("FAIL_PERCENT") or (fails[0] if fails else 0)),
            fail_above_rps=float(env.get("FAIL_ABOVE_RPS") or (above[0] if above else "inf")),
            fail_file=env.get("FAIL_IF_FILE", ""),
            crash_after=float(crash) if crash else None,
            crash_file=env.get("CRASH_IF_FILE", ""),
            unready="unready" in variants,
        )


class App:
    """Identity, behaviour, metrics and connections of this pod."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.tag = env["IMAGE_TAG"]
        self.track = json.loads(env["POD_LABELS"]).get("version", "unknown")
        self.pod = env["POD_NAME"]
        self.behaviour = Behaviour.of(self.tag, env)
        self.closing = False
        self.open: set[asyncio.StreamWriter] = set()
        self.idle: set[asyncio.StreamWriter] = set()
        self._requests: Counter[int] = Counter()
        self._buckets = [0] * (len(_BUCKETS) + 1)
        self._seconds = 0.0
        self._second, self._in_second = 0, 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests in turn, each answered by one write."""
        self.open.add(writer)
        try:
            keep = True
            while keep:
                self.idle.add(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                self.idle.discard(writer)
                keep = await self._respond(head.decode("latin-1"), reader, writer)
        except (EOFError, ConnectionError):
            return  # the client has gone
        finally:
            self.idle.discard(writer)
            self.open.discard(writer)
            writer.close()

    async def _respond(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is kept for another request."""
        begun = time.perf_counter()
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        path = target.partition("?")[0]
        kind, status = "text/plain", 200
        if "transfer-encoding" in headers:
            status, body = 411, b"the sample app takes no chunked requests"
        elif path == "/metrics":
            body = self._metrics()
        elif path == "/healthz":
            status, body = (503, b"not ready") if self.behaviour.unready else (200, b"ready")
        else:
            await reader.readexactly(int(headers.get("content-length") or 0))
            await asyncio.sleep(self.behaviour.slow_ms / 1000)
            kind, status = "application/json", 500 if self.fails() else 200
            told = {"version": self.tag, "track": self.track, "pod": self.pod, "path": target, "headers": headers}
            body = json.dumps(told).encode()
            self.count(status, time.perf_counter() - begun)
        keep = not self.closing and status != 411 and headers.get("connection", "").lower() != "close"
        answer = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-type: {kind}",
            f"content-length: {len(body)}",
            f"x-served-by: {self.pod}",
            f"x-served-version: {self.track}",
            f"x-served-tag: {self.tag}",
            *([] if keep else ["connection: close"]),
        ]
        writer.write(("\r\n".join(answer) + "\r\n\r\n").encode() + (b"" if method == "HEAD" else body))
        await writer.drain()
        return keep

    def fails(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self.behaviour.fail_file and Path(self.behaviour.fail_file).exists():
            return True
        return self._in_second > self.behaviour.fail_above_rps or random.random() * 100 < self.behaviour.fail_percent

    def count(self, status: int, seconds: float) -> None:
        self._requests[status] += 1
        self._buckets[bisect_left(_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def _metrics(self) -> bytes:
        version = f'version="{self.track}"'
        lines = ["# TYPE http_requests_total counter"]
        for status, number in sorted(self._requests.items()):
            lines.append(f'http_requests_total{{status="{status}",{version}}} {number}')
        name, total = "http_request_duration_seconds", 0
        lines.append(f"# TYPE {name} histogram")
        for bound, number in zip([*map(str, _BUCKETS), "+Inf"], self._buckets, strict=True):
            total += number
            lines.append(f'{name}_bucket{{{version},le="{bound}"}} {total}')
        lines += [f"{name}_sum{{{version}}} {self._seconds:.6f}", f"{name}_count{{{version}}} {total}"]
        return ("\n".join(lines) + "\n").encode()


async def until_end(behaviour: Behaviour) -> int:
    """Returns 0 when the pod is told to stop, and 1 when it has to crash, after its time or because a file is there."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    why = f"after {behaviour.crash_after} s"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(behaviour.crash_after):
            while not stop.is_set() and not (behaviour.crash_file and Path(behaviour.crash_file).exists()):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.1 if behaviour.crash_file else None)
            if stop.is_set():
                return 0
            why = f"because {behaviour.crash_file} is there"
    print(f"sample app: crashes {why}, as it was asked to", flush=True)
    return 1


async def serve(env: Mapping[str, str]) -> int:
    app = App(env)
    address, port = env["POD_IP"], int(env.get("PORT") or 3000)
    if app.behaviour.crash_after != 0:
        server = await asyncio.start_server(app.connection, address, port, backlog=1024)
        print(f"sample-web:{app.tag} ({app.track}) listens on {address}:{port}", flush=True)
    if code := await until_end(app.behaviour):
        return code
    app.closing = True
    await asyncio.sleep(LINGER_SECONDS)
    server.close()
    while app.open:
        for writer in [*app.idle]:
            writer.close()
        await asyncio.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(os.environ)))
