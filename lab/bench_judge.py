"""`python -m lab.bench_judge`: how well rules decide, by simulated rollouts: ours beside those of the peers.

Requests arrive as in a Poisson process and are counted every 10 s.  The peers walk the ladder in steps of 5 minutes,
ours stays until it is sure, half an hour a step at the most.  What the others do is in docs/judge.md.  Needs no lab;
runs are seeded, so the figures come out the same everywhere.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

from core.bets import NONE, TICK, WARM_UP, Counts, Evidence, Meter, Tick, interval, limit, total
from core.judge import Step, judge
from core.model import Gate
from lab.paths import ROOT

LADDER = (5, 10, 25, 50, 100)
STEP, LONGEST, MINUTE = 300, 1800, 60
PODS = 20
GATE = Gate()
PEERS = ("R1, at step end", "R1, each minute", "Flagger", "Argo", "Kayenta")
THRESHOLDS = PEERS[:4]
NORMAL_99 = statistics.NormalDist().inv_cdf(0.99)
CORES = len(os.sched_getaffinity(0))
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
        self._bursts = [(pod, begin) for pod in range(PODS) for begin in self._begins()] if world.burst else []

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
            for pod, begin in self._bursts:
                if begin < at + TICK and at < begin + world.burst:
                    part = (min(at + TICK, begin + world.burst) - max(at, begin)) / TICK
                    bad[pod >= pods] += 0.3 * part / (pods if pod < pods else PODS - pods)
        return self._counts(world.rate * share, bad[0]), self._counts(world.rate * (1 - share), bad[1])

    def _begins(self) -> Iterator[float]:
        """When a pod's bursts begin, as long as a rollout may take."""
        begin = -float(self.world.burst)
        while (begin := begin + self._random.expovariate(1 / 3600)) < LONGEST * len(LADDER):
            yield begin
            begin += self.world.burst

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
    """How a rollout ended: after so many seconds rolled back, or not; canary's failed requests; if all rungs passed."""

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
            pairs = [total(arm) for arm in zip(*ticks, strict=True)]
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
    n, m = len(arms[0]), len(arms[1])
    if not n or not m or (n * m / 2 - 0.5) / math.sqrt(n * m * (n + m + 1) / 12) <= NORMAL_99:
        return False
    apart = [ours - theirs for ours in arms[0] for theirs in arms[1]]
    return bool(min(apart) > 0.25 * statistics.median(apart))


def _work(task: tuple[World, int, int, bool]) -> dict[str, list[End]]:
    world, first, last, beside = task
    found: dict[str, list[End]] = {rule: [] for rule in (*PEERS, OURS)}
    for number in range(first, last):
        found[OURS].append(ours(Run(world, f"{world} {number}")))
        for rule, end in peers(Run(world, f"{world} {number}")).items() if beside else ():
            found[rule].append(end)
    return found


