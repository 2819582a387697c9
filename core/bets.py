"""The arithmetic behind a verdict: bets that canary is worse than it may be, on disjoint counts.

Against a canary that is as good as allowed the expected worth of a bet stays at most 1, however often it is looked at,
so it reaches 1/alpha with a chance of alpha at the most per whole rollout (Ville 1939; Ramdas et al., arXiv
2210.01948).  A test bets at several severities at once; tests are combined by a weighted mean, which stays valid
whatever depends on what.  No requests, no evidence.  docs/judge.md has the reasons and what the figures cost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import add
from typing import NamedTuple

from core.model import Gate
from core.promql import IGNORED

SEVERITIES = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""How many times worse than allowed canary may be: the same stake on each."""

WORSE_ERRORS, WORSE_LATENCY = 1.1, 1.2
"""Ratios of canary to stable that are tolerated: equal versions are never measured to be quite equal."""

BURST, CAP = 30, 10.0
"""So many seconds, wherever they begin, count for no more than the factor: a bad half-minute of one pod does not decide
a rollout, nor do two.  In the test for a catastrophe that holds for each tick."""

FEW = 3
"""So many failures more than stable's lead one to expect are the most that count of a `BURST`: bets on a small
worsening forget slowly, and would add up the bursts of an hour."""

AFRESH = 0.1
"""Stake, beside 1 for the first, on all bets that begin later: 1 / (k (k + 1)) of it on what begins with the k-th tick.
Without them a canary that was good for an hour could fail for another before the bets had made up for it."""

TICK = 10
"""Seconds of one count."""

WARM_UP = 30
"""Seconds for which only the test for a catastrophe looks at what is new."""

CATASTROPHE, SLOW = 0.2, 0.05
"""Share of failures that ends a rollout at once; share of requests that may be slower than a 95th percentile."""

DOUBT = 0.05
"""Chance that canary's true share of failures is ever outside of `interval`."""

ALPHA = {"low": 0.001, "normal": 0.01, "high": 0.05}
"""Chance of a false rollback per rollout, at the most, by `gate.sensitivity`."""

_LOGS = tuple(math.log(severity) for severity in SEVERITIES)
_NOTHING = [0.0] * len(SEVERITIES)
_GROSS = [math.log(CAP)] * len(SEVERITIES)
_LOG_MOST = 700.0  # `exp` ends a little above
_SHARES = {
    False: {"errors": 0.6, "guardrail": 0.2, "catastrophe": 0.2},
    True: {"errors": 0.35, "latency": 0.25, "guardrail": 0.15, "latency guardrail": 0.1, "catastrophe": 0.15},
}


class Counts(NamedTuple):
    """Requests, how many of them failed, and how many were slower than each bound of the `Evidence`."""

    requests: int = 0
    failures: int = 0
    slow: tuple[int, ...] = ()

    def bad(self, bound: int | None = None) -> int:
        """Failures, or, with the index of a bound, what was slower."""
        return self.failures if bound is None else self.slow[bound] if self.slow else 0

    def plus(self, more: Counts) -> Counts:
        """Both together."""
        slow = tuple(map(add, self[2], more[2])) if self[2] and more[2] else self[2] or more[2]
        return Counts(self[0] + more[0], self[1] + more[1], slow)

    def share(self, bound: int | None = None) -> float:
        """`bad` as a part of the requests; 0 without any."""
        return self.bad(bound) / self.requests if self.requests else 0.0


NONE = Counts()


def total(counts: Collection[Counts]) -> Counts:
    """All of them together."""
    some = [one for one in counts if one[0]]
    if len(some) < 2:
        return some[0] if some else NONE
    requests, failures, slow = zip(*some, strict=True)
    timed = [one for one in slow if one]
    return Counts(sum(requests), sum(failures), tuple(map(sum, zip(*timed, strict=True))) if timed else ())


class Tick(NamedTuple):
    """What was counted before `at` (Unix seconds) and after the tick before: (canary, stable), the same doors always.

    `cold` is canary's while it warmed up, which `doors` leaves out.
    """

    at: float
    doors: tuple[tuple[Counts, Counts], ...]
    cold: Counts = NONE

    def sum(self) -> tuple[Counts, Counts]:
        """(canary, stable) at all doors."""
        if len(self.doors) == 1:
            return self.doors[0]
        return total([ours for ours, _ in self.doors]), total([theirs for _, theirs in self.doors])


@dataclass(frozen=True)
class Evidence:
    """Of one service: its ticks in order, since canary's image was first deployed.

    `bounds` are in milliseconds; `slo` is the index of the one that stands for `gate.p95`: the first not below it.
    `window`: seconds of two scrapes, whose evidence is capped together if that is longer than `BURST`.
    """

    ticks: Sequence[Tick]
    bounds: tuple[float, ...] = ()
    slo: int | None = None
    window: float = 0


