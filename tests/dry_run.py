"""Everything that generated configurations render, applied by the API server without being kept.

`python -m tests.dry_run NAMESPACE` runs inside the lab and prints, as JSON, how many objects of each kind were asked
about and the refusals.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from core import routes, specs, workload
from core.model import Settings
from lab.kube import APPLY, Api, ApiError
from tests import generate

Json = dict[str, Any]
AT_ONCE = 16
PATHS = {
    "Service": "/api/v1",
    "ServiceAccount": "/api/v1",
    "ConfigMap": "/api/v1",
    "Secret": "/api/v1",
    "Deployment": "/apis/apps/v1",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2",
    "PodDisruptionBudget": "/apis/policy/v1",
    "VirtualService": "/apis/networking.istio.io/v1",
    "DestinationRule": "/apis/networking.istio.io/v1",
    "Gateway": "/apis/networking.istio.io/v1",
}


def rendered(settings: Settings) -> Iterator[tuple[str, str, Json]]:
    """(kind, name, the rest of the object) of all that stands for itself in a namespace."""
    if settings.public_hosts:
        yield "Gateway", "public", {"spec": routes.gateway_spec(settings)}
    for name, service in settings.services.items():
        yield "Service", name, {"spec": specs.service_spec(name, service)}
        yield "VirtualService", name, {"spec": routes.virtual_service_spec(name, settings)}
        yield "DestinationRule", name, {"spec": routes.destination_rule_spec(name, settings.namespace)}
        yield "ServiceAccount", name, workload.account(settings, name)["body"]
        for version, _ in service.tracks():
            title = f"{name}-{version}"
            yield "Deployment", title, {"spec": workload.deployment_spec(settings, name, version)}
            for content in workload.contents(settings, name, version):
                yield content.kind, content.name, {"data": dict(content.data), "immutable": True}
            if scaling := workload.autoscaler_spec(settings, name, version):
                yield "HorizontalPodAutoscaler", title, {"spec": scaling}
            if budget := workload.disruption_spec(settings, name, version):
                yield "PodDisruptionBudget", title, {"spec": budget}


async def main(namespace: str) -> None:
    asked: Counter[str] = Counter()
    refused: list[str] = []
    slots = asyncio.Semaphore(AT_ONCE)
    known: set[str] = set()

    async def apply(api: Api, seed: str, kind: str, name: str, rest: Json) -> None:
        where = PATHS[kind]
        version = where.removeprefix("/apis/").removeprefix("/api/")
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **rest}
        async with slots:
            try:
                path = f"{where}/namespaces/{namespace}/{kind.lower()}s/{name}"
                await api.request("PATCH", path, body, APPLY, fieldManager="test", force="true", dryRun="All")
            except ApiError as error:
                refused.append(f"{seed}: {kind} {name}: {error}")
        asked[kind] += 1

    async with Api() as api, asyncio.TaskGroup() as group:
        for seed, settings in generate.accepted():
            for kind, name, rest in rendered(settings.model_copy(update={"namespace": namespace})):
                text = json.dumps([kind, rest], sort_keys=True)
                if text not in known:
                    known.add(text)
                    group.create_task(apply(api, seed, kind, name, rest))
    print(json.dumps({"asked": asked, "refused": refused}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
