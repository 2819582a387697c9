"""The arithmetic behind a verdict: bets that canary is worse than it may be, on disjoint counts.

Against a canary that is as good as allowed the expected worth of a bet stays at most 1, however often it is looked at,
so it reaches 1/alpha with a chance of alpha at the most per whole rollout (Ville 1939; Ramdas et al., arXiv
2210.01948).  A test bets at several severities at once; tests are combined by a weighted mean, which stays valid
whatever depends on what.  No requests, no evidence.  docs/judge.md has the reasons and what the figures cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from core.model import Gate
from core.promql import IGNORED

SEVERITIES = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""How many times worse than allowed canary may be: the same stake on each."""

WORSE_ERRORS, WORSE_LATENCY = 1.1, 1.2
"""Ratios of canary to stable that are tolerated: equal versions are never measured to be quite equal."""

BLOCK, CAP = 30, 10.0
"""Seconds whose evidence is capped, and the factor: one bad half-minute of one pod does not decide a rollout."""

TICK = 10
"""Seconds of one count; in the test for a catastrophe the cap is for each."""

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
_LOG_CAP, _LOG_MOST = math.log(CAP), 700.0  # `exp` ends a little above
_SHARES = {
    False: {"errors": 0.6, "guardrail": 0.2, "catastrophe": 0.2},
    True: {"errors": 0.35, "latency": 0.25, "guardrail": 0.15, "latency guardrail": 0.1, "catastrophe": 0.15},
}


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests, how many of them failed, and how many were slower than each bound of the `Evidence`."""

    requests: int = 0
    failures: int = 0
    slow: tuple[int, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        slow = tuple(map(int.__add__, self.slow, other.slow)) or self.slow or other.slow
        return Counts(self.requests + other.requests, self.failures + other.failures, slow)

    def bad(self, bound: int | None = None) -> int:
        """Failures, or, with the index of a bound, what was slower."""
        return self.failures if bound is None else self.slow[bound] if self.slow else 0

    def share(self, bound: int | None = None) -> float:
        """`bad` as a part of the requests; 0 without any."""
        return self.bad(bound) / self.requests if self.requests else 0.0


NONE = Counts()


@dataclass(frozen=True, slots=True)
class Tick:
    """What was counted before `at` (Unix seconds) and after the tick before: (canary, stable) at each door.

    `cold` is canary's while it warmed up, which `doors` leaves out.  Evidence is capped per `block`.
    """

    at: float
    block: Hashable
    doors: tuple[tuple[Counts, Counts], ...]
    cold: Counts = NONE

    def sum(self) -> tuple[Counts, Counts]:
        """(canary, stable) at all doors."""
        if len(self.doors) == 1:
            return self.doors[0]
        return sum((one for one, _ in self.doors), NONE), sum((other for _, other in self.doors), NONE)


@dataclass(frozen=True)
class Evidence:
    """Of one service: its ticks in order, since canary's image was first deployed.

    `bounds` are in milliseconds; `slo` is the index of the one that stands for `gate.p95`: the first not below it.
    """

    ticks: Sequence[Tick]
    bounds: tuple[float, ...] = ()
    slo: int | None = None


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
    ours, log = worse * requests, math.log
    whole = ours + stable_requests
    return [
        bad * won + both * log(whole / (severity * ours + stable_requests))
        for won, severity in zip(_LOGS, SEVERITIES, strict=True)
    ]


def absolute(bad: int, requests: int, most: float) -> list[float]:
    """Log-evidence, by severity in odds, that canary's true share is above `most`: Wald's ratio for a binomial."""
    good = requests - bad
    return [bad * won + good * lost for won, lost in _table(most)]


_tables: dict[float, list[tuple[float, float]]] = {}


def _table(most: float) -> list[tuple[float, float]]:
    if most not in _tables:
        odds = [(1 - most + most * severity, severity) for severity in SEVERITIES]
        # Nothing is above everything.
        _tables[most] = [(math.log(g / sum_), -math.log(sum_)) if most < 1 else (0.0, 0.0) for sum_, g in odds]
    return _tables[most]


class _Bet:
    """Log-evidence by severity: of closed blocks, and of the open one, of which no more than the cap counts."""

    __slots__ = ("closed", "open")

    def __init__(self) -> None:
        self.closed, self.open = _NOTHING, _NOTHING

    def logs(self) -> list[float]:
        if self.open is _NOTHING:
            return self.closed
        return [one + (now if now < _LOG_CAP else _LOG_CAP) for one, now in zip(self.closed, self.open, strict=True)]

    def value(self) -> float:
        return sum([math.exp(one if one < _LOG_MOST else _LOG_MOST) for one in self.logs()]) / len(SEVERITIES)

    def close(self) -> None:
        self.closed, self.open = self.logs(), _NOTHING


class Meter:
    """The evidence on one service, tick by tick."""

    def __init__(self, gate: Gate, bounds: Sequence[float] = (), slo: int | None = None) -> None:
        self.shares, self._slo, self._block = _SHARES[slo is not None], slo, None
        self._relative: dict[int | None, _Bet] = {None: _Bet()} | {bound: _Bet() for bound in range(len(bounds))}
        limits: dict[int | None, tuple[float, float]] = {None: (floor(gate), gate.error_rate)}
        limits |= {slo: (SLOW, SLOW)} if slo is not None else {}
        self._absolute = {bound: (*pair, _Bet(), _Bet()) for bound, pair in limits.items()}
        self._catastrophe = _Bet()
        self._bets = [*self._relative.values(), *(bet for one in self._absolute.values() for bet in one[2:])]
        self._canary = self._stable = NONE  # of the open block

    def add(self, tick: Tick) -> None:
        """Takes the next tick in."""
        if tick.block != self._block:
            for bet in self._bets:
                bet.close()
            self._block, self._canary, self._stable = tick.block, NONE, NONE  # type: ignore[assignment]
        for ours, theirs in tick.doors:
            for bound, bet in self._relative.items():
                worse = WORSE_ERRORS if bound is None else WORSE_LATENCY
                seen = relative(ours.bad(bound), ours.requests, theirs.bad(bound), theirs.requests, worse)
                if seen is not _NOTHING:
                    bet.open = [one + more for one, more in zip(bet.open, seen, strict=True)]
        canary, stable = tick.sum()
        whole = canary + tick.cold
        if whole.requests and stable.share() <= CATASTROPHE:
            self._catastrophe.close()
            self._catastrophe.open = absolute(whole.failures, whole.requests, CATASTROPHE)
        self._canary, self._stable = self._canary + canary, self._stable + stable
        for bound, (least, most, low, high) in self._absolute.items():
            bad, requests = self._canary.bad(bound), self._canary.requests
            low.open = absolute(bad, requests, least)
            # What stable suffers too is no fault of canary's.
            high.open = absolute(bad, requests, most) if self._stable.share(bound) <= most else _NOTHING

    def values(self) -> dict[str, float]:
        """Evidence by test.  Canary is fine if it is no worse than stable *or* below the floor: the lesser counts."""
        *_, low, high = self._absolute[None]
        found = {"errors": min(self._relative[None].value(), low.value()), "guardrail": high.value()}
        if self._slo is not None:
            *_, low, high = self._absolute[self._slo]
            compared = [bet.value() for bound, bet in self._relative.items() if bound is not None]
            found["latency"] = min(sum(compared) / len(compared), low.value())
            found["latency guardrail"] = high.value()
        return found | {"catastrophe": self._catastrophe.value()}

    def evidence(self) -> float:
        """The weighted mean."""
        return sum(self.shares[test] * value for test, value in self.values().items())


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
    for _ in range(40):
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
    return max(min(found, default=math.inf), BLOCK * math.log(limit(gate)) / _LOG_CAP) + BLOCK


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
