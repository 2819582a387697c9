"""Is a measured share the configured one?  Exact binomial arithmetic on the standard library."""

from __future__ import annotations

import math
from statistics import NormalDist


def interval(hits: int, requests: int, level: float = 0.99) -> tuple[float, float]:
    """Wilson's score interval of the share behind `hits` of `requests`, as fractions (Wilson 1927)."""
    if requests == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, scale = hits / requests, 1 + z * z / requests
    middle = (share + z * z / (2 * requests)) / scale
    half = z * math.sqrt(share * (1 - share) / requests + z * z / (4 * requests * requests)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def accepts(hits: int, requests: int, share: float, error: float) -> bool:
    """True unless `hits` lies in the tails of Binomial(`requests`, `share`), each of mass `error` / 2.

    A share of 0 or 1 leaves no tails: one stray request fails.
    """
    if share in (0.0, 1.0):
        return hits == requests * share
    below = _cumulative(hits, requests, share)
    above = 1 - _cumulative(hits - 1, requests, share)
    return min(below, above) >= error / 2


def _cumulative(hits: int, requests: int, share: float) -> float:
    log_share, log_rest = math.log(share), math.log1p(-share)
    total = math.lgamma(requests + 1)
    terms = (
        total - math.lgamma(k + 1) - math.lgamma(requests - k + 1) + k * log_share + (requests - k) * log_rest
        for k in range(hits + 1)
    )
    return math.fsum(map(math.exp, terms))
