"""Load on the lab, and who served it: `python -m lab load`, `run` for tests, `Steady` for load beside something else.

A request is lost when it ends in anything but 2xx or 403: another status, a reset, a refused connection, a timeout.
There are no retries that could hide one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from lab import edge, namespace
from lab.namespace import LabError, State

TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request ended. `error` is empty when an answer came, whatever its status."""

    at: float  # Unix time at which the request was due
    status: int
    version: str
    error: str
    number: int = 0  # of the request, in the order in which they went out

    @property
    def outcome(self) -> str:
        """`stable`, `canary`, `refused` or `lost`."""
        if self.status == 403:
            return "refused"
        if 200 <= self.status < 300 and self.version in ("stable", "canary"):
            return self.version
        return "lost"

    @property
    def why(self) -> str:
        return self.error or f"HTTP {self.status} with x-served-version {self.version!r}"


@dataclass
class Counts:
    """Who served."""

    stable: int = 0
    canary: int = 0
    refused: int = 0
    lost: int = 0

    @property
    def served(self) -> int:
        return self.stable + self.canary


def count(answers: Iterable[Answer]) -> Counts:
    return Counts(**Counter(answer.outcome for answer in answers))


class Client:
    """Requests to one URL over kept connections; `trusted` holds certificates to trust besides the system's, and each
    request has the next of the headers in `each` besides."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        trusted: Path | None = None,
        each: Sequence[Mapping[str, str]] = ({},),
    ) -> None:
        parsed = urllib.parse.urlsplit(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise LabError(f"--url {url!r}: expected http://, https:// or grpc://, then HOST[:PORT][/PATH]")
        self._tls = ssl.create_default_context() if parsed.scheme == "https" else None
        if self._tls is not None and trusted is not None:
            self._tls.load_verify_locations(trusted)
        self._host, self._port = parsed.hostname, parsed.port or (443 if self._tls else 80)
        target = urllib.parse.urlunsplit(("", "", parsed.path or "/", parsed.query, ""))
        sent = {"host": parsed.netloc} | {name.lower(): value for name, value in headers.items()}
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        self._request = "".join(f"{line}\r\n" for line in lines)
        self._numbers = itertools.count()
        self._each = ["".join(f"{name}: {value}\r\n" for name, value in one.items()) for one in each]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, due: float) -> Answer:
        """Send one request. `due`: the Unix time at which it should have gone out."""
        writer: asyncio.StreamWriter | None = None
        number = next(self._numbers)
        try:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = await self._connect()
                writer.write(f"{self._request}{self._each[number % len(self._each)]}\r\n".encode("latin-1"))
                status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = [line.partition(":") for line in lines]
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                await reader.readexactly(int(headers.get("content-length", "0")))
        except (OSError, EOFError, TimeoutError) as error:
            if writer is not None:
                writer.close()
            return Answer(due, 0, "", str(error) or type(error).__name__, number)
        if "content-length" in headers and headers.get("connection", "").lower() != "close":
            self._idle.append((reader, writer))
        else:
            writer.close()
        return Answer(due, int(status_line.split()[1]), headers.get("x-served-version", ""), "", number)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls)


class GrpcClient:
    """Empty unary calls of the method that a URL `grpc://HOST[:PORT]/PACKAGE.SERVICE/METHOD` names, in plain HTTP/2."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parsed = urllib.parse.urlsplit(url)
        self._target, self._method = f"dns:///{parsed.hostname}:{parsed.port or 80}", parsed.path
        self._authority = parsed.netloc
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._idle: list[Any] = []  # a channel is one connection; each carries one call at a time, as over HTTP/1.1

    async def get(self, due: float) -> Answer:
        """Call once; metadata says who answered, and PERMISSION_DENIED is a refusal."""
        import grpc

        if not self._idle:
            plain = {"grpc.enable_retries": 0, "grpc.enable_http_proxy": 0, "grpc.use_local_subchannel_pool": 1}
            options = [*plain.items(), ("grpc.default_authority", self._authority)]
            self._idle.append(grpc.aio.insecure_channel(self._target, options=options))
        channel = self._idle.pop()
        call = channel.unary_unary(self._method)(b"", timeout=TIMEOUT, metadata=self._metadata)
        status, error, version = 200, "", ""
        try:
            await call
            version = dict(await call.initial_metadata()).get("x-served-version", "")
        except grpc.aio.AioRpcError as problem:
            status = 403 if problem.code() == grpc.StatusCode.PERMISSION_DENIED else 0
            error = f"grpc {problem.code().name}: {problem.details()}"
        self._idle.append(channel)
        return Answer(due, status, version, error)


