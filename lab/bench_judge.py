"""`python -m lab.bench_judge`: how well rules decide, by simulated rollouts: ours beside those of the peers.

Requests arrive as in a Poisson process and are counted every 10 s.  The peers walk the ladder in steps of 5 minutes; ours
stays until it is sure, half an hour a step at the most.  What others do was read in their source (docs/judge.md).
Needs no lab; runs are seeded, so the figures come out the same everywhere.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from random import Random

from core.bets import NONE, TICK, WARM_UP, Counts, Meter, Tick, interval, limit
from core.model import Gate

LADDER = (5, 10, 25, 50, 100)
STEP, LONGEST, MINUTE = 300, 1800, 60
PODS = 20
GATE = Gate()
PEERS = ("R1, at step end", "R1, each minute", "Flagger", "Argo", "Kayenta")
THRESHOLDS = PEERS[:4]
OURS = "ours"


@dataclass(frozen=True)
class World:
    """What happens: `rate` requests per second, a `base` share of failures, canary `times` as bad, and what befalls it.

    `burst`: seconds in which a pod fails 30 % more, once per hour and pod.  `outage`: both fail 5 % more for a minute.
    `cold`: a new pod fails 2 % more for 30 s.
    """

    rate: float
    base: float
    times: float = 1.0
    burst: int = 0
    outage: bool = False
    cold: bool = False

    @property
    def grows(self) -> bool:
        """Pods follow the weight."""
        return bool(self.burst or self.cold)


class Run:
    """One rollout in a world: (canary, stable) of each tick, drawn when it is asked for."""

    def __init__(self, world: World, seed: str) -> None:
        self.world, self._random = world, Random(seed)
        self._outage = self._random.uniform(0, len(LADDER) * STEP) if world.outage else math.inf
        self._bursts: dict[int, list[float]] = {}

    def tick(self, at: float, weight: int, began: float, former: int) -> tuple[Counts, Counts]:
        """What both tracks serve in the 10 s after `at`; `former` was the weight before `began`."""
        world, share = self.world, weight / 100
        pods = max(1, round(PODS * share))
        bad = [min(1.0, world.base * world.times), world.base]
        if world.outage:
            more = 0.05 * max(0.0, min(at + TICK, self._outage + MINUTE) - max(at, self._outage)) / TICK
            bad = [bad[0] + more, bad[1] + more]
        if world.cold and at < began + 30:
            bad[0] += 0.02 * (1 - round(PODS * former / 100) / pods)
        if world.burst:
            fails = [self._failing(pod, at) for pod in range(PODS)]
            bad[0] += 0.3 * sum(fails[:pods]) / pods
            bad[1] += 0.3 * sum(fails[pods:]) / max(1, PODS - pods)
        return self._counts(world.rate * share, bad[0]), self._counts(world.rate * (1 - share), bad[1])

    def _failing(self, pod: int, at: float) -> float:
        """The part of a tick in which a pod is in a burst."""
        begins = self._bursts.setdefault(pod, [self._random.expovariate(1 / 3600) - self.world.burst])
        while begins[-1] < at + TICK:
            begins.append(begins[-1] + self.world.burst + self._random.expovariate(1 / 3600))
        return sum(max(0.0, min(at + TICK, one + self.world.burst) - max(at, one)) for one in begins[-3:]) / TICK

    def _counts(self, rate: float, bad: float) -> Counts:
        good, failed = self._poisson(rate * TICK * (1 - bad)), self._poisson(rate * TICK * bad)
        return Counts(good + failed, failed)

    def _poisson(self, mean: float) -> int:
        if mean > 200:  # the normal one is within 1 % of it everywhere that matters
            return max(0, round(self._random.gauss(mean, math.sqrt(mean))))
        found, chance, least = 0, self._random.random(), math.exp(-mean)
        sum_ = least
        while chance > sum_ and least:
            found += 1
            least *= mean / found
            sum_ += least
        return found


@dataclass(frozen=True)
class End:
    """How a rollout ended: rolled back after so many seconds, or not; failed requests of canary; whether it got to 100 %."""

    seconds: float | None
    failed: int
    finished: bool = True


def ours(run: Run, gate: Gate = GATE) -> End:
    """Our rule, looked at every 10 s: what `core.judge` does, but each block is counted once."""
    meter, at, began, former, failed, all_ = Meter(gate), 0.0, 0.0, 0, 0, [NONE, NONE]
    for number, weight in enumerate(LADDER):
        evidence, began, met = 1.0, at, [0, 0]
        while True:
            canary, stable = run.tick(at, weight, began, former)
            fresh = at < began + WARM_UP and (number == 0 or run.world.grows)
            pair = NONE if fresh else canary, stable
            at, failed = at + TICK, failed + canary.failures
            all_ = [Counts(a.requests + b.requests, a.failures + b.failures) for a, b in zip(all_, pair, strict=True)]
            met = [met[0] + canary.requests, met[1] + stable.requests]
            meter.add(Tick(at, (pair,), canary if fresh else NONE))
            age = at - began
            if canary.failures or age >= STEP:  # without a failure it does not rise
                evidence = meter.evidence()
                if evidence >= limit(gate):
                    return End(at, failed, False)
            if age >= STEP and evidence < math.sqrt(limit(gate)) and met[0] and (met[1] or weight == 100):
                onward = LADDER[min(number + 1, len(LADDER) - 1)] / 100
                if onward * (interval(all_[0].failures, all_[0].requests)[1] - all_[1].share()) <= gate.error_rate:
                    break
            if age >= LONGEST:
                return End(None, failed, False)
        former = weight
    return End(None, failed)


def peers(run: Run) -> dict[str, End]:
    """The peers on one and the same rollout."""
    found: dict[str, End] = {}
    minutes: list[tuple[Counts, Counts]] = []
    failures, failed, at = {"Flagger": 0, "Argo": 0}, 0, 0.0
    for number, weight in enumerate(LADDER):
        for minute in range(STEP // MINUTE):
            ticks = []
            for _ in range(MINUTE // TICK):
                ticks.append(run.tick(at, weight, number * STEP, LADDER[number - 1] if number else 0))
                at += TICK
            pairs = [Counts(sum(one.requests for one in arm), sum(one.failures for one in arm)) for arm in zip(*ticks)]
            minutes.append((pairs[0], pairs[1]))
            failed += pairs[0].failures
            last = [canary for canary, _ in minutes[-5:]]
            share = sum(one.failures for one in last) / max(1, sum(one.requests for one in last))
            says = {"R1, each minute": share > 0.01, "R1, at step end": minute == 4 and share > 0.01}
            for rule, allowed in (("Flagger", 5), ("Argo", 4)):
                failures[rule] += pairs[0].share() > 0.01 or not pairs[0].requests
                says[rule] = failures[rule] >= allowed
            says["Kayenta"] = minute == 4 and kayenta(minutes[-5:])
            for rule in (rule for rule, rolls in says.items() if rolls and rule not in found):
                found[rule] = End(at, failed, False)
    return {rule: found.get(rule, End(None, failed)) for rule in PEERS}


def kayenta(minutes: Sequence[tuple[Counts, Counts]]) -> bool:
    """Whether its judge fails these points: Mann and Whitney's 98 % interval of the shift is above a quarter of it.

    With five points the interval is above 0 only where every one of canary's is above every one of stable's, and its
    end is then the least difference.
    """
    arms = [[100 * one.share() for one in arm if one.requests] for arm in zip(*minutes, strict=True)]
    n, m = map(len, arms)
    if (
        not n
        or not m
        or (n * m / 2 - 0.5) / math.sqrt(n * m * (n + m + 1) / 12) <= statistics.NormalDist().inv_cdf(0.99)
    ):
        return False
    apart = [ours - theirs for ours in arms[0] for theirs in arms[1]]
    return min(apart) > 0.25 * statistics.median(apart)


def _work(task: tuple[World, int, int, bool]) -> dict[str, list[End]]:
    world, first, last, all_ = task
    os.nice(0)
    found: dict[str, list[End]] = {rule: [] for rule in (*PEERS, OURS)}
    for number in range(first, last):
        found[OURS].append(ours(Run(world, f"{world} {number}")))
        for rule, end in peers(Run(world, f"{world} {number}")).items() if all_ else ():
            found[rule].append(end)
    return found


def cell(pool: Pool, world: World, runs: int, *, all_: bool = True) -> dict[str, list[End]]:  # type: ignore[valid-type]
    """`runs` rollouts by each rule."""
    size = max(1, runs // 8)
    parts = pool.map(_work, [(world, at, min(at + size, runs), all_) for at in range(0, runs, size)])  # type: ignore[attr-defined]
    return {rule: [end for part in parts for end in part[rule]] for rule in (*PEERS, OURS)}


def share(ends: Sequence[End]) -> float:
    """Rolled back, in per cent."""
    return 100 * sum(end.seconds is not None for end in ends) / max(1, len(ends))
