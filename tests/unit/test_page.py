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
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from core import checks
from core.judge import Kind, Verdict
from core.timeline import Update
from rollout import history
from rollout.cli import Exit
from rollout.collect import LOOKS, collect
from rollout.metrics import Prometheus
from rollout.page import Arm, Page, Point, headline, render, version
from rollout.plot import HEIGHT

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
            counts = "failed of canary {:,} of {:,} ({}), of stable {:,} of {:,} ({})".format(
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


@cache
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


@cache
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
    made = Page(stack="prod", service="web", updates=updates, series=series, verdicts=verdicts)
    return replace(made, threshold=100, error_limit=0.01, p95_limit=500)


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
            ["bash", "-c", script, chromium(), *flags],
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


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of `fff` or `ffffff`."""
    parts = [int(part * (3 - len(part)), 16) / 255 for part in re.findall("." * (len(colour) // 3), colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


class Reader(HTMLParser):
    """What a page holds: tags with attributes, the text, and whether all that was opened was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words, self.open, self.style = list[tuple[str, dict[str, str]]](), list[str](), list[str](), ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def paths(self, kind: str) -> list[str]:
        """The drawings of a CSS class, in the order of the figures."""
        return [about["d"] for tag, about in self.tags if tag == "path" and kind in about.get("class", "").split()]


@pytest.mark.parametrize("sample", [good, bad])
class TestWhatAReaderFinds:
    def test_every_verdict_with_its_time_its_sentence_and_its_queries(self, sample: Callable[[], Page]) -> None:
        page = sample()
        found = Reader(render(page))
        times = [about["datetime"] for tag, about in found.tags if tag == "time"]
        assert len(page.verdicts) > 3
        for at, one in page.verdicts:
            assert f"{at:%Y-%m-%dT%H:%M:%SZ}" in times
            assert one.reason in found.text
        links = [about["href"] for tag, about in found.tags if tag == "a"]
        assert len(links) == sum(len(one.queries) for _, one in page.verdicts)
        ids = [about["id"] for _, about in found.tags if "id" in about]
        assert len(ids) == len(set(ids))
        assert {link.removeprefix("#") for link in links} <= set(ids)
        assert all(query in found.text for query in QUERIES)

    def test_every_update_with_who_when_weight_images_commit_and_reason(self, sample: Callable[[], Page]) -> None:
        page = sample()
        found = Reader(render(page))
        for one in page.updates:
            for words in (one.author, one.commit[:10], f"{one.weight} %", one.said.get("reason") or one.message):
                assert words in found.text
            assert f"{one.began:%Y-%m-%dT%H:%M:%SZ}" in [about.get("datetime") for _, about in found.tags]
            assert all(image in found.text for image in one.images["web"].values())

    def test_each_drawing_is_described_and_has_its_figures_in_a_table(self, sample: Callable[[], Page]) -> None:
        page = sample()
        found = Reader(render(page))
        drawings = [about for tag, about in found.tags if about.get("class") == "plot"]
        named = {name for about in drawings for name in about["aria-labelledby"].split()}
        assert len(drawings) == 4 and len(named) == 8
        assert named <= {about.get("id") for tag, about in found.tags if tag in ("title", "desc")}
        tables = [about for tag, about in found.tags if tag == "table" and about["class"] == "figures"]
        assert len(tables) == 4
        assert "no data" not in found.text

    def test_nothing_is_asked_of_anybody(self, sample: Callable[[], Page]) -> None:
        found = Reader(render(sample()))
        assert not {"script", "iframe", "img", "object", "form"} & {tag for tag, _ in found.tags}
        for _, about in found.tags:
            assert not [name for name in about if name.startswith("on") or name == "style"]
            assert about.get("href", "#").startswith(("#", "data:,")) and "src" not in about
        assert "default-src 'none'" in next(
            about["content"] for _, about in found.tags if about.get("http-equiv") == "Content-Security-Policy"
        )
        assert found.style.count("{") > 50
        assert not re.search(r"url\(|@import|//", found.style)

    def test_both_colour_schemes_and_paper_are_provided_for(self, sample: Callable[[], Page]) -> None:
        style = Reader(render(sample())).style
        light, dark = (set(re.findall(r"--\w+", part)) for part in style.split("prefers-color-scheme: dark")[:2])
        assert len(light) >= 9 and light <= dark
        assert "@media print" in style

    def test_texts_stand_out_from_the_page_as_wcag_asks(self, sample: Callable[[], Page]) -> None:
        style = Reader(render(sample())).style
        light, dark = style.split("prefers-color-scheme: dark")[:2]
        for part in (light, dark.split("body {")[0]):
            colours = dict(re.findall(r"--(\w+): #(\w+)", part))
            assert len(colours) == 10
            for name in ("ink", "soft", "canary", "stable", "line", "good"):
                bright, dim = sorted((luminance(colours[name]), luminance(colours["paper"])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, name

    def test_tracks_differ_in_more_than_colour(self, sample: Callable[[], Page]) -> None:
        style = Reader(render(sample())).style
        assert re.search(r"svg \.stable {[^}]*stroke-dasharray", style)
        assert not re.search(r"svg \.canary {[^}]*stroke-dasharray", style)


class TestHeadline:
    @pytest.mark.parametrize(
        ("made", "outcome", "sentence"),
        [
            (good, "promoted", "web 2.0.0: promoted at 100 %, 46:00 after its first request"),
            (bad, "rolled back", "web 3.0.0: rolled back at 5 %, 3:08 after its first request"),
        ],
    )
    def test_says_what_became_of_the_rollout(self, made: Callable[[], Page], outcome: str, sentence: str) -> None:
        assert headline(made()) == (outcome, sentence)
        assert sentence.replace(" %", "\u00a0%") in Reader(render(made())).open + Reader(render(made())).words

    def test_why_it_was_done_is_what_the_update_says_and_not_what_is_judged_later(self) -> None:
        made = bad()
        said = {"verdict": "rollback", "reason": "the alert CanaryHighErrorRate fires"}
        found = Reader(render(replace(made, updates=[*made.updates[:-1], replace(made.updates[-1], said=said)])))
        heads = [i for i, (_, about) in enumerate(found.tags) if about.get("class") == "lede"]
        assert len(heads) == 1 and found.text.count(said["reason"]) == 2
        assert found.text.index(said["reason"]) < found.text.index(made.verdicts[-2][1].reason)

    def test_says_where_a_rollout_is_that_goes_on(self) -> None:
        both = {"stable": OLD, "canary": NEW}
        updates = [update(1, 0, 0, {"stable": OLD}), update(2, 60, 0, both), update(3, 120, 5, both)]
        assert headline(page(updates[:1])) == ("no rollout", "web: no canary has been deployed yet")
        assert headline(page(updates[:2]))[0] == "in test"
        assert headline(page(updates)) == ("rolling out", "web 2.0.0: rolling out at 5 %, 0:00 after its first request")
        baking = update(4, 180, 100, both)
        assert headline(page([*updates, baking]))[0] == "baking"
        assert headline(page([*updates, update(4, 180, 0, {"stable": OLD})]))[0] == "withdrawn"

    def test_a_canary_that_was_rolled_back_stays_so_when_it_is_taken_away(self) -> None:
        gone = update(50, 3600, 0, {"stable": NEW})
        assert headline(replace(bad(), updates=[*bad().updates, gone])) == headline(bad())

    def test_the_last_rollout_counts_and_an_update_that_failed_does_not(self) -> None:
        first, second = good().updates, [replace(one, version=one.version + 10) for one in bad().updates]
        later = [replace(one, began=one.began + timedelta(hours=2), ended=None) for one in second]
        failed = replace(later[-2], version=99, result="failed", weight=10, halted=False)
        found = headline(page([*first, *later, failed]))
        assert found[0] == "rolled back" and found[1].startswith("web 3.0.0: rolled back at 5 %")

    @pytest.mark.parametrize(
        ("image", "found"),
        [
            ("registry:5000/shop/web:2.0@sha256:" + "a" * 64, "2.0"),
            ("web@sha256:" + "ab" * 32, "abababababab"),
            ("registry:5000/web", "registry:5000/web"),
            ("web:2.0", "2.0"),
        ],
    )
    def test_a_version_is_the_tag_else_the_digest_else_the_image(self, image: str, found: str) -> None:
        assert version(image) == found


class TestWhatIsMissing:
    def test_a_gap_is_a_gap_in_the_line_and_not_a_zero(self) -> None:
        whole = [Point(at=START + timedelta(seconds=30 * i), share=0.05, evidence=2) for i in range(10)]
        (drawn,) = [one for one in Reader(render(page(series=whole))).paths("canary") if one][:1]
        assert drawn.count("M") == 1 and drawn.count("L") == 9
        for nothing in (None, math.nan):
            holed = [replace(one, share=nothing) if i == 4 else one for i, one in enumerate(whole)]
            (drawn,) = [one for one in Reader(render(page(series=holed))).paths("canary") if one][:1]
            assert drawn.count("M") == 2 and drawn.count("L") == 7
            assert {part.split()[1] for part in re.split("[ML]", drawn) if part} == {drawn.split("L")[0].split()[1]}

    def test_points_that_are_not_there_are_a_gap_too(self) -> None:
        series = [Point(at=START + timedelta(seconds=30 * i), share=0.05) for i in range(20) if not 8 <= i < 12]
        drawn = Reader(render(page(series=series))).paths("canary")[0]
        assert drawn.count("M") == 2 and drawn.count("L") == 14

    def test_a_track_without_requests_has_no_rate(self) -> None:
        assert Arm(requests=0, errors=0).rate is None
        assert Arm(requests=4, errors=1).rate == 0.25
        assert Arm(errors=1).rate is None and Arm(requests=4).rate is None

    def test_without_anything_the_page_says_so(self) -> None:
        found = Reader(render(page()))
        assert "no canary has been deployed yet" in found.text
        assert "Nothing has been measured yet." in found.text and "None has been given." in found.text
        assert [about for _, about in found.tags if about.get("class") == "plot"] == []

    def test_updates_alone_are_drawn(self) -> None:
        found = Reader(render(page(good().updates)))
        assert len(found.paths("weight")) == 1
        assert "share: no data" in found.text and "canary: no data" in found.text

    def test_a_single_point_is_drawn(self) -> None:
        found = Reader(render(page(series=[Point(at=START, share=0.05, evidence=3, stable=Arm(p95=20))])))
        assert [one.count("M") for one in found.paths("canary") if one] == [1]
        assert "3 : 1" in found.text and "20 ms" in found.text

    def test_without_a_threshold_there_is_no_evidence_to_show(self) -> None:
        found = Reader(render(replace(good(), threshold=None, error_limit=None, p95_limit=None)))
        assert len([about for _, about in found.tags if about.get("class") == "plot"]) == 3
        assert "limit" not in found.text

    @pytest.mark.parametrize("evidence", [0.0, 1e-300, 1e300, math.inf])
    def test_evidence_beyond_the_scale_lies_on_its_edge(self, evidence: float) -> None:
        series = [Point(at=START + timedelta(seconds=30 * i), evidence=value) for i, value in enumerate((1, evidence))]
        drawn = next(one for one in Reader(render(page(series=series))).paths("evidence") if one)
        assert [float(part.split()[1]) for part in re.split("[ML]", drawn) if part][1] in (0, HEIGHT)

    def test_a_thousand_points_and_verdicts_all_appear(self) -> None:
        series = [
            Point(at=START + timedelta(seconds=30 * i), share=0.05, canary=Arm(requests=9, errors=1), evidence=1.5)
            for i in range(1000)
        ]
        told = [(one.at, Verdict("hold", f"look {i} of many")) for i, one in enumerate(series)]
        found = Reader(render(page(good().updates, series, told)))
        assert sum(tag == "tr" for tag, _ in found.tags) > 4000
        words = found.text
        assert all(f"look {i} of many" in words for i in range(1000))
        assert [about.get("class") for _, about in found.tags].count("mark") < 1010


class TestHostileTexts:
    BAD = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)> & \"' $body ${title} \ud800"

    def test_texts_stay_texts(self) -> None:
        images = {f"web{self.BAD}": {"stable": self.BAD, "canary": f"{self.BAD}2"}}
        one = replace(
            update(1, 0, 5, {}), images=images, message=self.BAD, author=self.BAD, commit=self.BAD, result=self.BAD,
            said={self.BAD: self.BAD},
        )  # fmt: skip
        told = [(START, Verdict("rollback", self.BAD, (self.BAD,), queries=(self.BAD,)))]
        made = Page(stack=self.BAD, service=self.BAD, updates=[one], verdicts=told, threshold=100)
        found = Reader(render(made))
        assert not {"script", "img"} & {tag for tag, _ in found.tags}
        assert found.text.count("<script>alert(1)</script>") >= 10
        assert "$body ${title}" in found.text
        assert not [name for _, about in found.tags for name in about if name.startswith("on")]


class Samples:
    """A Prometheus that scrapes: stable gets 20 requests per second, canary 1, of which `failing` fail."""

    def __init__(self, *, away: bool = False, every: int = 15, failing: float = 0.1) -> None:
        self.away, self.every, self.failing, self.asked = away, every, failing, list[str]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        form = dict(urllib.parse.parse_qsl(request.content.decode()))
        query, end = form["query"], float(form["time"])
        self.asked.append(query)
        if self.away:
            raise httpx.ConnectError("connection refused")
        found = self.rates(query, end) if ":" in query.rpartition("[")[2] else self.counters(query, end)
        return httpx.Response(200, json={"status": "success", "data": {"resultType": "matrix", "result": found}})

    def rates(self, query: str, end: float) -> list[dict[str, Any]]:
        length, step = (int(one.strip("s]")) for one in query.rpartition("[")[2].split(":"))
        begin = math.ceil((end - length) / step) * step
        values = {"stable": 20.0, "canary": 0.9, "unknown": 0.1}
        if "histogram_quantile" in query:
            values = {"stable": 210.0, "canary": 250.0}
        elif '5.."' in query:
            values = {"stable": 0.0, "canary": 0.0, "unknown": 0.1}
        return [
            {
                "metric": {"service": "web", "track": track},
                "values": [[at, str(value)] for at in range(begin, int(end), step)],
            }
            for track, value in values.items()
        ]

    def counters(self, query: str, end: float) -> list[dict[str, Any]]:
        length = int(query.rpartition("[")[2].strip("s]"))
        if "waypoint" in query:
            return []
        rates = {("stable", "200"): 20, ("canary", "200"): 1 - self.failing, ("canary", "503"): self.failing}
        zero = START.timestamp() - 3600
        times = range(math.ceil((end - length) / self.every) * self.every, math.floor(end) + 1, self.every)
        return [
            {
                "metric": {"destination_workload": f"web-{track}", "response_code": code, "instance": "gateway"},
                "values": [[at, str((at - zero) * rate // 1)] for at in times],
            }
            for (track, code), rate in rates.items()
        ]


class TestFilling:
    UPDATES = (update(1, -9000, 0, {"stable": OLD}), *bad().updates[1:])

    def page(self, web: dict[str, Any], samples: Samples, *updates: Update, minutes: int = 60) -> Page:
        web["gate"] = {"errorRate": "2%"}
        settings = checks.parse(web)[0]
        source = Prometheus("http://prometheus.test", transport=httpx.MockTransport(samples))
        return collect(settings, "lab", updates, START + timedelta(minutes=minutes), source)

    def test_both_arms_and_the_share_come_from_prometheus(self, web: dict[str, Any]) -> None:
        made = self.page(web, Samples(), *self.UPDATES)
        assert len(made.series) > 30
        for one in made.series:
            assert one.share == pytest.approx(1 / 21, abs=0.002)
            assert one.share_low is not None and one.share_high is not None
            assert one.share_low < 1 / 21 < one.share_high
            assert one.canary.rate == pytest.approx(0.1) and one.stable.rate == 0
            assert (one.canary.p95, one.stable.p95) == (250, 210)
        # 5 minutes before the weight rose, 3:08 of it, 5 minutes after; each request once.
        assert made.series[-1].at - made.series[0].at == pytest.approx(timedelta(minutes=13), abs=timedelta(minutes=1))
        total = sum(one.stable.requests or 0 for one in made.series)
        assert total == pytest.approx(20 * 15 * len(made.series))
        assert (made.error_limit, made.p95_limit, made.threshold) == (0.02, None, 100)
        assert made.window == 60 and "each point tells of the 60 s before it" in Reader(render(made)).text

    @pytest.mark.parametrize("every", [2, 15, 60])
    def test_a_rate_looks_back_over_four_scrapes(self, web: dict[str, Any], every: int) -> None:
        samples = Samples(every=every)
        made = self.page(web, samples, *self.UPDATES)
        assert made.window == 4 * every
        asked = [query for query in samples.asked if ":" in query.rpartition("[")[2]]
        assert len(asked) == 3 and all(f"[{4 * every}s]" in query for query in asked)
        between = {after.at - before.at for before, after in pairwise(made.series)}
        assert between == {timedelta(seconds=max(5, every))}

    def test_verdicts_are_judged_again_up_to_the_end_of_the_rollout(self, web: dict[str, Any]) -> None:
        made = self.page(web, Samples(), *self.UPDATES)
        times = [at for at, _ in made.verdicts]
        assert times == sorted(set(times)) and len(times) <= LOOKS + len(self.UPDATES)
        assert {one.began.replace(microsecond=0) for one in self.UPDATES[2:]} <= set(times)
        assert times[-1] == self.UPDATES[-1].began
        assert made.verdicts[-1][1].kind == "rollback"
        curve = [one.evidence for one in made.series if one.evidence is not None]
        assert max(curve) >= 100 and len(curve) < len(made.series)
        assert headline(made)[0] == "rolled back"
        assert len(Reader(render(made)).paths("evidence")) == 1

    def test_evidence_that_does_not_move_is_known_all_the_same(self, web: dict[str, Any]) -> None:
        made = self.page(web, Samples(failing=0), *self.UPDATES[:-1], minutes=30)
        moved = {at for _, one in made.verdicts for at, _ in one.curve}
        known = [one.at for one in made.series if one.evidence is not None]
        warm = [one.at for one in made.series if one.at > START + timedelta(minutes=2)]
        assert len(moved) < len(warm) and set(warm) <= set(known)

    def test_what_went_on_before_the_last_rollout_is_left_out_but_for_one_update(self, web: dict[str, Any]) -> None:
        earlier = [replace(one, began=one.began - timedelta(days=1), ended=None) for one in good().updates]
        made = self.page(web, Samples(), *earlier, *bad().updates)
        assert [one.version for one in made.updates] == [46, 47, 48, 49]
        assert made.series[0].at > START - timedelta(minutes=6)

    def test_a_rollout_that_goes_on_is_shown_up_to_now(self, web: dict[str, Any]) -> None:
        made = self.page(web, Samples(), *self.UPDATES[:-1], minutes=2)
        assert made.series[-1].at > START + timedelta(seconds=100)
        assert made.verdicts[-1][0] > START + timedelta(seconds=100)

    def test_without_prometheus_the_page_says_so_and_shows_what_is_known(self, web: dict[str, Any]) -> None:
        made = self.page(web, Samples(away=True), *self.UPDATES)
        assert made.series == [] and made.threshold is None
        assert {one.kind for _, one in made.verdicts} == {"hold"}
        text = Reader(render(made)).text
        assert "Prometheus at http://prometheus.test cannot be read" in text
        assert "web 3.0.0: rolled back at 5" in text

    def test_without_a_canary_nobody_is_asked(self, web: dict[str, Any]) -> None:
        samples = Samples()
        made = self.page(web, samples, self.UPDATES[0])
        assert samples.asked == [] and made.series == () and made.verdicts == ()
        assert "no canary has been deployed yet" in Reader(render(made)).text


class TestCommand:
    @pytest.fixture
    def run(self, web: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        """`rollout history` in a project whose stack had two updates, and whose Prometheus is not there."""
        web["gate"] = {"prometheus": "http://127.0.0.1:9"}
        images = {"web": {"stable": {"image": OLD}, "canary": {"image": NEW}}}
        entries = [
            SimpleNamespace(
                kind="update",
                version=0,
                start_time=(START + timedelta(minutes=minutes)).replace(tzinfo=None),
                end_time=None,
                message="by hand",
                environment={"git.author": "Kim Berg"},
                config={
                    "canary:weight": SimpleNamespace(value=str(weight), secret=False),
                    "canary:services": SimpleNamespace(value=json.dumps(images), secret=False),
                },
                result="succeeded",
                resource_changes={"update": 1},
            )
            for minutes, weight in ((9, 5), (0, 0))
        ]
        engine = SimpleNamespace(history=lambda limit: entries[:limit])
        site = SimpleNamespace(engine=engine, stack="prod", settings=lambda: checks.parse(web)[0])
        monkeypatch.setattr(history, "Site", SimpleNamespace(find=lambda stack: site))
        return lambda *args: CliRunner().invoke(history.command, [*args])

    def test_history_writes_the_page_and_prints_as_ever(self, run: Callable[..., Result], tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        # All of the rollout is in the page, however little is printed.
        found = run("--limit", "1", "--html", str(path))
        assert (found.exit_code, found.output) == (0, run("--limit", "1").output)
        text = Reader(path.read_text(encoding="utf-8")).text
        assert "web 2.0.0: rolling out at 5" in text and "Prometheus at http://127.0.0.1:9 cannot be read" in text
        assert text.count("by hand") >= 2

    def test_a_file_that_cannot_be_written_ends_in_one_line(self, run: Callable[..., Result], tmp_path: Path) -> None:
        found = run("--html", str(tmp_path / "no" / "page.html"))
        assert found.exit_code == Exit.FAILED
        assert found.output == f"Error: {tmp_path}/no/page.html cannot be written: No such file or directory\n"


@pytest.mark.lab
@pytest.mark.skipif(not chromium(), reason="no Chromium here: python3 -m lab.setup --browser")
class TestInABrowser:
    @pytest.fixture(scope="class")
    @classmethod
    def browser(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
        with contextlib.closing(Browser(tmp_path_factory.mktemp("chromium"))) as found:
            yield found

    @pytest.mark.parametrize("sample", [good, bad])
    @pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False)])
    def test_fits_complains_of_nothing_and_loads_nothing(
        self, browser: Browser, tmp_path: Path, sample: Callable[[], Page], width: int, dark: bool
    ) -> None:
        path = tmp_path / "page.html"
        path.write_text(render(sample()), encoding="utf-8")
        browser.seen.clear()
        browser.open(path.as_uri(), width, dark)
        asked = [
            one["params"]["request"]["url"] for one in browser.seen if one.get("method") == "Network.requestWillBeSent"
        ]
        assert asked == [path.as_uri()]
        assert browser.ask("document.documentElement.scrollWidth") == width
        paper = browser.ask("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
        # Every line of the drawings has an extent, and no text of theirs lies outside the page.
        assert browser.ask("[...document.querySelectorAll('path.curve')].every(one => one.getBBox().width > 0)")
        assert browser.ask(
            "[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect())"
            ".every(one => one.left >= 0 && one.right <= innerWidth)"
        )
        complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        assert [one for one in browser.seen if one.get("method") in complaints] == []
        assert len(browser.picture()) > 50_000
