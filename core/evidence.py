"""From raw samples of counters to ticks: what each track served, disjoint, each request counted once.

Never from `rate` or `increase`: those extrapolate, overlap, and lose the first failure of a new series.  What is
counted depends on the samples and on the stack's history alone, so whoever looks again, or elsewhere, counts the same.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from core.bets import BURST, NONE, TICK, WARM_UP, Counts, Tick, total
from core.timeline import Stay

_Rows = defaultdict[tuple[str, str], list[int]]
_TRACKS = ("stable", "canary", "cold", "unknown")


@dataclass(frozen=True, slots=True)
class Series:
    """One counter: of requests, or, with `bound`, of those that took no longer (milliseconds).

    `target` counts, at `door`; a pod that counts its own requests has no door.  `track` is `stable`, `canary` or, where
    no endpoint was found, `unknown`.  `samples` are (Unix seconds, value).
    """

    door: str
    target: str
    track: str
    failed: bool
    bound: float | None
    samples: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Step:
    """`number` requests more, seen at `at`; the sample before was at `before`."""

    series: Series
    before: float
    at: float
    number: int
    restarted: bool


def _steps(series: Series, scrapes: Sequence[float], begin: float) -> Iterator[_Step]:
    """What a counter rose by from sample to sample.

    A series that appears has counted from 0 if its target was scraped before, or is a pod of canary that came after
    `begin`; otherwise nobody knows since when.  A value that falls is that of a counter that began anew.
    """
    samples = sorted(dict(series.samples).items())
    if not samples:
        return
    before, value = samples[0]
    earlier = bisect(scrapes, before - 1e-3)
    if earlier:
        yield _Step(series, scrapes[earlier - 1], before, round(value), False)
    elif not series.door and series.track == "canary" and before > begin:
        yield _Step(series, before, before, round(value), True)
    for at, now in samples[1:]:
        fell = now < value
        yield _Step(series, before, at, round(now if fell else now - value), fell)
        before, value = at, now


def ticks(found: Iterable[Series], stays: Sequence[Stay], bounds: Sequence[float] = ()) -> list[Tick]:
    """The ticks of one service while its canary was deployed.  `bounds`: those of `Evidence`."""
    known, begin = list(found), stays[0].since
    scrapes: defaultdict[str, list[float]] = defaultdict(list)
    for series in known:
        scrapes[series.target] += [at for at, _ in series.samples]
    times = {target: sorted(set(seen)) for target, seen in scrapes.items()}
    longest = max(BURST, 2 * interval(known))
    changes, places = [stay.since for stay in stays], {bound: place for place, bound in enumerate(bounds)}
    steps = [step for series in known for step in _steps(series, times[series.target], begin)]
    warm = _warm(steps, stays)
    counted: defaultdict[tuple[float, int], _Rows] = defaultdict(lambda: defaultdict(lambda: [0] * (3 + len(bounds))))
    for step in steps:
        stay, series = bisect(changes, step.at) - 1, step.series
        # A gap that hides a change of weight mixes two shares.
        across = step.at - step.before > longest and bisect(changes, step.before) - 1 != stay
        if stay < 0 or step.at > stays[stay].until or across or not step.number:
            continue
        cold = series.track != "stable" and any(one <= step.at < one + WARM_UP for one in warm[_who(series)])
        track = "cold" if cold else series.track
        row = counted[step.at // TICK, stay][series.door, track]
        if series.bound is None:
            row[0] += step.number
            row[1] += step.number if series.failed else 0
        elif math.isinf(series.bound):
            row[2] += step.number
        elif series.bound in places:
            row[3 + places[series.bound]] += step.number
    doors = sorted({door for rows in counted.values() for door, _ in rows})
    return [_tick(TICK * (tick + 1), stays[stay].weight, rows, doors) for (tick, stay), rows in sorted(counted.items())]


def _who(series: Series) -> str:
    """Who warms up: the pod, or, where a door counts, the track."""
    return series.door or series.target


def _warm(steps: Iterable[_Step], stays: Sequence[Stay]) -> defaultdict[str, set[float]]:
    """When warm-ups began: a pod's with it, canary's with its first request after an update that made pods."""
    found: defaultdict[str, set[float]] = defaultdict(set)
    first: dict[tuple[str, float], float] = {}
    fresh = [stay.since for stay in stays if stay.fresh]
    for step in steps:
        if step.series.track == "stable":
            continue
        if not step.series.door:
            if step.restarted:
                found[step.series.target].add(step.at)
        elif step.number and (last := bisect(fresh, step.at)):
            key = step.series.door, fresh[last - 1]
            first[key] = min(first.get(key, math.inf), step.at)
    for (door, _), at in first.items():
        found[door].add(at)
    return found


def _tick(at: float, weight: int, rows: _Rows, doors: Sequence[str]) -> Tick:
    found, cold = [], NONE
    for door in doors:
        stable, canary, early, lost = (_counts(rows.get((door, one))) for one in _TRACKS)
        # Who found no endpoint is canary's, unless stable answered nobody either: then all are in the same trouble.
        ours = lost.requests if stable.requests else round(lost.requests * weight / 100)
        failed = min(ours, lost.failures)
        canary = total([canary, Counts(ours, failed)])
        found.append((canary, total([stable, Counts(lost.requests - ours, lost.failures - failed)])))
        cold = total([cold, early])
    return Tick(at, tuple(found), cold)


def _counts(row: list[int] | None) -> Counts:
    if row is None:
        return NONE
    requests, failures, timed, *within = row
    return Counts(requests, failures, tuple(min(requests, max(0, timed - one)) for one in within) if timed else ())


def interval(found: Sequence[Series]) -> float:
    """Seconds from scrape to scrape, by the first ones: more samples later do not change it."""
    samples = min((sorted(dict(one.samples)) for one in found if len(one.samples) > 1), default=[])[:21]
    gaps = sorted(after - before for before, after in pairwise(samples))
    return gaps[len(gaps) // 2] if gaps else 0.0


def newest(found: Iterable[Series]) -> float:
    """When the last sample was taken; minus infinity without any."""
    return max((one.samples[-1][0] for one in found if one.samples), default=-math.inf)