AnyClient = Client | GrpcClient


async def _closed(client: AnyClient, requests: int, concurrency: int, told: Callable[[Answer], None]) -> None:
    """Each worker sends its next request when it has its answer."""
    left = requests

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            told(await client.get(time.time()))

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def _open(client: AnyClient, requests: int, rate: float, told: Callable[[Answer], None]) -> None:
    """Requests go out at their time, whether or not earlier ones were answered; `requests` 0: until stdin ends."""
    stop = asyncio.Event()
    if requests == 0:  # whoever started this is gone when its end of the pipe is
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)

    async def one(due: float) -> None:
        told(await client.get(due))

    begin, sent = time.time(), 0
    async with asyncio.TaskGroup() as group:
        while not stop.is_set() and (requests == 0 or sent < requests):
            due = begin + sent / rate
            await asyncio.sleep(max(0.0, due - time.time()))
            group.create_task(one(due))
            sent += 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="http://, https:// or, for a unary gRPC method, grpc://")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="certificate to trust, for https")
    parser.add_argument("--requests", type=int, default=1000, help="how many; 0 with --rate: until stdin's pipe ends")
    parser.add_argument("--rate", type=float, help="requests per second, sent on schedule whatever the answers do")
    parser.add_argument("--concurrency", type=int, default=16, help="connections in use at once, without --rate")
    parser.add_argument("--header", action="append", default=[], metavar="K:V")
    parser.add_argument("--viewers", type=int, default=0, metavar="N", help="at an edge node: as so many addresses")
    parser.add_argument("--each", type=Path, metavar="FILE", help="headers for each request, a line of JSON")
    parser.add_argument("--no-origin-secret", action="store_true", help="call as one who goes round the edge")
    parser.add_argument("--log", type=Path, help="write each answer as one line of JSON")
    parser.add_argument("--json", action="store_true", help="print the counts only")


