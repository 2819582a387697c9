"""Load on the lab, and who served it: `python -m lab load`, `run` for tests, `Steady` for load beside something else.

A request is lost when it ends in anything but 2xx or 403: another status, a reset, a refused connection, a timeout.
There are no retries that could hide one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lab import namespace
from lab.http_client import Answer, Client
from lab.namespace import LabError
from lab.paths import LAB

ORIGIN_SECRET = LAB / "origin-secret"  # `name: value`, written where the lab has an edge
TIMEOUT = 10.0

Told = Callable[[Answer], None]


@dataclass
class Counts:
    """Who served."""

    stable: int = 0
    canary: int = 0
    refused: int = 0
    lost: int = 0

    def add(self, answer: Answer) -> None:
        outcome = outcome_of(answer)
        setattr(self, outcome, getattr(self, outcome) + 1)

    @property
    def served(self) -> int:
        return self.stable + self.canary

    @property
    def total(self) -> int:
        return self.served + self.refused + self.lost


def outcome_of(answer: Answer) -> str:
    """`stable`, `canary`, `refused` or `lost`."""
    if answer.status == 403:
        return "refused"
    if 200 <= answer.status < 300 and answer.version in ("stable", "canary"):
        return answer.version
    return "lost"


def why_lost(answer: Answer) -> str:
    if answer.error:
        return answer.error
    if 200 <= answer.status < 300:
        return f"HTTP {answer.status} with x-served-version {answer.version!r}"
    return f"HTTP {answer.status}"


def count(answers: Iterable[Answer]) -> Counts:
    counts = Counts()
    for answer in answers:
        counts.add(answer)
    return counts


async def _closed(client: Client, requests: int, concurrency: int, told: Told) -> None:
    """Each worker sends its next request when it has its answer."""
    left = requests

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            told(await client.get())

    await asyncio.gather(*(worker() for _ in range(min(concurrency, requests))))


async def _open(client: Client, requests: int, rate: float, told: Told, stop: asyncio.Event) -> None:
    """Requests go out at their time, whether or not earlier ones were answered; `requests` 0 is until `stop`."""
    waiting: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        told(await client.get(due))

    begin, sent = time.time(), 0
    while not stop.is_set() and (requests == 0 or sent < requests):
        due = begin + sent / rate
        pause = due - time.time()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        sent += 1
    await asyncio.gather(*waiting)


async def _send(args: argparse.Namespace, headers: Mapping[str, str], told: Told) -> None:
    client = Client(args.url, headers, args.timeout)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if args.until_eof:  # whoever started this is gone when its end of the pipe is
        loop.add_reader(sys.stdin.fileno(), stop.set)
    try:
        if args.rate:
            await _open(client, args.requests, args.rate, told, stop)
        else:
            await _closed(client, args.requests, args.concurrency, told)
    finally:
        client.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True)
    parser.add_argument("--requests", type=int, default=1000, help="how many; 0 with --rate: until SIGTERM")
    parser.add_argument("--rate", type=float, help="requests per second, sent on schedule whatever the answers do")
    parser.add_argument("--concurrency", type=int, default=16, help="connections in use at once, without --rate")
    parser.add_argument("--header", action="append", default=[], metavar="K:V")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds after which a request is lost")
    parser.add_argument("--no-origin-secret", action="store_true", help="call as one who goes round the edge")
    parser.add_argument("--log", type=Path, help="write each answer as one line of JSON")
    parser.add_argument("--json", action="store_true", help="print the counts only")
    parser.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)


def _headers(given: Iterable[str], origin_secret: bool) -> dict[str, str]:
    found = {}
    lines = [ORIGIN_SECRET.read_text()] if origin_secret and ORIGIN_SECRET.exists() else []
    for text in [*lines, *given]:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise LabError(f"--header {text!r}: expected NAME:VALUE")
        found[name.strip()] = value.strip()
    return found


def main(args: argparse.Namespace) -> int:
    """`python -m lab load`."""
    if args.requests < 0 or (args.requests == 0 and not args.rate):
        raise LabError(f"--requests {args.requests}: expected a positive number, or 0 together with --rate")
    namespace.enter(namespace.running())
    headers = _headers(args.header, not args.no_origin_secret)
    counts, reasons = Counts(), Counter[str]()
    log = args.log.open("a", buffering=1) if args.log else None

    def told(answer: Answer) -> None:
        counts.add(answer)
        if outcome_of(answer) == "lost":
            reasons[why_lost(answer)] += 1
        if log is not None:
            log.write(json.dumps(asdict(answer)) + "\n")

    began = time.monotonic()
    try:
        asyncio.run(_send(args, headers, told))
    except ValueError as error:
        raise LabError(str(error)) from error
    seconds = time.monotonic() - began
    print(json.dumps(asdict(counts)))
    if not args.json:
        print(f"{counts.total} requests in {seconds:.2f} s, {counts.total / seconds:.0f}/s", file=sys.stderr)
    for reason, number in reasons.most_common(5):
        print(f"lost {number}: {reason}", file=sys.stderr)
    return 0


def run(
    url: str,
    requests: int,
    headers: Mapping[str, str] | None = None,
    rate: float | None = None,
    concurrency: int = 16,
    origin_secret: bool = True,
) -> Counts:
    """Send `requests` from inside the namespace, in a process of its own."""
    command = ["load", "--json", "--url", url, "--requests", str(requests), "--concurrency", str(concurrency)]
    command += _options(headers, rate, origin_secret)
    child = namespace.run_inside(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = child.communicate()
    if child.returncode != 0:
        raise LabError(f"load on {url} failed: {errors.decode().strip()}")
    return Counts(**json.loads(output))


def _options(headers: Mapping[str, str] | None, rate: float | None, origin_secret: bool) -> list[str]:
    words = [word for name, value in (headers or {}).items() for word in ("--header", f"{name}:{value}")]
    if rate is not None:
        words += ["--rate", str(rate)]
    return words if origin_secret else [*words, "--no-origin-secret"]


class Steady:
    """Load beside something else, on an open schedule: `with Steady(url, 200) as load: …; load.counts()`.

    Answers can be read while it runs (`answers()`); those of requests in flight come at the end.
    """

    def __init__(
        self, url: str, rate: float = 200, headers: Mapping[str, str] | None = None, origin_secret: bool = True
    ) -> None:
        self._arguments = ["load", "--json", "--url", url, "--requests", "0", "--until-eof"]
        self._arguments += _options(headers, rate, origin_secret)
        self._folder = tempfile.TemporaryDirectory(prefix="lab-load-")
        self._log = Path(self._folder.name) / "answers.jsonl"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Steady:
        command = [*self._arguments, "--log", str(self._log)]
        pipe: Any = subprocess.PIPE
        self._child = namespace.run_inside(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + TIMEOUT + 5
        while not self.answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise LabError(f"the steady load did not start: {' '.join(command)}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
            self._child.wait(TIMEOUT + 10)
        self._kept = self.answers()
        self._folder.cleanup()

    def answers(self) -> list[Answer]:
        """What was answered so far, in the order of the answers."""
        if not self._log.exists():
            return getattr(self, "_kept", [])
        lines = self._log.read_text().splitlines(keepends=True)
        return [Answer(**json.loads(line)) for line in lines if line.endswith("\n")]

    def counts(self) -> Counts:
        return count(self.answers())

    def lost(self) -> Counter[str]:
        """Why requests were lost."""
        return Counter(why_lost(answer) for answer in self.answers() if outcome_of(answer) == "lost")
