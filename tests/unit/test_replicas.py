"""Without a mesh the numbers of pods are the share."""

from __future__ import annotations

from typing import Any

import pytest

from core import checks, replicas


def _plain(weight: int, pods: int, **service: Any) -> dict[str, Any]:
    web = {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}, "replicas": pods} | service
    return {"strategy": "replicas", "weight": weight, "steps": [5, 10, 25, 50, 100], "services": {"web": web}}


@pytest.mark.parametrize(
    ("weight", "total", "expected"),
    [(5, 20, (19, 1)), (0, 20, (20, 0)), (100, 20, (0, 20)), (50, 3, (2, 1)), (34, 3, (2, 1)), (1, 100, (99, 1))],
)
def test_pods_are_shared_out_by_largest_remainder(weight: int, total: int, expected: tuple[int, int]) -> None:
    assert replicas.counts(weight, total) == expected


def test_no_pod_is_lost_and_canary_gets_the_nearest_number_there_is() -> None:
    for total in range(1, 120):
        for weight in range(101):
            stable, canary = replicas.counts(weight, total)
            assert stable + canary == total
            given = abs(canary - total * weight / 100)
            assert given <= min(abs(other - total * weight / 100) for other in range(total + 1)) + 1e-9


def test_a_weight_that_the_pods_cannot_give_is_refused_with_the_nearest_that_they_can() -> None:
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(_plain(10, 6) | {"steps": [10]})
    (line,) = caught.value.lines
    assert line.startswith("canary:weight: got 10: cannot be met by 6 pods, which share in steps of 16.7 points")
    assert line.endswith("the nearest is 16, or set replicas to 10")  # 1 of 6 is 16.7, 1 of 9 is 11.1
    assert replicas.problem(16, 6) is None


def test_twenty_pods_meet_the_whole_ladder() -> None:
    settings, warnings = checks.parse(_plain(5, 20))
    assert (settings.weight, warnings) == (5, [])


def test_a_revert_passes_whatever_the_pods_can_give() -> None:
    settings, warnings = checks.parse(_plain(0, 6))
    assert settings.weight == 0
    assert any("canary:steps" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"hosts": ["shop.example.com"]}, "canary:services.web.hosts"),
        ({"rules": [{"name": "qa", "headers": {"x-canary": "true"}}]}, "canary:services.web.rules"),
        ({"autoscale": {"min": 2, "max": 4}}, "canary:services.web.stable.autoscale"),
        ({"stable": {"image": "web:1", "replicas": 3}}, "canary:services.web.stable.replicas"),
        ({"canary": {"image": "web:2", "replicas": 3}}, "canary:services.web.canary.replicas"),
    ],
)
def test_what_only_a_mesh_can_do_is_refused_without_one(change: dict[str, Any], names: str) -> None:
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(_plain(5, 20, **change))
    assert any(line.startswith(names) for line in caught.value.lines), caught.value.lines