def _headers(given: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise LabError(f"--header {text!r}: expected NAME:VALUE")
        found[name.strip()] = value.strip()
    return found


def _of_the_edge(url: str, state: State) -> dict[str, str]:
    """What the edge would add for the gateway, asked of ministack; nothing for the edge itself, and inside the mesh."""
    parsed = urllib.parse.urlsplit(url)
    host, endpoint = parsed.hostname or "", state.environment.get("AWS_ENDPOINT_URL", "")
    if not endpoint or parsed.port in edge.NODES.values() or host.endswith(".cluster.local"):
        return {}
    return edge.origin_headers(endpoint, host)


def viewers(count: int, seed: int = 7) -> list[str]:
    """Different addresses, half of them IPv4, the others each of an IPv6 /64 of its own."""
    chance = random.Random(seed)
    four = [str(IPv4Address(number)) for number in chance.sample(range(0x0B000000, 0x7F000000), count - count // 2)]
    six = chance.sample(range(1 << 48), count // 2)
    return four + [str(IPv6Address(0x2A00 << 112 | number << 64 | chance.getrandbits(64))) for number in six]


def main(args: argparse.Namespace) -> int:
    """`python -m lab load`."""
    if args.requests < 0 or (args.requests == 0 and not args.rate):
        raise LabError(f"--requests {args.requests}: expected a positive number, or 0 together with --rate")
    state = namespace.running()
    namespace.enter(state)
    headers = ({} if args.no_origin_secret else _of_the_edge(args.url, state)) | _headers(args.header)
    each = [json.loads(line) for line in args.each.read_text().splitlines()] if args.each else [{}]
    each = [{edge.VIEWER: address} for address in viewers(args.viewers)] if args.viewers else each
    grpc = args.url.startswith("grpc://")
    client: AnyClient = GrpcClient(args.url, headers) if grpc else Client(args.url, headers, args.trust, each)
    answers: list[Answer] = []
    log = args.log.open("a", buffering=1) if args.log else None

    def told(answer: Answer) -> None:
        answers.append(answer)
        if log is not None:
            log.write(json.dumps(asdict(answer)) + "\n")

    began = time.monotonic()
    if args.rate:
        asyncio.run(_open(client, args.requests, args.rate, told))
    else:
        asyncio.run(_closed(client, args.requests, args.concurrency, told))
    seconds = time.monotonic() - began
    print(json.dumps(asdict(count(answers))))
    if not args.json:
        print(f"{len(answers)} requests in {seconds:.2f} s, {len(answers) / seconds:.0f}/s", file=sys.stderr)
    for reason, number in why_lost(answers).most_common(5):
        print(f"lost {number}: {reason}", file=sys.stderr)
    return 0


def why_lost(answers: Iterable[Answer]) -> Counter[str]:
    return Counter(answer.why for answer in answers if answer.outcome == "lost")


def _command(url: str, requests: int, headers: Mapping[str, str] | None) -> list[str]:
    words = [word for name, value in (headers or {}).items() for word in ("--header", f"{name}:{value}")]
    return ["load", "--json", "--url", url, "--requests", str(requests), *words]


def run(
    url: str,
    requests: int,
    headers: Mapping[str, str] | None = None,
    trusted: Path | None = None,
    viewers: int = 0,
    secret: bool = True,
) -> Counts:
    """Send `requests` from inside the namespace, in a process of its own; `secret` as the edge would at the gateway."""
    command = _command(url, requests, headers) + (["--trust", str(trusted)] if trusted else [])
    command += ["--viewers", str(viewers)] + ([] if secret else ["--no-origin-secret"])
    return Counts(**json.loads(_output(command)))


def each(url: str, headers: Sequence[Mapping[str, str]], secret: bool = True) -> list[Answer]:
    """One request with each of these headers, and the answers in that order."""
    with tempfile.TemporaryDirectory(prefix="lab-load-") as folder:
        lines, log = Path(folder, "each.jsonl"), Path(folder, "answers.jsonl")
        lines.write_text("".join(json.dumps(dict(one)) + "\n" for one in headers))
        command = [*_command(url, len(headers), None), "--each", str(lines), "--log", str(log)]
        _output(command + ([] if secret else ["--no-origin-secret"]))
        found = [Answer(**json.loads(line)) for line in log.read_text().splitlines()]
    return sorted(found, key=lambda answer: answer.number)


def _output(command: Sequence[str]) -> bytes:
    child = namespace.run_inside(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = child.communicate()
    if child.returncode != 0:
        raise LabError(f"load failed: {errors.decode().strip()}")
    return output


class Steady:
    """Load beside something else, on an open schedule: `with Steady(url, 200) as load: …; load.counts()`.

    Answers can be read while it runs (`answers()`); those of requests in flight come at the end.
    """

    def __init__(
        self,
        url: str,
        rate: float = 200,
        trusted: Path | None = None,
        headers: Mapping[str, str] | None = None,
        viewers: int = 0,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lab-load-")
        self._log = Path(self._folder.name) / "answers.jsonl"
        self._command = [*_command(url, 0, headers), "--rate", str(rate), "--log", str(self._log)]
        self._command += ["--viewers", str(viewers)]
        self._command += ["--trust", str(trusted)] if trusted else []

    def __enter__(self) -> Steady:
        self._child = namespace.run_inside(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + TIMEOUT + 5
        while not self.answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise LabError(f"the steady load did not start: {' '.join(self._command)}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(TIMEOUT + 10)

    def answers(self) -> list[Answer]:
        """What was answered so far, in the order of the answers."""
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return [Answer(**json.loads(line)) for line in lines if line.endswith("\n")]

    def counts(self) -> Counts:
        return count(self.answers())

    def lost(self) -> Counter[str]:
        """Why requests were lost."""
        return why_lost(self.answers())
