"""The evidence page: what is in it, what may not be, and what a browser makes of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from core.judge import Kind, Verdict
from core.timeline import Update
from rollout.page import Arm, Page, Point, headline, render, version

START = datetime(2026, 11, 21, 10, 4, 30, tzinfo=UTC)
EVERY = 30
OLD, NEW, BAD = (
    f"registry.example.com/shop/web:{tag}@sha256:{digit * 64}"
    for tag, digit in (("1.9.2", "a"), ("2.0.0", "b"), ("3.0.0", "c"))
)
VOID = {"meta", "link", "br", "img", "input", "hr"}
QUERIES = tuple(
    f'istio_requests_total{{reporter="{door}",destination_service_namespace="shop",destination_service_name=~"web"'
    ',destination_workload=~"(?:.+-)?(stable|canary|unknown)",response_code!="0"}'
    for door in ('source",source_workload="istio-ingressgateway",source_workload_namespace="istio-ingress', "waypoint")
)


def update(number: int, seconds: float, weight: int, images: dict[str, str], **more: Any) -> Update:
    """An update of service web that took 6 s."""
    began = START + timedelta(seconds=seconds)
    known = {"author": "Kim Berg", "commit": f"{number:x}" * 40, "message": f"web: weight {weight}", **more}
    ended = began + timedelta(seconds=6)
    return Update(
        version=number,
        began=began,
        ended=ended,
        result="succeeded",
        **{"halted": False, **known},
        weight=weight,
        images={"web": images},
    )


class Made:
    """A rollout as it may have been: 100 requests per second, measured every 30 s, judged every minute."""

    def __init__(self) -> None:
        self.dice = random.Random(4)
        self.points = list[Point]()
        self.verdicts = list[tuple[datetime, Verdict]]()
        self.bets = dict.fromkeys((1.5, 2, 4, 8, 16), 0.0)
        self.total = {"canary": [0, 0], "stable": [0, 0]}

    def poisson(self, mean: float) -> int:
        if mean > 50:
            return max(0, round(self.dice.gauss(mean, math.sqrt(mean))))
        number, left = 0, self.dice.random()
        while left > math.exp(-mean):
            number, left = number + 1, left * self.dice.random()
        return number

    def run(
        self, begin: float, end: float, weight: int, failing: tuple[float, float], p95: tuple[float, float]
    ) -> None:
        """Both arms, canary first, at a weight; stops once the evidence is 100 : 1."""
        for second in range(int(begin) + EVERY, int(end) + 1, EVERY):
            at, arms, counted = START + timedelta(seconds=second), dict[str, Arm](), list[int]()
            for arm, part, share, time in zip(("canary", "stable"), (weight, 100 - weight), failing, p95, strict=True):
                requests = self.poisson(100 * EVERY * part / 100)
                errors = min(requests, self.poisson(requests * share))
                wobble = time * (1 + self.dice.gauss(0, 0.6 / math.sqrt(1 + requests / 50)) * 0.5)
                arms[arm] = Arm(requests=requests, errors=errors, p95=wobble if requests else None)
                self.total[arm][0] += errors
                self.total[arm][1] += requests
                counted += [errors, requests]
            self._bet(*counted)
            share = counted[1] / max(1, counted[1] + counted[3])
            width = 2.58 * math.sqrt(max(share * (1 - share), 1e-9) / max(1, counted[1] + counted[3]))
            evidence = sum(math.exp(one) for one in self.bets.values()) / len(self.bets)
            low, high = max(0, share - width), min(1, share + width)
            self.points.append(Point(at=at, share=share, share_low=low, share_high=high, evidence=evidence, **arms))
            clock = f"{(second - begin) // 60:.0f}:{(second - begin) % 60:02.0f}"
            counts = "failed of canary {0:,} of {1:,} ({2}), of stable {3:,} of {4:,} ({5})".format(
                *(one for errors, all_ in self.total.values() for one in (errors, all_, f"{errors / max(1, all_):.2%}"))
            )
            if evidence >= 100:
                bad, all_ = self.total["canary"]
                fair = (bad + self.total["stable"][0]) * all_ / (all_ + self.total["stable"][1])
                said = f"web: canary failed {bad:,} of {all_:,} requests ({bad / all_:.2%})"
                said += f"; of equals, canary would have had about {fair:.0f} failures, not {bad}"
                chance = (
                    f"after {clock} at {weight} %; a healthy canary meets such evidence in less than 1 of 100 rollouts"
                )
                return self.say(at, "rollback", said, counts, chance)
            if (second - begin) % 60 < EVERY:
                self.say(at, "hold", f"{clock} of at least {(end - begin) // 60:.0f}:00 at {weight} %", counts)
        odds = f"{evidence:.2g} : 1 (rollback at 100 : 1)"
        return self.say(at, "advance", f"after {clock} at {weight} % the evidence against canary is {odds}", counts)

    def say(self, at: datetime, kind: Kind, reason: str, *notes: str) -> None:
        self.verdicts.append((at, Verdict(kind, reason, notes, queries=QUERIES)))

    def _bet(self, bad: int, requests: int, stable_bad: int, stable: int) -> None:
        if requests and stable:
            for g, log in self.bets.items():
                both = (bad + stable_bad) * math.log((1.1 * requests + stable) / (1.1 * g * requests + stable))
                self.bets[g] = log + min(bad * math.log(g) + both, math.log(10))


def good() -> Page:
    """Web 2.0.0 climbs to 100 % and is promoted; Prometheus was away for 3 minutes."""
    made, both, updates, second = Made(), {"stable": OLD, "canary": NEW}, list[Update](), 0
    for number, (weight, minutes) in enumerate(((5, 10), (10, 8), (25, 8), (50, 8), (100, 12)), 41):
        said = {"verdict": "advance", "reason": made.verdicts[-1][1].reason} if made.verdicts else {}
        author = "Rollout Robot" if said else "Kim Berg"
        updates.append(update(number, second, weight, both, said=said, author=author))
        made.run(second + 6, second + 60 * minutes, weight, (0.0011, 0.0012), (212, 224))
        second += 60 * minutes
    updates.append(update(46, second, 0, {"stable": NEW}, message="web: promote 2.0.0"))
    lost = Verdict("hold", "Prometheus at http://prometheus.monitoring:9090 did not answer within 5 s", queries=QUERIES)

    def away(at: datetime) -> bool:
        return START + timedelta(minutes=20) < at < START + timedelta(minutes=23)

    series = [one for one in made.points if not away(one.at)]
    return page(updates, series, [(at, lost if away(at) else one) for at, one in made.verdicts])


def bad() -> Page:
    """Web 3.0.0 fails 1 % of its requests and is rolled back at 5 %."""
    made, both = Made(), {"stable": NEW, "canary": BAD}
    made.run(-120, 0, 0, (0, 0.0012), (0, 221))
    made.verdicts.clear()
    made.run(6, 900, 5, (0.007, 0.0012), (251, 221))
    at, last = made.verdicts[-1]
    after = (at - START).total_seconds() + 2
    said = {"verdict": "rollback", "reason": last.reason, "evidence": f"{made.points[-1].evidence:.0f}"}
    updates = [
        update(46, -900, 0, {"stable": NEW}, message="web: promote 2.0.0"),
        update(47, -300, 0, both, message="web: 3.0.0 for the testers"),
        update(48, 0, 5, both, message="web: 3.0.0 to the first 5 %"),
        update(49, after, 0, both, halted=True, said=said, author="Rollout Robot", commit="9f3c" * 10),
    ]
    told = list(made.verdicts)
    made.run(after + 6, after + 180, 0, (0.0, 0.0012), (0, 219))
    points = [one if one.canary.requests else replace(one, canary=Arm(), evidence=None) for one in made.points]
    return page(updates, points, [*told, (at + timedelta(seconds=20), Verdict("hold", "the stack is halted"))])


def page(
    updates: Sequence[Update] = (), series: Sequence[Point] = (), verdicts: Sequence[tuple[datetime, Verdict]] = ()
) -> Page:
    limits = {"threshold": 100, "error_limit": 0.01, "p95_limit": 500}
    return Page(stack="prod", service="web", updates=updates, series=series, verdicts=verdicts, **limits)


class Browser:
    """Chromium without a window, driven through its debugging pipe; `seen` are its events."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--no-first-run",
            "--disable-background-networking",
        ]
        # The browser reads file descriptor 3 and writes 4.
        script = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        self.process = subprocess.Popen(
            ["sh", "-c", script, chromium(), *flags],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self.out, self.into = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb")
        self.seen, self.number, self.session = list[dict[str, Any]](), 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self.number += 1
        about = {"sessionId": self.session} if self.session else {}
        self.out.write(json.dumps({"id": self.number, "method": method, "params": params, **about}).encode() + b"\0")
        return self._wait(lambda told: told.get("id") == self.number)["result"]

    def _wait(self, wanted: Any) -> dict[str, Any]:
        while True:
            told = bytearray()
            while (byte := self.into.read(1)) != b"\0":
                assert byte, "chromium went away"
                told += byte
            message: dict[str, Any] = json.loads(told)
            self.seen.append(message)
            if wanted(message):
                return message

    def open(self, url: str, width: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Page.navigate", url=url)
        self._wait(lambda told: told.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, height: int | None = None) -> bytes:
        import base64

        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        told = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(told["data"])

    def close(self) -> None:
        self.out.close()
        self.process.terminate()
        self.process.wait(20)
        self.into.close()


def chromium() -> str:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
