"""Why a door did not get ready, in the cluster's words."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pulumi
import pytest

import live
import reasons


def condition(kind: str, status: str, reason: str = "Because", message: str = "it is so") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def item(kind: str, **status: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "web-1"}, "status": status}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (item("Gateway", conditions=[condition("Accepted", "True")]), []),
        (
            item("Gateway", conditions=[condition("Programmed", "Unknown", "Pending", "Waiting for controller")]),
            ["Gateway web-1: Programmed is Unknown: Pending: Waiting for controller"],
        ),
        (
            item("Deployment", conditions=[condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota")]),
            ["Deployment web-1: ReplicaFailure is True: FailedCreate: exceeded quota"],
        ),
        (item("Deployment", conditions=[condition("ReplicaFailure", "False")]), []),
        (
            item("Pod", conditions=[condition("PodScheduled", "False", "Unschedulable", "no node is free")]),
            ["Pod web-1: PodScheduled is False: Unschedulable: no node is free"],
        ),
        (
            item("Pod", containerStatuses=[{"name": "web", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
            ["Pod web-1: container web waiting: ImagePullBackOff"],
        ),
        (
            item(
                "Pod",
                containerStatuses=[
                    {
                        "name": "web",
                        "state": {"running": {"startedAt": "now"}},
                        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                    }
                ],
            ),
            ["Pod web-1: container web terminated: OOMKilled"],
        ),
        (
            item(
                "Pod",
                initContainerStatuses=[{"name": "init", "state": {"terminated": {"reason": "Completed"}}}],
                containerStatuses=[{"name": "web", "state": {"running": {}}}],
            ),
            [],
        ),
        ({"kind": "Pod", "metadata": {"name": "web-1"}}, []),
    ],
)
def test_only_what_is_amiss_is_said(found: dict[str, Any], expected: list[str]) -> None:
    assert list(reasons.said(found)) == expected


def told(error: Exception | None = None) -> str:
    """What the hook logs about a failed release while its pods crash, or while the cluster fails with `error`."""
    client = mock.Mock()
    client.list.side_effect = error or (
        lambda kind, **_: [mock.Mock(to_dict=lambda: item("x", containerStatuses=LOOP))]
    )
    with (
        mock.patch.object(live, "connect", return_value=client),
        mock.patch.object(pulumi, "ErrorHook") as made,
        mock.patch.object(pulumi.log, "error") as logged,
    ):
        reasons.hook(None, None)
        _, tell = made.call_args[0]
        args = pulumi.ErrorHookArgs("urn", "id", "mesh-istiod", "type", new_inputs={"namespace": "istio-system"})
        assert tell(args) is False, "it explains, it does not try again"
    return str(logged.call_args[0][0])


LOOP = [{"name": "discovery", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]


def test_a_failed_release_is_told_with_the_reasons_of_its_pods() -> None:
    text = told()
    assert "mesh-istiod did not get ready; the cluster says:" in text
    assert "Pod web-1: container discovery waiting: CrashLoopBackOff" in text


def test_a_cluster_that_cannot_be_asked_does_not_hide_the_failure() -> None:
    assert "the cluster could not be read: no route to host" in told(OSError("no route to host"))
