"""The arithmetic by which a measured share is judged."""

from __future__ import annotations

import pytest

from lab import shares


@pytest.mark.parametrize(("hits", "share"), [(1, 0.0), (1999, 1.0)])
def test_at_0_and_100_a_single_stray_request_fails(hits: int, share: float) -> None:
    assert not shares.accepts(hits, 2000, share, 0.001)
    assert shares.accepts(round(2000 * share), 2000, share, 0.001)


def test_the_accepted_band_of_5_per_cent_is_the_binomial_one() -> None:
    accepted = [hits for hits in range(2001) if shares.accepts(hits, 2000, 0.05, 0.001)]
    # Exact tails of Binomial(2000, 0.05) beyond 0.0005: standard deviation 9.75, so about 100 ± 3.3 of them.
    assert (accepted[0], accepted[-1]) == (69, 133)
    assert accepted == list(range(69, 134))


def test_the_interval_holds_the_share_and_shrinks_with_more_requests() -> None:
    low, high = shares.interval(100, 2000)
    assert low < 0.05 < high
    wide_low, wide_high = shares.interval(10, 200)
    assert wide_high - wide_low > high - low


def test_without_requests_nothing_is_known() -> None:
    assert shares.interval(0, 0) == (0.0, 1.0)
