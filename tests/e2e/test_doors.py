"""What the doors do besides splitting HTTP: gRPC, TLS, policies at the gateway; and what a Service is without a
waypoint. Objects of its own, beside the stack's, so that the lab's part is judged and not the program's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core import split
from lab import load
from lab.paths import LAB, ROOT
from lab.stack import api, inside
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Rested

pytestmark = pytest.mark.lab

Json = dict[str, Any]
SPACE = "doors"
HOST = f"echo.{SPACE}.svc.cluster.local"
CALL = "demo.Echo/Say"
URLS = {"gateway": f"grpc://echo.lab.test/{CALL}", "waypoint": f"grpc://{HOST}/{CALL}"}
NETWORKING, SECURITY = "/apis/networking.istio.io/v1/namespaces", "/apis/security.istio.io/v1/namespaces"
# One line of JSON: what an old client, a plain one and a present one get.
PROBE = """
import http.client, json, ssl, socket, sys
host, trusted = sys.argv[1:]
old = ssl.create_default_context(cafile=trusted)
old.set_ciphers("DEFAULT@SECLEVEL=0")
old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
found = {}
with socket.create_connection((host, 443), 5) as plain:
    try:
        old.wrap_socket(plain, server_hostname=host)
    except ssl.SSLError as error:
        found["old"] = error.reason
door = http.client.HTTPConnection(host)
door.request("GET", "/x?y=1")
answer = door.getresponse()
found["plain"] = [answer.status, answer.getheader("location")]
now = ssl.create_default_context(cafile=trusted)
with socket.create_connection((host, 443), 5) as plain, now.wrap_socket(plain, server_hostname=host) as safe:
    found["now"] = safe.version()