def cell(pool: Executor, world: World, runs: int) -> dict[str, list[End]]:
    """`runs` rollouts by each rule."""
    size = max(1, runs // 8)
    tasks = [(world, at, min(at + size, runs), True) for at in range(0, runs, size)]
    parts = list(pool.map(_work, tasks))
    return {rule: [end for part in parts for end in part[rule]] for rule in (*PEERS, OURS)}


def share(ends: Sequence[End]) -> float:
    """Rolled back, in per cent."""
    return 100 * sum(end.seconds is not None for end in ends) / max(1, len(ends))


def times(ends: Sequence[End]) -> str:
    """`440/700, 58`: median and 95th percentile of the seconds, median of canary's failed requests; - is never."""
    found = sorted(math.inf if end.seconds is None else end.seconds for end in ends)
    words = [f"{one:.0f}" if one < math.inf else "-" for one in (found[len(found) // 2], found[len(found) * 95 // 100])]
    part = "" if share(ends) > 99 else f"{share(ends):.2g} %, "
    return f"{part}{'/'.join(words)}, {statistics.median(end.failed for end in ends):.0f}"


RATES = (10, 100, 1000)
HEALTHY = {f"base {100 * base:g} %": {"base": base} for base in (0.001, 0.005, 0.01)}
BEFALLEN: dict[str, dict[str, Any]] = {
    "i.i.d.": {},
    "outage of both, 60 s, +5 points": {"outage": True},
    "pod bursts of 10 s": {"burst": 10},
    "pod bursts of 30 s": {"burst": 30},
    "cold start, 30 s, +2 points": {"cold": True},
}
BROKEN = {
    # world, and median and share found that the rule was shown to have (None: nearly all)
    "0.1 % x2, 1000/s": (World(1000, 0.001, 2), 440, None),
    "0.1 % x5, 100/s": (World(100, 0.001, 5), 400, None),
    "0.1 % x5, 10/s": (World(10, 0.001, 5), None, 58),
    "0.5 % x2, 100/s": (World(100, 0.005, 2), 660, None),
    "0.5 % x2, 10/s": (World(10, 0.005, 2), None, 37),
    "all fail, 100/s": (World(100, 0.001, 1000), 30, None),
    "1 % x2, 1000/s": (World(1000, 0.01, 2), 130, None),
    "1 % x5, 1000/s": (World(1000, 0.01, 5), 100, None),
}


def speed(seconds: float = 4) -> dict[str, float]:
    """Verdicts per second of processor time, times processors: at 30 moments all over a rollout of 25 minutes."""
    with ProcessPoolExecutor(CORES) as pool:
        return {
            name: sum(pool.map(_verdicts, [(slo, seconds)] * CORES)) for name, slo in (("errors", 0), ("and p95", 1))
        }


def _verdicts(task: tuple[int, float]) -> float:
    slo, seconds = task
    world = Run(World(100, 0.002), "speed")
    bounds = (100.0, 250.0, 500.0, 1000.0, 2500.0) if slo else ()
    gate, every = Gate.model_validate({"p95": "500ms"} if slo else {}), []
    for number in range(150):
        weight = LADDER[number // 30]
        pair = world.tick(10.0 * number, weight, 0, 0)
        slow = [tuple(one.requests * part // 100 for part in (50, 20, 4, 2, 1)) if slo else () for one in pair]
        canary, stable = (one._replace(slow=each) for one, each in zip(pair, slow, strict=True))
        every.append(Tick(10.0 * number + 10, ((canary, stable),)))
    best, moments, began = math.inf, range(4, 150, 5), time.process_time()
    while time.process_time() < began + seconds:
        start = time.process_time()
        for number in moments:
            step = Step(300.0 * (number // 30), every[number].at, LADDER[number // 30], 100, 300)
            judge({"web": Evidence(every[: number + 1], bounds, 2 if slo else None)}, gate, step)
        best = min(best, time.process_time() - start)  # others, who are busy too, slow down the rest
    return len(moments) / best


def measure(runs: int) -> dict[str, Any]:
    """All tables; `runs` rollouts in each healthy cell, a quarter of it elsewhere."""
    found: dict[str, Any] = {"runs": runs, "verdicts per second": speed()}
    print(f"bench: verdicts per second: {found['verdicts per second']}", flush=True)
    healthy: dict[str, dict[str, Any]] = {name: {**one} for name, one in HEALTHY.items()}
    healthy |= {name: {"base": 0.002, **one} for name, one in BEFALLEN.items()}
    with ProcessPoolExecutor(CORES) as pool:
        for name, world in healthy.items():
            for rate in RATES:
                ends = cell(pool, World(rate, **world), runs)
                found.setdefault("false", {}).setdefault(name, {})[str(rate)] = {
                    rule: round(share(one), 2) for rule, one in ends.items()
                }
                print(f"  {name}, {rate}/s: {found['false'][name][str(rate)]}", flush=True)
        for name, (one, *_) in BROKEN.items():
            ends = cell(pool, one, runs // 4)
            told = {rule: times(each) for rule, each in ends.items()}
            seconds = sorted(math.inf if end.seconds is None else end.seconds for end in ends[OURS])
            middle = seconds[len(seconds) // 2]
            own = {"median": middle if middle < math.inf else None, "share": share(ends[OURS])}
            found.setdefault("found", {})[name] = {"rules": told, **own}
            print(f"  {name}: {told}", flush=True)
    return found


def misses(found: Mapping[str, Any]) -> list[str]:
    """What falls short of the goals, beyond what so few runs can tell."""
    lines, runs = [], found["runs"]
    for name, cells in found["false"].items():
        for rate, rules in cells.items():
            best = min(rules[rule] for rule in THRESHOLDS)
            goal = best if name.startswith("pod") else 1.0
            error = 300 * math.sqrt(max(goal, 100 / runs) / 100 / runs)
            if rules[OURS] > goal + error:
                lines.append(f"{name}, {rate}/s: {rules[OURS]} % false rollbacks, and {goal} % is the goal")
    for name, (_, middle, part) in BROKEN.items():
        own = found["found"][name]
        if middle is not None and (own["median"] is None or own["median"] > 1.15 * middle):
            lines.append(f"{name}: found after {own['median']} s, and {middle} s + 15 % is the goal")
        if part is not None and own["share"] < 0.85 * part - 3 * math.sqrt(part * (100 - part) / (runs // 4)):
            lines.append(f"{name}: {own['share']:.0f} % found, and {part} % - 15 % is the goal")
    return lines


def tables(found: Mapping[str, Any]) -> list[str]:
    """For `docs/benchmarks.md`."""
    rules = [*PEERS, OURS]
    rows = [["healthy canary, false rollbacks in %, at 10 / 100 / 1000 requests per second", *rules], ["---"] * 7]
    for name, cells in found["false"].items():
        rows.append([name, *(" / ".join(f"{cells[str(rate)][rule]:g}" for rate in RATES) for rule in rules)])
    lines = [f"| {' | '.join(row)} |" for row in rows] + [""]
    rows = [["bad canary: found, median/p95 seconds, requests failed", *rules], ["---"] * 7]
    rows += [[name, *(one["rules"][rule] for rule in rules)] for name, one in found["found"].items()]
    lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    verdicts = ", ".join(f"{number:.0f} ({name})" for name, number in found["verdicts per second"].items())
    told = misses(found) or ["none"]
    return [
        "## Decisions, in simulation",
        "",
        f"{found['runs']} rollouts by each rule in a healthy cell, a quarter of it in a bad one.",
        "",
        *lines,
        f"Verdicts per second on {CORES} processors: {verdicts}.  Goals missed: {'; '.join(told)}.",
        "",
    ]


def main() -> int:
    """Measures, prints and writes `bench/judge.json`."""
    found = measure(int(os.environ.get("BENCH_RUNS", "1000")))
    (ROOT / "bench" / "judge.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(tables(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
