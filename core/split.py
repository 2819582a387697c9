"""Is the split in force?  What was counted against the weight, and whether the Service is bound to its waypoint.

Pure: counts and objects are read elsewhere.  Only requests that no rule and no stamp decides may be counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core import specs
from policies import weights

ERROR = 0.001
"""How often a split that is in force is taken for one that is not."""

BOUND = "istio.io/WaypointBound"


@dataclass(frozen=True)
class Split:
    """`share` of canary (None without requests) and the interval that holds the true one, all as fractions."""

    state: Literal["in force", "not in force", "not enough data"]
    share: float | None
    low: float
    high: float


def judge(stable: int, canary: int, weight: int, *, unrouted: float | None = None, error: float = ERROR) -> Split:
    """Whether `stable` and `canary` requests fit canary's `weight` in per cent.

    In force means more than that they fit: nobody, everybody and `unrouted` (canary's fraction of the pods, which a
    Service without a waypoint serves) must not fit as well, unless they are what the weight asks for.
    """
    requests, wanted = stable + canary, weight / weights.HIGHEST
    low, high = interval(canary, requests, 1 - error)
    others = {0.0, 1.0, wanted if unrouted is None else unrouted} - {wanted}
    if requests and not accepts(canary, requests, wanted, error):
        state: Literal["in force", "not in force", "not enough data"] = "not in force"
    else:
        state = "not enough data" if any(low <= other <= high for other in others) else "in force"
    return Split(state, canary / requests if requests else None, low, high)


def unbound(service: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> str | None:
    """Why no waypoint serves this Service, both objects as the API server shows them; None when one does."""
    labels = [place.get("metadata", {}).get("labels") or {} for place in (namespace or {}, service)]
    if (labels[0] | labels[1]).get(specs.WAYPOINT_LABEL, "none") == "none":
        return f"neither it nor its namespace carries the label {specs.WAYPOINT_LABEL}"
    told = (service.get("status") or {}).get("conditions") or []
    bound = next((one for one in told if one.get("type") == BOUND), None)
    # Without a condition istiod has not spoken: it may run with these conditions switched off.
    if bound is None or bound.get("status") == "True":
        return None
    return f"{bound.get('reason')}: {bound.get('message')}"


def interval(hits: int, requests: int, level: float = 0.99) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) of the share behind `hits` of `requests`, as fractions."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _where(lambda share: _at_least(hits, requests, share), tail)
    high = 1.0 if hits == requests else _where(lambda share: _at_least(hits + 1, requests, share), 1 - tail)
    return low, high


def accepts(hits: int, requests: int, share: float, error: float) -> bool:
    """True unless `hits` lies in the tails of Binomial(`requests`, `share`), each of mass `error` / 2.

    A share of 0 or 1 leaves no tails: one stray request fails.
    """
    if share in (0.0, 1.0):
        return hits == requests * share
    return min(_at_least(hits, requests, share), 1 - _at_least(hits + 1, requests, share)) >= error / 2


def _at_least(hits: int, requests: int, share: float) -> float:
    """Chance of `hits` or more, which is a regularised incomplete beta function of the share."""
    if hits <= 0:
        return 1.0
    return 0.0 if hits > requests else _beta(share, hits, requests - hits + 1)


def _where(rising: Callable[[float], float], level: float) -> float:
    """The share at which a rising function takes a level."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < level else (low, middle)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the continued fraction converges fast on the other side
        return 1 - _beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    d = 1 / (1 - (a + b) * x / (a + 1))
    c, found = 1.0, d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d, c = 1 / (1 + step * d), 1 + step / c
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return math.exp(scale) * found / a