print(json.dumps(found))
"""


def make(path: str, spec: Json | None, api_version: str, kind: str, **metadata: Any) -> None:
    folder, _, name = path.rpartition("/")
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **metadata}}
    api("POST", folder, manifest | ({"spec": spec} if spec is not None else {}))


def deployment(track: str, tag: str) -> None:
    labels = {"app": "echo", "version": track}
    container = {
        "name": "echo",
        "image": f"sample-grpc:{tag}",
        "readinessProbe": {"tcpSocket": {"port": 3000}, "periodSeconds": 1},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    make(f"/apis/apps/v1/namespaces/{SPACE}/deployments/echo-{track}", spec, "apps/v1", "Deployment")


def route(name: str, weights: dict[str, int], **more: Any) -> Json:
    legs = [
        {"destination": {"host": HOST, "subset": t, "port": {"number": 80}}, "weight": w} for t, w in weights.items()
    ]
    for leg, track in zip(legs, weights, strict=True):
        leg["headers"] = {"response": {"set": {"x-canary-route": f"{name}/{track}"}}}
    retries = {"attempts": 2, "perTryTimeout": "5s", "retryOn": "unavailable,cancelled,resource-exhausted"}
    return {"name": name, "route": legs, "timeout": "5s", "retries": retries, **more}


@pytest.fixture(scope="module")
def echo(deployed: Rested) -> Iterator[None]:
    """A gRPC service of two tracks behind both doors, 20 % canary, and a public name with TLS that leads to the
    stack's service."""
    deployed.rest()
    labels = {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}
    make(f"/api/v1/namespaces/{SPACE}", None, "v1", "Namespace", labels=labels)
    door = {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}
    gateways = f"/apis/gateway.networking.k8s.io/v1/namespaces/{SPACE}/gateways"
    make(f"{gateways}/waypoint", door, "gateway.networking.k8s.io/v1", "Gateway")
    deployment("stable", "1.0")
    deployment("canary", "2.0")
    port = {"name": "grpc", "port": 80, "targetPort": 3000, "appProtocol": "grpc"}
    make(f"/api/v1/namespaces/{SPACE}/services/echo", {"selector": {"app": "echo"}, "ports": [port]}, "v1", "Service")
    subsets = [{"name": track, "labels": {"version": track}} for track in ("stable", "canary")]
    kind = ("networking.istio.io/v1", "DestinationRule")
    make(f"{NETWORKING}/{SPACE}/destinationrules/echo", {"host": HOST, "subsets": subsets}, *kind)
    qa = route("rule-qa", {"canary": 100}, match=[{"headers": {"x-canary": {"exact": "true"}}}])
    rules = [qa, route("default", {"stable": 80, "canary": 20})]
    spec: Json = {"hosts": ["echo.lab.test", HOST], "gateways": ["istio-ingress/doors", "mesh"], "http": rules}
    kind = ("networking.istio.io/v1", "VirtualService")
    make(f"{NETWORKING}/{SPACE}/virtualservices/echo", spec, *kind)
    web = {"route": [{"destination": {"host": "web.shop.svc.cluster.local"}}]}
    spec = {"hosts": ["tls.lab.test"], "gateways": ["istio-ingress/doors"], "http": [web]}
    make(f"{NETWORKING}/{SPACE}/virtualservices/tls", spec, *kind)
    tls = {"mode": "SIMPLE", "credentialName": "doors-tls", "minProtocolVersion": "TLSV1_2"}
    http, https = {"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 443, "name": "s", "protocol": "HTTPS"}
    servers = [
        {"port": http, "hosts": [f"{SPACE}/echo.lab.test"]},
        {"port": http | {"name": "redirect"}, "hosts": [f"{SPACE}/tls.lab.test"], "tls": {"httpsRedirect": True}},
        {"port": https, "hosts": [f"{SPACE}/tls.lab.test"], "tls": tls},
    ]
    public = {"selector": {"istio": "ingressgateway"}, "servers": servers}
    make(f"{NETWORKING}/istio-ingress/gateways/doors", public, "networking.istio.io/v1", "Gateway")
    yield
    api("DELETE", f"{NETWORKING}/istio-ingress/gateways/doors")
    api("DELETE", f"/api/v1/namespaces/{SPACE}")


def served(url: str) -> bool:
    return load.run(url, 20).served == 20


def condition() -> Json:
    status = api("GET", f"/api/v1/namespaces/{SPACE}/services/echo")["status"]
    found: list[Json] = [c for c in status.get("conditions") or [] if c["type"] == "istio.io/WaypointBound"]
    return found[0] if found else {}


def accessed(role: str, since: str) -> list[Json]:
    """Calls in the access logs that began at that time or later."""
    lines = [x for p in (LAB / "access").glob("*.jsonl") for x in p.read_text().splitlines(keepends=True)]
    entries = [json.loads(x) for x in lines if x.endswith("\n")]
    return [e for e in entries if e["role"] == role and e["path"] == f"/{CALL}" and e["start_time"] >= since]


def test_grpc_is_split_and_ruled_at_both_doors_and_logged_with_route_and_track(echo: None) -> None:
    for role, url in URLS.items():
        until(lambda url=url: served(url), url)  # type: ignore[misc]
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found = load.run(url, 2000)
        assert found.lost == found.refused == 0, (role, found)
        assert split.accepts(found.canary, found.served, 0.2, 0.0001), (role, found)
        assert load.run(url, 200, {"x-canary": "true"}) == load.Counts(canary=200)
        until(lambda role=role, since=since: len(accessed(role, since)) == 2200, "the log")  # type: ignore[misc]
        logged = accessed(role, since)
        told = {(e["route_name"], e["upstream_cluster"].split("|")[2].rpartition("/")[2]) for e in logged}
        assert told >= {("rule-qa", "canary"), ("default", "stable"), ("default", "canary")}
        assert {e["grpc_status"] for e in logged} == {0}


def test_a_service_that_is_not_bound_is_not_split(echo: None) -> None:
    until(lambda: condition().get("status") == "True", "bound")
    assert condition()["message"] == f"Successfully attached to waypoint {SPACE}/waypoint"
    path = f"/api/v1/namespaces/{SPACE}/services/echo"
    try:
        for label, reason in (("none", None), ("absent", "WaypointIsNotReady")):
            api("PATCH", path, {"metadata": {"labels": {"istio.io/use-waypoint": label}}})
            until(lambda reason=reason: condition().get("reason") == reason, label)  # type: ignore[misc]
            until(lambda: served(URLS["waypoint"]), "plain TCP")
            found = load.run(URLS["waypoint"], 2000)
            assert found.lost == 0 and found.canary > 600, f"{label}: {found}"
    finally:
        api("PATCH", path, {"metadata": {"labels": {"istio.io/use-waypoint": None}}})
    until(lambda: condition().get("status") == "True", "bound again")


def tls_secret() -> Path:
    command = [sys.executable, "-m", "lab", "tls-secret", "doors-tls", "tls.lab.test"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return LAB / "tls" / "doors-tls.crt"


def test_https_is_1_2_or_newer_http_redirects_and_a_new_certificate_loses_nothing(echo: None, tmp_path: Path) -> None:
    public = "https://tls.lab.test"
    until(lambda: served(URLS["gateway"]), "gateway")
    path = "/api/v1/namespaces/istio-ingress/secrets/doors-tls"
    first, second, both = (tmp_path / f"{name}.crt" for name in ("first", "second", "both"))
    shutil.copy(tls_secret(), first)
    earlier = api("GET", path)["data"]
    shutil.copy(tls_secret(), second)
    both.write_text(first.read_text() + second.read_text())
    argv, environment = inside([sys.executable, "-c", PROBE, "tls.lab.test", str(second)])

    def probed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    until(lambda: probed().returncode == 0, "HTTPS")
    found = json.loads(probed().stdout)
    assert found["old"] == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert found["plain"] == [301, "https://tls.lab.test/x?y=1"]
    assert found["now"] in ("TLSv1.2", "TLSv1.3")
    with load.Steady(public, 50, both) as steady:
        api("PATCH", path, {"data": earlier})
        until(lambda: load.run(public, 1, None, first).lost == 0, "the other certificate")
    assert steady.counts().lost == 0, steady.lost()
    assert load.run(public, 1, None, second).lost == 1, "one of both is served"


def test_the_gateway_enforces_policies_and_what_nobody_enforces_is_told(echo: None) -> None:
    until(lambda: served(URLS["gateway"]), "gateway")
    gateway = {"matchLabels": {"istio": "ingressgateway"}}
    operation = {"hosts": ["echo.lab.test"], "paths": ["/demo.*"], "ports": ["80"]}
    kind = ("security.istio.io/v1", "AuthorizationPolicy")
    here = f"{SECURITY}/istio-ingress/authorizationpolicies/doors"
    deny = {"selector": gateway, "action": "DENY", "rules": [{"to": [{"operation": operation}]}]}
    proxies = {"source": {"principals": [f"cluster.local/ns/{SPACE}/sa/waypoint"]}}
    there = {"selector": {"matchLabels": {"app": "echo"}}, "rules": [{"from": [proxies]}]}
    make(f"{SECURITY}/{SPACE}/authorizationpolicies/echo", there, *kind)
    make(here, deny, *kind)
    try:
        until(lambda: load.run(URLS["gateway"], 20).refused == 20, "refused")
        if (errors := LAB / "xds" / "errors.json").exists():  # a real istiod keeps no list
            listed = {p["resource"]: p for p in json.loads(errors.read_text())}
            assert "AuthorizationPolicy istio-ingress/doors" not in listed
            assert listed[f"AuthorizationPolicy {SPACE}/echo"]["known"]
    finally:
        api("DELETE", here)
        api("DELETE", f"{SECURITY}/{SPACE}/authorizationpolicies/echo")
    until(lambda: served(URLS["gateway"]), "served again")