def limit(gate: Gate) -> float:
    """The evidence that rolls back: 1/alpha."""
    return 1 / ALPHA[gate.sensitivity]


def floor(gate: Gate) -> float:
    """Share of failures that nobody cares about, whatever stable has."""
    return IGNORED * gate.error_rate


def relative(bad: int, requests: int, stable_bad: int, stable_requests: int, worse: float) -> list[float]:
    """Log-evidence, by severity, that canary is more than `worse` times as bad as stable, from one tick.

    Given that a request was bad, it is canary's with a chance of at most worse n_c / (worse n_c + n_s), whatever the
    share of bad ones is: the conditional test of two Poisson streams (Lindon and Malek, arXiv 2011.03567), one-sided.
    """
    both = bad + stable_bad
    if not both or not requests or not stable_requests:
        return _NOTHING
    return [bad * won + both * lost for won, lost in _expected(worse * requests, stable_requests)]


@lru_cache(2)
def _expected(ours: float, theirs: float) -> list[tuple[float, float]]:
    """What a bad request of canary wins, and one of whoever costs; the same for all bounds of a tick."""
    return [
        (won, math.log((ours + theirs) / (severity * ours + theirs)))
        for won, severity in zip(_LOGS, SEVERITIES, strict=True)
    ]


def absolute(bad: int, requests: int, most: float) -> list[float]:
    """Log-evidence, by severity in odds, that canary's true share is above `most`: Wald's ratio for a binomial."""
    return [bad * won - requests * lost for won, lost in _table(most)] if requests else _NOTHING


@lru_cache(16)
def _table(most: float) -> list[tuple[float, float]]:
    # Nothing is above everything.
    return [(math.log(g), math.log(1 - most + most * g)) if most < 1 else (0.0, 0.0) for g in SEVERITIES]


@lru_cache(256)
def _most(usual: int) -> list[float]:
    """What the bets may win in a burst, by how many failures of canary stable's lead one to expect meanwhile."""
    return [min(math.log(CAP), (FEW + usual) * won) for won in _LOGS]


class Meter:
    """The evidence on one service, tick by tick.

    Log-evidence is kept by test and severity.  It never grows by more than `_most` within `window` seconds, wherever
    these begin: `min(L, most)` is no more than L, so a capped bet is as fair as a plain one, and a burst counts once.
    Nor does it begin a tick below the stake on a bet that begins there: the largest of several bets is below their sum.
    """

    capped = True

    def __init__(self, gate: Gate, bounds: Sequence[float] = (), slo: int | None = None, window: float = 0) -> None:
        self.shares, self._slo, self._window = _SHARES[slo is not None], slo, max(BURST, window)
        self._compared = [(None, WORSE_ERRORS), *((bound, WORSE_LATENCY) for bound in range(len(bounds)))]
        self._limits = [(None, floor(gate), gate.error_rate)] + ([(slo, SLOW, SLOW)] if slo is not None else [])
        self._counted = [None, *(bound for bound, _ in self._compared), *(one[0] for one in self._limits for _ in "12")]
        self._logs = [_NOTHING] * len(self._counted)
        self._past = deque([(-math.inf, 0, self._logs)])
        self._requests = self._ticks = 0
        self._stable = NONE

    def add(self, tick: Tick) -> bool:
        """Takes the next tick in.  True if the evidence may have risen."""
        ours, theirs = tick.sum()
        self._stable = self._stable.plus(theirs)
        whole, fair = ours.plus(tick.cold) if tick.cold[0] else ours, self._fair(theirs, None, CATASTROPHE)
        seen = [absolute(whole.failures, whole.requests, CATASTROPHE) if fair else _NOTHING]
        for bound, worse in self._compared:
            apart = [relative(c.bad(bound), c.requests, s.bad(bound), s.requests, worse) for c, s in tick.doors]
            seen.append(apart[0] if len(apart) == 1 else [sum(one) for one in zip(*apart, strict=True)])
        for bound, least, most in self._limits:
            bad, fair = ours.bad(bound), self._fair(theirs, bound, most)
            seen += absolute(bad, ours.requests, least), absolute(bad, ours.requests, most) if fair else _NOTHING
        self._requests += ours.requests
        self._ticks += bool(whole.requests)
        stake = math.log(AFRESH / self._ticks / (self._ticks + 1)) if self._ticks else -math.inf
        while len(self._past) > 1 and self._past[1][0] <= tick.at - self._window:
            self._past.popleft()
        _, requests, before = self._past[0]
        rises, logs = False, []
        for lane, (old, now) in enumerate(zip(self._logs, seen, strict=True)):
            if now is _NOTHING:
                logs.append(old)
            elif now[0] <= 0:  # concave in log(severity), and 0 at 1: where the least gains nothing, none does
                logs.append(list(map(add, old, now)))
            else:
                rises = True
                usual = (self._requests - requests) * self._stable.share(self._counted[lane])
                was, gain = (before[lane], _most(int(usual))) if lane else (old, _GROSS)
                old, was = ([one if one > stake else stake for one in each] for each in (old, was))
                risen = zip(map(add, old, now), map(add, was, gain), strict=True)
                logs.append([one if one < end or not self.capped else end for one, end in risen])
        self._logs = logs
        self._past.append((tick.at, self._requests, logs))
        return rises

    def _fair(self, stable: Counts, bound: int | None, most: float) -> bool:
        """What stable suffers too, now or as a rule, is no fault of canary's."""
        return stable.share(bound) <= most and self._stable.share(bound) <= most

    def evidence(self) -> float:
        """The weighted mean of the tests."""
        return sum([self.shares[test] * value for test, value in self.values().items()])

    def values(self) -> dict[str, float]:
        """Evidence by test.  Canary is fine if it is no worse than stable *or* below the floor: the lesser counts."""
        later = AFRESH / (self._ticks + 1)
        catastrophe, errors, *rest = ((_mean(logs) + later) / (1 + AFRESH) for logs in self._logs)
        at = len(self._compared) - 1
        found = {"errors": min(errors, rest[at]), "guardrail": rest[at + 1], "catastrophe": catastrophe}
        if self._slo is None:
            return found
        return found | {"latency": min(sum(rest[:at]) / at, rest[at + 2]), "latency guardrail": rest[at + 3]}


