"""What is made of what the cluster says."""

from __future__ import annotations

from typing import Any

import pytest

from live import _is_ready

DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, True),
        ({"availableReplicas": 1}, False),
        ({"observedGeneration": 1}, False),
        # Two pods of the former template serve on, while the new one crashes.
        ({"replicas": 3, "updatedReplicas": 1}, False),
    ],
)
def test_a_deployment_is_ready_when_all_pods_of_its_present_template_serve(status: dict[str, Any], ready: bool) -> None:
    assert _is_ready({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": DONE | status}) is ready


def test_a_deployment_that_nobody_has_looked_at_is_not_ready() -> None:
    assert not _is_ready({"metadata": {"generation": 1}, "spec": {"replicas": 1}})
