"""Whether a split is in force: the arithmetic by which a measured share is judged, and what the cluster says."""

from __future__ import annotations

from math import comb
from random import Random
from typing import Any

import pytest

from core import split


@pytest.mark.parametrize(("hits", "share"), [(1, 0.0), (1999, 1.0)])
def test_at_0_and_100_a_single_stray_request_fails(hits: int, share: float) -> None:
    assert not split.accepts(hits, 2000, share, 0.001)
    assert split.accepts(round(2000 * share), 2000, share, 0.001)


def test_the_accepted_band_of_5_per_cent_is_the_binomial_one() -> None:
    accepted = [hits for hits in range(2001) if split.accepts(hits, 2000, 0.05, 0.001)]
    # Exact tails of Binomial(2000, 0.05) beyond 0.0005: standard deviation 9.75, so about 100 ± 3.3 of them.
    assert (accepted[0], accepted[-1]) == (69, 133)
    assert accepted == list(range(69, 134))


def test_the_interval_holds_the_share_and_shrinks_with_more_requests() -> None:
    low, high = split.interval(100, 2000)
    assert low < 0.05 < high
    wide_low, wide_high = split.interval(10, 200)
    assert wide_high - wide_low > high - low


def test_without_requests_nothing_is_known() -> None:
    assert split.interval(0, 0) == (0.0, 1.0)


def test_the_interval_is_clopper_and_pearsons() -> None:
    assert split.interval(0, 20, 0.95) == pytest.approx((0.0, 0.16843), abs=1e-5)
    assert split.interval(10, 100, 0.95) == pytest.approx((0.04900, 0.17622), abs=1e-5)
    assert split.interval(20, 20, 0.95) == pytest.approx((0.83157, 1.0), abs=1e-5)


def test_its_tails_are_those_of_the_binomial_distribution() -> None:
    rng = Random(7)
    for _ in range(200):
        requests, share = rng.randint(1, 150), rng.random()
        hits = rng.randint(0, requests)
        mass = [comb(requests, k) * share**k * (1 - share) ** (requests - k) for k in range(requests + 1)]
        smaller = max(1e-12, min(sum(mass[: hits + 1]), sum(mass[hits:])))
        assert split.accepts(hits, requests, share, 2 * smaller * 0.999) or smaller == 1e-12
        assert not split.accepts(hits, requests, share, 2 * smaller * 1.001)
        low, high = split.interval(hits, requests, 0.9)
        for bound, tail in ((low, range(hits, requests + 1)), (high, range(hits + 1))):
            beyond = sum(comb(requests, k) * bound**k * (1 - bound) ** (requests - k) for k in tail)
            assert beyond == pytest.approx(0.05, abs=1e-9) or bound in (0.0, 1.0)


def test_a_billion_requests_are_judged_as_fast_as_a_thousand() -> None:
    low, high = split.interval(50_000_000, 1_000_000_000)
    assert 0.0499 < low < 0.05 < high < 0.0501


@pytest.mark.parametrize(
    ("stable", "canary", "weight", "unrouted", "state"),
    [
        (950, 50, 5, 1 / 3, "in force"),
        (667, 333, 5, 1 / 3, "not in force"),
        (1000, 0, 5, 1 / 3, "not in force"),
        (0, 0, 5, 1 / 3, "not enough data"),
        (19, 1, 5, 1 / 3, "not enough data"),
        (95, 5, 5, 1 / 10, "not enough data"),
        (20, 0, 0, 1 / 3, "in force"),
        (5, 0, 0, 1 / 3, "not enough data"),
        (999, 1, 0, 1 / 3, "not in force"),
        (0, 20, 100, 1 / 3, "in force"),
        (1, 999, 100, 1 / 3, "not in force"),
        (500, 500, 50, 0.5, "in force"),
        (50, 50, 50, 0.4, "not enough data"),
        (950, 50, 5, None, "in force"),
    ],
)
def test_a_split_is_in_force_when_the_counts_fit_the_weight_and_nothing_else(
    stable: int, canary: int, weight: int, unrouted: float | None, state: str
) -> None:
    found = split.judge(stable, canary, weight, unrouted=unrouted)
    assert found.state == state
    assert found.low <= (found.share or 0.0) <= found.high


def _object(labels: dict[str, str], *conditions: tuple[str, str, str]) -> dict[str, Any]:
    told = [{"type": split.BOUND, "status": status, "reason": why, "message": text} for status, why, text in conditions]
    return {"metadata": {"name": "web", "labels": labels}, "status": {"conditions": told}}


LABEL = {"istio.io/use-waypoint": "waypoint"}
BOUND = ("True", "WaypointAccepted", "ok")
MISSING = ("False", "WaypointIsMissing", "doesn't exist")


@pytest.mark.parametrize(
    ("service", "namespace", "says"),
    [
        (_object({}, BOUND), _object(LABEL), None),
        (_object(LABEL, BOUND), _object({}), None),
        (_object({}), _object(LABEL), None),
        (_object({}, BOUND), _object({}), "carries the label istio.io/use-waypoint"),
        (_object({"istio.io/use-waypoint": "none"}), _object(LABEL), "carries the label istio.io/use-waypoint"),
        (_object({}, MISSING), _object(LABEL), "WaypointIsMissing: doesn't exist"),
        ({"metadata": {"name": "web"}}, None, "carries the label"),
    ],
)
def test_a_service_that_no_waypoint_serves_says_why(
    service: dict[str, Any], namespace: dict[str, Any], says: str | None
) -> None:
    reason = split.unbound(service, namespace)
    assert reason is None if says is None else says in str(reason)