def _mean(logs: list[float]) -> float:
    try:
        return sum(map(math.exp, logs)) / len(SEVERITIES)
    except OverflowError:
        return math.exp(_LOG_MOST)


@lru_cache(64)
def interval(bad: int, requests: int) -> tuple[float, float]:
    """Shares that are not excluded, at any time at once: Robbins' mixture (1970) with a Beta(0.5, 50) prior."""
    if not requests:
        return 0.0, 1.0
    a, b = 0.5, 50.0
    fits = _log_beta(a + bad, b + requests - bad) - _log_beta(a, b) + math.log(DOUBT)

    def excluded(share: float) -> bool:
        likely = bad * math.log(share) if bad else 0.0
        return fits >= likely + ((requests - bad) * math.log1p(-share) if bad < requests else 0.0)

    middle = bad / requests
    low = where(lambda share: not excluded(share), 0.0, middle) if bad else 0.0
    return low, where(excluded, middle, 1.0) if bad < requests else 1.0


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def where(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds from somewhere on begins to."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def notice(rate: float, base: float, weight: int, ratio: float, gate: Gate, *, latency: bool = False) -> float:
    """Seconds in which a canary that fails `ratio` times as often as stable is found out, as a median about.

    `rate` is requests per second to both, `base` stable's share of failures.  By Wald's approximation: the evidence
    wanted over what a second adds; the worst of 20 takes twice as long.  Infinite where it cannot be seen.
    """
    w, base = weight / 100, max(base, floor(gate) / 2)
    bad, r = min(0.999, ratio * base), min(0.999, ratio * base) / base
    both = r * w + 1 - w
    compared = r * w * math.log(r / WORSE_ERRORS) - both * math.log(both / (WORSE_ERRORS * w + 1 - w))
    speeds = {
        "errors": min(base * compared if r > WORSE_ERRORS else 0.0, w * _distance(bad, floor(gate))),
        "guardrail": w * _distance(bad, gate.error_rate) if base <= gate.error_rate else 0.0,
    }
    wanted = {test: math.log(limit(gate) * len(SEVERITIES) / _SHARES[latency][test]) for test in speeds}
    found = [wanted[test] / (rate * speed) for test, speed in speeds.items() if rate * speed > 0]
    return min(found, default=math.inf) + 2 * BURST  # for the cap


def _distance(share: float, most: float) -> float:
    """Kullback and Leibler's, of a share from one that is less."""
    if share <= most:
        return 0.0
    return share * math.log(share / most) + (1 - share) * math.log((1 - share) / (1 - most))


@dataclass(frozen=True)
class Sight:
    """What a rung can see: the smallest worsening within its hold, and the seconds that ten times as bad takes."""

    weight: int
    hold: int
    smallest: float | None
    tenfold: float


def sights(rate: float, base: float, steps: Sequence[tuple[int, int]], gate: Gate) -> tuple[list[Sight], int | None]:
    """What each rung (weight, hold) can see; a better first weight if that one does not see tenfold in `maxHold`."""
    most, found = 0.999 / max(base, floor(gate) / 2), []
    for weight, hold in steps:

        def seen(ratio: float, weight: int = weight, hold: int = hold) -> bool:
            return notice(rate, base, weight, ratio, gate) <= hold

        found.append(
            Sight(weight, hold, where(seen, 1.0, most) if seen(most) else None, notice(rate, base, weight, 10, gate))
        )
    if found[0].tenfold <= gate.max_hold:
        return found, None
    better = (one for one in range(found[0].weight, 51) if notice(rate, base, one, 10, gate) <= gate.max_hold)
    return found, next(better, None)
