"""Advance, hold or roll back: the verdict on a canary, from its evidence and where the rollout stands.

Pure.  The evidence may be looked at as often as anybody likes (`core.bets`), and is the same for everyone who looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.bets import CATASTROPHE, NONE, SLOW, Counts, Evidence, Meter, interval, limit, notice, total
from core.model import Gate
from core.promql import WINDOW

RECENT = 120
"""Seconds without a request after which it is said that there are none."""

Kind = Literal["advance", "hold", "rollback"]


@dataclass(frozen=True)
class Step:
    """Where the rollout stands: `weight` since `began`, seen at `at`; `next` is the weight to come, None promotion.

    `hold` is the shortest stay in seconds.
    """

    began: float
    at: float
    weight: int
    next: int | None = None
    hold: int = 0

    @property
    def age(self) -> float:
        """Seconds of this step so far."""
        return self.at - self.began

    def __str__(self) -> str:
        return f"{clock(self.age)} of at least {clock(self.hold)} at {self.weight} %"


@dataclass(frozen=True)
class Tally:
    """Requests of one service to both tracks."""

    canary: Counts = NONE
    stable: Counts = NONE
    cold: Counts = NONE


@dataclass(frozen=True)
class Verdict:
    """`reason` is one sentence, `notes` are more.  `peak`, the most that `evidence` has been, rolls back at `limit`.

    `wait`: seconds until the hold has passed.  `curve`: (Unix seconds, evidence).  `inconclusive`: `maxHold` is over.
    `tallies`: by service, of all the `seconds` that canary was there.  `queries`: what was read of Prometheus.
    """

    kind: Kind
    reason: str
    notes: tuple[str, ...] = ()
    evidence: float = 1.0
    peak: float = 1.0
    limit: float = 100.0
    wait: float = 0.0
    inconclusive: bool = False
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()
    queries: Sequence[str] = ()
    seconds: float = 0.0


def judge(services: Mapping[str, Evidence], gate: Gate, step: Step) -> Verdict:
    """The verdict on a train: evidence of its services is averaged.

    Whoever looks later finds what an earlier look found: once the evidence has crossed the limit, it has.
    """
    case = _Case(services, gate, step)
    return case.simple() if gate.rule == "simple" else case.verdict()


def inconclusive(reason: str, gate: Gate, step: Step) -> tuple[Kind, str, bool]:
    """A reason to hold, which after `gate.maxHold` becomes what `gate.onInconclusive` says; not at weight 0."""
    if step.weight == 0 or step.age < gate.max_hold:
        return "hold", reason, False
    text = f"{reason}; inconclusive after {clock(step.age)}: onInconclusive is {gate.on_inconclusive}"
    return "rollback" if gate.on_inconclusive == "rollback" else "hold", text, True


class _Case:
    def __init__(self, services: Mapping[str, Evidence], gate: Gate, step: Step) -> None:
        self.services, self.gate, self.step, self.limit = services, gate, step, limit(gate)
        self.tallies = {name: self.tally(name) for name in services}
        self.curve: list[tuple[float, float]] = []
        self.peak = 1.0

    def tally(self, name: str, since: float = -math.inf) -> Tally:
        ticks = [tick for tick in self.services[name].ticks if tick.at > since]
        pairs = [pair for tick in ticks for pair in tick.doors]
        canary, stable = total([ours for ours, _ in pairs]), total([theirs for _, theirs in pairs])
        return Tally(canary, stable, total([tick.cold for tick in ticks]))

    def told(self, kind: Kind, reason: str, over: bool = False, notes: Sequence[str] = ()) -> Verdict:
        evidence, wait = self.curve[-1][1] if self.curve else 1.0, max(0.0, self.step.hold - self.step.age)
        figures = evidence, self.peak, self.limit, wait, over, self.tallies, self.curve
        return Verdict(kind, reason, tuple(notes), *figures)

    def held(self, reason: str, *notes: str) -> Verdict:
        kind, text, over = inconclusive(reason, self.gate, self.step)
        return self.told(kind, text, over, notes)

    def verdict(self) -> Verdict:
        meters = {name: Meter(self.gate, one.bounds, one.slo, one.window) for name, one in self.services.items()}
        now = dict.fromkeys(meters, 1.0)
        ticks = sorted(
            (tick.at, name, index) for name, one in self.services.items() for index, tick in enumerate(one.ticks)
        )
        for at, name, index in ticks:
            if not meters[name].add(self.services[name].ticks[index]) and at < ticks[-1][0]:
                continue
            now[name] = meters[name].evidence()
            self.curve.append((at, sum(now.values()) / len(now)))
            self.peak = max(self.peak, self.curve[-1][1])
            if self.peak >= self.limit:
                worst = max(now, key=lambda one: now[one])
                return self.told("rollback", self.blame(worst, meters[worst]), notes=[self.spent(at)])
        notes = [self.counted(name) for name in self.services]
        if reason := self.silence() or self.shared():
            return self.held(reason, *notes)
        evidence, step = self.curve[-1][1], self.step
        odds = f"evidence that canary is worse: {evidence:.2g} : 1, rollback at {self.limit:g} : 1"
        notes += self.outlook()
        if step.age < step.hold:
            return self.held(f"{step}; {odds}", *notes)
        if evidence >= math.sqrt(self.limit):
            return self.held(f"not enough to roll back, too much to go on: {odds}", *notes)
        if step.weight and (reason := next(filter(None, map(self.over_budget, self.services)), None)):
            return self.held(reason, *notes)
        if not any(tally.canary.requests for tally in self.tallies.values()):
            return self.told(
                "advance", f"canary has met nobody yet; {step.next} % is the first look at it", notes=notes
            )
        return self.told("advance", f"after {clock(step.age)} at {step.weight} %, {odds}", notes=notes)

    def simple(self) -> Verdict:
        """Canary's failures over all its requests in 5 minutes, and its 95th percentile, against a number each."""
        step, gate = self.step, self.gate
        if step.age < min(WINDOW, step.hold):
            return self.told("hold", str(step))
        window = f"in {clock(min(WINDOW, step.age))}"
        for name, one in self.services.items():
            tally = self.tally(name, max(step.began, step.at - WINDOW))
            canary = total([tally.canary, tally.cold])
            if not canary.requests and step.weight:
                return self.held(self.silence() or f"{name}: no requests to canary {window}")
            if canary.share() > gate.error_rate:
                text = f"{percent(canary.share())} of canary's requests failed {window}; {percent(gate.error_rate)} may"
                return self.told("rollback", f"{name}: {text}")
            if one.slo is not None and canary.share(one.slo) > SLOW:
                text = (
                    f"{percent(canary.share(one.slo))} of canary's requests took longer than {one.bounds[one.slo]:g} ms"
                )
                return self.told("rollback", f"{name}: {text} {window}; {percent(SLOW)} may")
        if step.age < step.hold:
            return self.told("hold", str(step))
        return self.told("advance", f"canary's failures and times are below their limits {window}")

    def silence(self) -> str | None:
        """Who has no requests that it should have.  At weight 0 there need not be any to canary."""
        step, minutes = self.step, max(1, round(min(self.step.age, RECENT) / 60))
        for name in self.services:
            here, recent = self.tally(name, step.began), self.tally(name, step.at - 60 * minutes)
            if not here.stable.requests and not here.canary.requests and not here.cold.requests:
                return f"{name}: no requests to either version in Prometheus since this step began"
            if step.weight and not recent.canary.requests and not recent.cold.requests:
                rate = recent.stable.requests / 60 / minutes
                text = f"{name}: no requests to canary for {minutes} min although its weight is {step.weight} %"
                return f"{text} and stable serves {rate:.2g} per second; check routing and readiness"
            if step.weight and not here.canary.requests:
                return f"{name}: canary warms up: none of its requests count yet"
            if not here.stable.requests and step.weight < 100:
                return f"{name}: no requests to stable since this step began: nothing to compare canary with"
        return None

    def shared(self) -> str | None:
        for name in self.services:
            stable = self.tally(name, max(self.step.began, self.step.at - RECENT)).stable
            if interval(stable.failures, stable.requests)[0] > self.gate.error_rate:
                text = f"{name}: stable is failing too ({percent(stable.share())} in the last {RECENT // 60} min)"
                return f"{text}: this looks like a shared dependency, not like canary"
        return None

    def over_budget(self, name: str) -> str | None:
        """Would the worst canary not yet excluded add more failures, at the next weight, than `gate.errorRate`?"""
        tally, onward = self.tallies[name], (self.step.next or 100) / 100
        for verb, bound, budget in self.asked(self.services[name]):
            high = interval(tally.canary.bad(bound), tally.canary.requests)[1]
            enough = tally.stable.share(bound) + budget / onward
            if high > enough:
                goal = f"go to {self.step.next} %" if self.step.next else "be promoted"
                text = f"{name}: it may be that up to {percent(high)} of canary's requests {verb} (95 % confidence)"
                return f"{text}; to {goal} I need that below {percent(enough)}"
        return None

    def asked(self, one: Evidence) -> Iterator[tuple[str, int | None, float]]:
        """What a request may do wrong, as a verb, where it is counted, and how many may."""
        yield "fail", None, self.gate.error_rate
        if one.slo is not None:
            yield f"take longer than {one.bounds[one.slo]:g} ms", one.slo, SLOW

    def counted(self, name: str) -> str:
        """What failed, with the shares that are not excluded: none of 40 is not 0 %."""
        tally = self.tallies[name]
        canary, stable = (
            f"{one.failures:,} of {one.requests:,} ({percent(one.share())})" for one in (tally.canary, tally.stable)
        )
        low, high = interval(tally.canary.failures, tally.canary.requests)
        return (
            f"{name}: canary failed {canary}, stable {stable}; canary's true share: {percent(low)} to {percent(high)}"
        )

    def outlook(self) -> list[str]:
        found = []
        for name, one in self.services.items():
            here, base = self.tally(name, self.step.began), self.tallies[name].stable.share()
            rate = (here.canary.requests + here.stable.requests) / max(1.0, self.step.age)
            seconds = notice(rate, base, self.step.weight, 2, self.gate, latency=one.slo is not None)
            if seconds < self.gate.max_hold:
                text = f"{name}: if canary is twice as bad I need about {clock(seconds)} at this weight"
                found.append(f"{text} to see it, {clock(2 * seconds)} at worst")
        return found

    def blame(self, name: str, meter: Meter) -> str:
        """What decided, in a sentence."""
        values, one, tally = meter.values(), self.services[name], self.tallies[name]
        test = max(values, key=lambda each: meter.shares[each] * values[each])
        bound = one.slo if test.startswith("latency") else None
        canary, stable = total([tally.canary, tally.cold] if test == "catastrophe" else [tally.canary]), tally.stable
        what = "failed" if bound is None else f"took longer than {one.bounds[bound]:g} ms for"
        ours, theirs = (
            f"{each.bad(bound):,} of {each.requests:,} requests ({percent(each.share(bound))})"
            for each in (canary, stable)
        )
        text = f"{name}: canary {what} {ours}, stable {theirs}"
        if test in ("errors", "latency"):
            both = canary.bad(bound) + stable.bad(bound)
            fair = both * stable.requests / max(1, canary.requests + stable.requests)
            return f"{text}: of two equals stable would have had about {fair:.0f} of these {both:,}"
        most = {"catastrophe": CATASTROPHE, "latency guardrail": SLOW}.get(test, self.gate.error_rate)
        return f"{text}: {percent(most)} is the most that may"

    def spent(self, at: float) -> str:
        after = f"after {clock(max(0.0, at - self.step.began))} at {self.step.weight} %"
        return f"{after}; a healthy canary meets such evidence in less than 1 of {self.limit:g} rollouts"


def percent(share: float) -> str:
    """`0.34 %`: two figures that say something."""
    return f"{float(f'{100 * share:.2g}'):g} %"


def clock(seconds: float) -> str:
    """`3:10`, or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
