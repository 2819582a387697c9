"""The direct halt without a mesh: canary's pods go, and nobody is left without any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core import checks
from rollout import mesh


class Cluster:
    """Remembers what is written to it; what it `refuses` cannot be."""

    def __init__(self, objects: list[dict[str, Any]], refuses: str = "") -> None:
        self.objects, self.refuses, self.written = objects, refuses, list[str]()

    def list(self, resource: Any, *, labels: dict[str, str] | None = None, **_: Any) -> list[Any]:
        kind = resource._api_info.resource.kind
        wanted = (labels or {}).items()
        found = [one for one in self.objects if one["kind"] == kind]
        found = [one for one in found if wanted <= one["metadata"].get("labels", {}).items()]
        return [SimpleNamespace(to_dict=lambda one=one: one) for one in found]

    def patch(self, _: Any, name: str, body: dict[str, Any], **_more: Any) -> None:
        assert body["metadata"]["name"] == name
        self.written.append(f"{name} {body['spec']['replicas']}")

    def apply(self, patch: Any, **_: Any) -> None:
        if patch.metadata.name == self.refuses:
            raise OSError("admission webhook denied the request")
        self.written.append(patch.metadata.name)


def pods(version: str, replicas: int, ready: int) -> dict[str, Any]:
    labels = {"app": "web", "version": version, "app.kubernetes.io/managed-by": "pulumi"}
    status = {"readyReplicas": ready} if ready else {}
    metadata = {"name": f"web-{version}", "labels": labels}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}, "status": status}


def test_without_a_mesh_canary_loses_its_pods() -> None:
    cluster = Cluster([pods("stable", 19, 19), pods("canary", 1, 1)])
    assert mesh.still_on(cluster, "shop", "replicas") == ["web"]
    assert mesh.halt(cluster, "shop", [], "replicas") == ["web-canary"]
    assert cluster.written == ["web-canary 0"]


@pytest.mark.parametrize("objects", [[pods("stable", 0, 0), pods("canary", 20, 20)], [pods("canary", 0, 0)]])
def test_without_a_mesh_nothing_is_taken_where_nobody_else_answers(objects: list[dict[str, Any]]) -> None:
    cluster = Cluster(objects)
    assert mesh.halt(cluster, "shop", [], "replicas") == []
    assert cluster.written == []


def route(name: str) -> dict[str, Any]:
    legs = [{"destination": {"subset": "stable"}, "weight": 95}, {"destination": {"subset": "canary"}, "weight": 5}]
    metadata = {"name": name, "annotations": {"canary/stable": "abc", "canary/halted": "true"}}
    return {"kind": "VirtualService", "metadata": metadata, "spec": {"http": [{"route": legs}]}}


def test_a_route_that_cannot_be_written_keeps_no_other_on_canary() -> None:
    cluster = Cluster([route("api"), route("web")], refuses="api")
    with pytest.raises(OSError, match="api: admission webhook denied the request; halted are web"):
        mesh.halt(cluster, "shop", [])
    assert cluster.written == ["web"]


def test_the_line_for_the_shell_goes_on_after_a_service_that_fails(web: dict[str, Any]) -> None:
    web["services"]["api"] = {"stable": {"image": "api:1"}}
    line = mesh.line(checks.parse(web)[0], None)
    assert line.count("; kubectl ") == 1 and "&&" not in line
