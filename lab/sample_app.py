"""The process of the image `sample-web`: one small fast HTTP/1.1 server that says which version and pod served.

The tag chooses how it behaves (`2.0`, `2.0-slow`, `2.0-fail5`, `2.0-crash`, `2.0-crashloop`, `2.0-unready`), and so do
variables; lab/README.md lists both.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_REASONS = {
    200: "OK",
    400: "Bad Request",
    411: "Length Required",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_LINGER_SECONDS = 0.3  # connections that arrive while a stop is on its way are still answered
_MAX_HEAD = 64 * 1024


@dataclass(frozen=True)
class Behaviour:
    """What the tag and the variables ask for; a variable wins over the tag."""

    slow_ms: float
    fail_percent: float
    fail_above_rps: float
    crash_after: float | None
    unready: bool

    @classmethod
    def of(cls, tag: str, env: Mapping[str, str]) -> Behaviour:
        variants = tag.split("-")[1:]
        fails = [float(match[1] or 50) for word in variants if (match := re.fullmatch(r"fail(\d*)", word))]
        crash = 3.0 if "crash" in variants else 0.0 if "crashloop" in variants else None
        return cls(
            slow_ms=float(env.get("SLOW_MS") or (300 if "slow" in variants else 0)),
            fail_percent=float(env.get("FAIL_PERCENT") or (fails[0] if fails else 0)),
            fail_above_rps=float(env.get("FAIL_ABOVE_RPS") or 0),
            crash_after=float(env["CRASH_AFTER"]) if env.get("CRASH_AFTER") else crash,
            unready="unready" in variants or env.get("UNREADY") == "true",
        )


class App:
    """Identity, behaviour and metrics of this pod."""

    def __init__(self, env: Mapping[str, str]) -> None:
        labels: dict[str, str] = json.loads(env.get("POD_LABELS") or "{}")
        self.tag = env.get("IMAGE_TAG", "dev")
        self.track = labels.get("version", "unknown")
        self.pod = env.get("POD_NAME", "local")
        self.behaviour = Behaviour.of(self.tag, env)
        self.closing = False
        self.connections: set[Connection] = set()
        self._requests: dict[int, int] = {}
        self._buckets = [0] * (len(_BUCKETS) + 1)
        self._seconds = 0.0
        self._window = 0
        self._in_window = 0

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        status = 500 if self._fails() else 200
        told = {
            "version": self.tag,
            "track": self.track,
            "pod": self.pod,
            "path": path,
            "status": status,
            "headers": headers,
        }
        return status, json.dumps(told).encode()

    def _fails(self) -> bool:
        second = int(time.monotonic())
        if second != self._window:
            self._window, self._in_window = second, 0
        self._in_window += 1
        limit = self.behaviour.fail_above_rps
        if limit and self._in_window > limit:
            return True
        return random.random() * 100 < self.behaviour.fail_percent

    def count(self, status: int, seconds: float) -> None:
        self._requests[status] = self._requests.get(status, 0) + 1
        self._buckets[bisect_left(_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def metrics(self) -> bytes:
        version = f'version="{self.track}"'
        lines = ["# HELP http_requests_total Requests served.", "# TYPE http_requests_total counter"]
        for status, number in sorted(self._requests.items()):
            lines.append(f'http_requests_total{{status="{status}",{version}}} {number}')
        name = "http_request_duration_seconds"
        lines += [f"# HELP {name} Time from the request's head to its answer.", f"# TYPE {name} histogram"]
        total = 0
        for bound, number in zip([*map(str, _BUCKETS), "+Inf"], self._buckets, strict=True):
            total += number
            lines.append(f'{name}_bucket{{{version},le="{bound}"}} {total}')
        lines += [f"{name}_sum{{{version}}} {self._seconds:.6f}", f"{name}_count{{{version}}} {total}"]
        return ("\n".join(lines) + "\n").encode()


class Connection(asyncio.Protocol):
    """One client connection: requests in turn, each answered by one write."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._buffer = b""
        self._busy = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._app.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._app.connections.discard(self)

    @property
    def idle(self) -> bool:
        return not self._busy and not self._buffer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        """Begin the next request if all of it is here."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > _MAX_HEAD:
                self._refuse(400)
            return
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        pairs = [line.partition(":") for line in lines[1:]]
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if len(words) != 3:
            self._refuse(400)
            return
        if "transfer-encoding" in headers:
            self._refuse(411)
            return
        length = int(headers.get("content-length") or 0)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._busy = True
        begun = time.perf_counter()
        method, target, version = words
        path = target.partition("?")[0]
        keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if path == "/metrics":
            self._send(200, self._app.metrics(), "text/plain; version=0.0.4", keep, method)
        elif path == "/healthz":
            status = 503 if self._app.behaviour.unready else 200
            self._send(status, b"ready" if status == 200 else b"not ready", "text/plain", keep, method)
        else:
            delay = self._app.behaviour.slow_ms
            if path.startswith("/delay/") and path[7:].isdigit():
                delay += int(path[7:])
            serve = partial(self._serve, target, headers, keep, method, begun)
            if delay:
                asyncio.get_running_loop().call_later(delay / 1000, serve)
            else:
                serve()

    def _serve(self, target: str, headers: dict[str, str], keep: bool, method: str, begun: float) -> None:
        status, body = self._app.answer(target, headers)
        self._app.count(status, time.perf_counter() - begun)
        self._send(status, body, "application/json", keep, method)

    def _send(self, status: int, body: bytes, kind: str, keep: bool, method: str) -> None:
        keep = keep and not self._app.closing
        app = self._app
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
            f"x-served-by: {app.pod}\r\nx-served-version: {app.track}\r\nx-served-tag: {app.tag}\r\n"
            f"{'' if keep else 'connection: close' + chr(13) + chr(10)}\r\n"
        )
        self._busy = False
        if self._transport.is_closing():
            return
        self._transport.write(head.encode("latin-1") + (b"" if method == "HEAD" else body))
        if not keep:
            self._transport.close()
        elif self._buffer:
            self._next()

    def _refuse(self, status: int) -> None:
        self._send(status, b"", "text/plain", False, "GET")


async def serve(env: Mapping[str, str]) -> int:
    app = App(env)
    if app.behaviour.crash_after == 0:
        print("sample-web: crashes at its start, as its tag asks", flush=True)
        return 1
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    address, port = env.get("POD_IP", "127.0.0.1"), int(env.get("PORT") or 3000)
    server = await loop.create_server(lambda: Connection(app), address, port, backlog=1024)
    print(f"sample-web:{app.tag} ({app.track}) listens on {address}:{port}", flush=True)
    try:
        async with asyncio.timeout(app.behaviour.crash_after):
            await stop.wait()
    except TimeoutError:
        print(f"sample-web: crashes after {app.behaviour.crash_after} s, as its tag asks", flush=True)
        return 1
    app.closing = True
    await asyncio.sleep(_LINGER_SECONDS)
    server.close()
    while app.connections:
        for connection in [connection for connection in app.connections if connection.idle]:
            connection.close()
        await asyncio.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(os.environ)))
