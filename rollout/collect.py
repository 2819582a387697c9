"""Fills the page of a rollout from the stack's history and from what Prometheus has stored; nothing is kept for it."""

from __future__ import annotations

import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from core import promql, split
from core.model import Settings
from core.timeline import Update, canaries
from rollout.judge import verdict
from rollout.metrics import NoData, Prometheus
from rollout.page import Arm, Page, Point, last_rollout

POINTS, LOOKS = 240, 40
"""Points of a curve and verdicts that are judged again, at the most; besides the verdicts before each update."""

STEP, SCRAPES, USUAL = 5, 4, 15
"""The shortest distance of points, in seconds; the scrapes that a rate looks back, and their usual distance."""

AFTER = timedelta(minutes=5)
"""What is shown after canary has gone."""


def collect(
    settings: Settings, stack: str, updates: Sequence[Update], now: datetime, source: Prometheus | None = None
) -> Page:
    """The page of the last rollout in `updates`, oldest first.

    Verdicts are judged again by the gate of today; what a rollout did on its own verdicts the updates say.
    """
    source, gate = source or Prometheus(settings.gate.prometheus), settings.gate
    run = last_rollout(updates)
    names = sorted({name for one in run for name in canaries(one)} & set(settings.services)) or list(settings.services)
    page = Page(stack=stack, service=", ".join(names), updates=updates, error_limit=gate.error_rate, p95_limit=gate.p95)
    if not run:
        return page
    over = not canaries(run[-1]) or run[-1].halted
    end = min(now, (run[-1].ended or run[-1].began) + AFTER) if over else now
    moments = _moments(run, run[-1].began if over else end)
    told = [(at, verdict(settings, updates, at, source=source, live=False)) for at in moments]
    curve = sorted({moment: value for _, one in told for moment, value in one.curve}.items())
    series, window = _series(promql.Raw(settings, tuple(names)), run[0].began, end, curve, source)
    return replace(
        page,
        updates=updates[max(0, len(updates) - len(run) - 1) :],
        series=series,
        window=window,
        verdicts=told,
        threshold=max(one.limit for _, one in told) if curve else None,
    )


def _moments(run: Sequence[Update], last: datetime) -> list[datetime]:
    """When to judge again: before each update, and in between."""
    begin = run[0].ended or run[0].began
    between = max(timedelta(seconds=STEP), (last - begin) / LOOKS)
    found = [begin + between * number for number in range(1, int((last - begin) / between) + 1)]
    return sorted({one.replace(microsecond=0) for one in (*found, *(one.began for one in run[1:]))})


def _scraped(of: promql.Raw, at: float, source: Prometheus) -> float:
    """Seconds from scrape to scrape."""
    metric = "http_requests_total" if promql.uses_app(of.settings) else "istio_requests_total"
    try:
        rows = [row for one in of.selectors(metric, [""], "stable") for row in source.ask(f"{one}[300s]", at)]
    except NoData:
        return USUAL
    times = max(([at for at, _ in values] for _, values in rows), key=len, default=[])
    gaps = sorted(after - before for before, after in pairwise(times))
    return gaps[len(gaps) // 2] if gaps else USUAL


def _series(
    of: promql.Raw, begin: datetime, end: datetime, curve: Sequence[tuple[float, float]], source: Prometheus
) -> tuple[list[Point], int]:
    """Rates of all services together, the slowest service's p95; and the seconds that each looks back."""
    length, scraped = max(STEP, (end - begin).total_seconds()), _scraped(of, end.timestamp(), source)
    step = max(STEP, round(scraped), round(length / POINTS))
    of = replace(of, window=max(math.ceil(SCRAPES * scraped), step))
    found: dict[str, defaultdict[float, dict[str, float]]] = {}
    for what, add in (("requests", float.__add__), ("failures", float.__add__), ("p95", max)):
        table = found[what] = defaultdict(dict)
        try:
            rows = source.ask(
                f"({of.series(what, 'stable|canary|unknown')} >= 0)[{length:.0f}s:{step}s]", end.timestamp()
            )
        except NoData:
            continue
        for labels, values in rows:
            # Who found no endpoint was canary's in all likelihood, as the judge has it.
            track = "stable" if labels.get("track") == "stable" else "canary"
            for at, value in values:
                table[at][track] = add(value, table[at][track]) if track in table[at] else value

    def arm(at: float, track: str) -> Arm:
        rates = [found[what][at].get(track) for what in ("requests", "failures")]
        requests, errors = (None if rate is None else rate * step for rate in rates)
        return Arm(requests=requests, errors=errors, p95=found["p95"][at].get(track))

    points, times = [], [at for at, _ in curve]
    for at in sorted(found["requests"]):
        canary, stable = arm(at, "canary"), arm(at, "stable")
        hits, misses = (round((one.requests or 0) * of.window / step) for one in (canary, stable))
        low, high = split.interval(hits, hits + misses) if hits + misses else (None, None)
        place = bisect(times, at)
        # The curve has the moments at which the evidence moved, and the last one of each look.
        known = place > 0 and at - times[-1] <= max(2 * step, of.window)
        points.append(
            Point(
                at=datetime.fromtimestamp(at, UTC),
                share=hits / (hits + misses) if hits + misses else None,
                share_low=low,
                share_high=high,
                canary=canary,
                stable=stable,
                evidence=curve[place - 1][1] if known else None,
            )
        )
    return points, of.window
