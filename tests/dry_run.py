"""Everything that generated configurations render, applied by the API server without being kept.

`python -m tests.dry_run NAMESPACE` runs inside the lab and prints, as JSON, how many objects of each kind were asked
about and the refusals.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from core import routes, specs, workload
from core.model import Settings
from lab import kube
from lab.namespace import API_IP
from lab.paths import LAB
from tests import generate

Json = dict[str, Any]
AT_ONCE = 4
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


class Server:
    """The API server by the standard library's client: httpx takes ten times its computing, and thousands are asked."""

    def __init__(self) -> None:
        pki = LAB / "pki"
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
        self._own = threading.local()

    def refusal(self, path: str, body: Json) -> str | None:
        """Why it would not apply the object; None if it would."""
        if not hasattr(self._own, "line"):
            self._own.line = http.client.HTTPSConnection(API_IP, 6443, context=self._tls, timeout=30)
        headers = {"content-type": kube.APPLY, "accept": "application/json"}
        asked = f"{path}?fieldManager=test&force=true&dryRun=All"
        self._own.line.request("PATCH", asked, json.dumps(body), headers)
        with self._own.line.getresponse() as answer:
            told = answer.read().decode()
            return None if answer.status in (200, 201) else f"{answer.status}: {told[:500]}"


def main(namespace: str) -> None:
    server = Server()
    asked: Counter[str] = Counter()
    questions: list[tuple[str, str, Json]] = []
    known: set[str] = set()
    for seed, settings in generate.accepted():
        for kind, name, rest in rendered(settings.model_copy(update={"namespace": namespace})):
            text = json.dumps([kind, rest], sort_keys=True)
            if text not in known:
                known.add(text)
                asked[kind] += 1
                where = PATHS[kind]
                version = where.removeprefix("/apis/").removeprefix("/api/")
                body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **rest}
                path = f"{where}/namespaces/{namespace}/{kind.lower()}s/{name}"
                questions.append((f"{seed}: {kind} {name}", path, body))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        refusals = pool.map(lambda question: server.refusal(*question[1:]), questions)
        refused = [f"{what[0]}: {why}" for what, why in zip(questions, refusals, strict=True) if why]
    print(json.dumps({"asked": asked, "refused": refused}))


if __name__ == "__main__":
    main(sys.argv[1])
