"""A small fast HTTP/1.1 client for load: kept connections, no retries, every failure counted."""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request ended. `error` is empty when an answer came, whatever its status."""

    at: float  # Unix time at which the request was due
    seconds: float
    status: int
    version: str
    pod: str
    error: str


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[bytes, bool]] | None = None
        self._transport: asyncio.Transport
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._fail(exc or ConnectionResetError("closed before the answer"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def send(self, request: bytes) -> asyncio.Future[tuple[bytes, bool]]:
        self._buffer = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.open = False
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = self._buffer[:end].lower()
        body = self._buffer[end + 4 :]
        length = _header(head, b"content-length")
        if length:
            complete = len(body) >= int(length)
        elif _header(head, b"transfer-encoding") == b"chunked":
            complete = body.endswith(b"0\r\n\r\n")
        else:
            complete = True
        if complete and not self._answer.done():
            keep = _header(head, b"connection") != b"close"
            self._answer.set_result((self._buffer[:end], keep))
            if not keep:
                self.close()


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    end = head.find(b"\r\n", start + 2)
    return head[start + len(name) + 3 : end if end >= 0 else None].strip()


def _value(head: bytes, name: bytes) -> str:
    """A header of an answer with its case kept."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip().decode("latin-1")
    return ""


class Client:
    """Requests to one URL over a pool of kept connections."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        parsed = urllib.parse.urlsplit(url)
        if parsed.scheme != "http" or not parsed.hostname:
            raise ValueError(f"--url {url!r}: expected http://HOST[:PORT][/PATH]")
        self._host, self._port = parsed.hostname, parsed.port or 80
        target = urllib.parse.urlunsplit(("", "", parsed.path or "/", parsed.query, ""))
        lowered = {name.lower(): value for name, value in headers.items()}
        lines = [f"GET {target} HTTP/1.1"]
        sent = {"host": parsed.netloc, "user-agent": "lab-load"} | lowered
        lines += [f"{name}: {value}" for name, value in sent.items()]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._timeout = timeout
        self._idle: list[_Connection] = []

    async def get(self, due: float | None = None) -> Answer:
        """Send one request. `due`: the Unix time at which it should have gone out."""
        at = time.time() if due is None else due
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connect()
                head, keep = await connection.send(self._request)
        except (OSError, TimeoutError) as error:
            if connection is not None and connection.open:
                connection.close()
            why = str(error) or type(error).__name__
            return Answer(at, time.time() - at, 0, "", "", why)
        if keep:
            self._idle.append(connection)
        status = int(head.split(b" ", 2)[1])
        return Answer(at, time.time() - at, status, _value(head, b"x-served-version"), _value(head, b"x-served-by"), "")

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Connection, self._host, self._port)
        return made

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
