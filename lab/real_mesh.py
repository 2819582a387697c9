"""Runs a real istiod and real pilot-agents as pod processes, with stock Envoy as their proxy.

`python -m lab.real_mesh discovery|proxy|ztunnel ARGS…` puts into the pod's folder what volumes would hold (mesh
configuration, token, root certificate, labels, bootstrap) and becomes Istio's own program. Stock Envoy lacks
Istio's own extensions, so they are switched off here and nowhere in the program's manifests. ztunnel needs a
node's network: its stand-in is an Envoy that carries connections to waypoints by HBONE.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from lab import parts
from lab.kube import Api, ApiError, Informer, Json
from lab.mesh import waypoint
from lab.mesh.clusters import add_service_clusters
from lab.mesh.listeners import ACCESS_LOG_FIELDS, listener, tcp_chain
from lab.mesh.model import ROOT_NAMESPACE, ProxyConfig, World, service_host
from lab.mesh.translate import addresses_of, node_config
from lab.mesh.xds import Publisher, source, write_atomic
from lab.paths import LAB
from lab.proxy import ACCESS_LOG, DRAIN_SECONDS, NODE_PROXY, READY_PORT, envoy_binary

HBONE_PORT = 15008
# The last release whose waypoints istiod serves without the filter-state object that only Istio's Envoy has.
_WAYPOINT_VERSION = "1.29.1"
# Pods share one loopback: each agent has an admin and a status port of its own, below the client ports.
_ADMIN_PORTS, _STATUS_PORTS, _PORTS = 11000, 13000, 1900
_CHECK = {"match": {"path": "/healthz/ready"}, "route": {"cluster": "agent"}}
# What a template fills in as numbers and objects, not as text.
_NOT_TEXT = re.compile(r'"(\{\{ \.(?:config\.\w+Port|meta_json_str|runtime_flags) \}\})"')
_DISCOVERY_PORTS = {
    "httpAddr": 8080, "grpcAddr": 15010, "secureGRPCAddr": 15012, "httpsAddr": 15017, "monitoringAddr": 15014,
}  # fmt: skip
_DISCOVERY_ENV = {"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"}
_FILTER = "lab-stock-envoy"
_WATCHED = ["/api/v1/namespaces", "/api/v1/services", "/api/v1/pods", "/apis/discovery.k8s.io/v1/endpointslices"]


def available() -> bool:
    """Whether Istio's own programs and charts are here; one without the others would serve nothing."""
    return all(parts.find(name) for name in ("pilot-discovery", "pilot-agent", "charts"))


def command(role: str, words: list[str]) -> list[str]:
    """The pod process for `discovery`, `proxy` or `ztunnel` with the container's arguments."""
    return [sys.executable, "-u", "-m", "lab.real_mesh", role, *words]


def _program(name: str) -> str:
    path = parts.find(name)
    if path is None:
        raise SystemExit(f"{name} was not found in $LAB_PARTS or on PATH, where it was when the pod started")
    return str(path)


def mesh_config(text: str) -> str:
    """The chart's mesh configuration with the lab's access log and without Istio's own metrics filter."""
    mesh = yaml.safe_load(text) or {}
    fields = {"role": "%ENVIRONMENT(LAB_ROLE)%", **ACCESS_LOG_FIELDS}
    mesh |= {"accessLogFile": ACCESS_LOG, "accessLogEncoding": "JSON", "accessLogFormat": json.dumps(fields)}
    # What a Telemetry object means by `envoy`; by itself that one writes to standard output.
    same = {"name": "envoy", "envoyFileAccessLog": {"path": ACCESS_LOG, "logFormat": {"labels": fields}}}
    others = [p for p in mesh.get("extensionProviders") or [] if p.get("name") != "envoy"]
    mesh["extensionProviders"] = [*others, same]
    mesh["defaultProviders"] = (mesh.get("defaultProviders") or {}) | {"metrics": []}
    return yaml.safe_dump(mesh)


def bootstrap(address: str, *, files: Path | None = None) -> str:
    """pilot-agent's template: configuration comes from istiod, or from `files`; certificates from the agent."""
    manager = {
        "stat_prefix": "ready",
        "http_filters": [_typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
        "route_config": {"virtual_hosts": [{"name": "agent", "domains": ["*"], "routes": [_CHECK]}]},
    }
    name, kind = "http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager"
    chain = {"filters": [_typed(f"envoy.filters.network.{name}", kind, **manager)]}
    ready = {"name": "ready", "address": _socket(address, READY_PORT), "filter_chains": [chain]}
    ads: Json = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    dynamic = {f"{kind}_config": source(files / f"{kind}.json") if files else ads for kind in ("lds", "cds")}
    if not files:
        dynamic["ads_config"] = _grpc("xds-grpc", "DELTA_GRPC") | {"set_node_on_first_message_only": True}
    identity = "./var/run/secrets/workload-spiffe-uds/{{ .workload_identity_socket_file }}"
    clusters = [
        _static("agent", _socket("127.0.0.1", "{{ .config.StatusPort }}")),
        _static("sds-grpc", {"pipe": {"path": identity}}) | _http2(),
        _static("xds-grpc", {"pipe": {"path": "{{ .config.ConfigPath }}/XDS"}}) | _http2(),
    ]
    internal = "bootstrap.internal_listener.v3.InternalListener"
    layers = [{"name": "static", "static_layer": "{{ .runtime_flags }}"}, {"name": "admin", "admin_layer": {}}]
    text = json.dumps({
        "node": {"id": "{{ .nodeID }}", "cluster": "{{ .cluster }}", "metadata": "{{ .meta_json_str }}"},
        "admin": {"address": _socket("127.0.0.1", "{{ .config.ProxyAdminPort }}")},
        "layered_runtime": {"layers": layers},
        "bootstrap_extensions": [_typed("envoy.bootstrap.internal_listener", internal)],
        "dynamic_resources": dynamic,
        "static_resources": {"listeners": [ready], "clusters": clusters},
    })  # fmt: skip
    return _NOT_TEXT.sub(r"\1", text)


def _socket(address: str, port: int | str) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _typed(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}}


def _grpc(cluster: str, kind: str) -> Json:
    services = [{"envoy_grpc": {"cluster_name": cluster}}]
    return {"api_type": kind, "transport_api_version": "V3", "grpc_services": services}


def _static(name: str, address: Json) -> Json:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _http2() -> Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": f"type.googleapis.com/{name}", "explicit_http_config": {"http2_protocol_options": {}}}
    return {"typed_extension_protocol_options": {name: options}}


def stock_envoy_filter() -> Json:
    """Takes the filters out of waypoints that only Istio's Envoy has; they serve its metrics, not routing."""
    manager = "envoy.filters.network.http_connection_manager"
    patches = []
    for side in ("downstream", "upstream"):
        chain = {"filter": {"name": manager, "subFilter": {"name": f"waypoint_{side}_peer_metadata"}}}
        match = {"context": "SIDECAR_INBOUND", "listener": {"filterChain": chain}}
        patches.append({"applyTo": "HTTP_FILTER", "match": match, "patch": {"operation": "REMOVE"}})
    classes = [{"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}]
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": _FILTER, "namespace": ROOT_NAMESPACE},
        "spec": {"targetRefs": classes, "configPatches": patches},
    }


class PodFolder:
    """What volumes would hold; Istio's programs look for it relative to the folder where they run."""

    def __init__(self) -> None:
        self.name, self.namespace, self.address = (os.environ[f"POD_{n}"] for n in ("NAME", "NAMESPACE", "IP"))
        self.path = LAB / "pods" / f"{self.namespace}.{self.name}" / "mesh"

    def write(self, name: str, text: str) -> Path:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, text)
        return target

    async def identity(self, api: Api) -> None:
        """The token that istiod's CA asks for, and the root that istiod is checked by."""
        space = f"/api/v1/namespaces/{self.namespace}"
        pod = await _insist(lambda: api.get(f"{space}/pods/{self.name}"))
        account = pod["spec"].get("serviceAccountName", "default")
        wish = {"spec": {"audiences": ["istio-ca"], "expirationSeconds": 7 * 24 * 3600}}
        token = await _insist(lambda: api.create(f"{space}/serviceaccounts/{account}/token", wish))
        root = await _insist(lambda: api.get(f"{space}/configmaps/istio-ca-root-cert"))
        self.write("var/run/secrets/tokens/istio-token", token["status"]["token"])
        self.write("var/run/secrets/istio/root-cert.pem", root["data"]["root-cert.pem"])
        labels = (pod["metadata"].get("labels") or {}).items()
        self.write("etc/istio/pod/labels", "".join(f"{key}={json.dumps(value)}\n" for key, value in labels))

    def log_to_access(self) -> None:
        link = self.path / ACCESS_LOG
        for folder in (LAB / "access", self.path):
            folder.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(LAB / "access" / f"{self.namespace}.{self.name}.jsonl")

    def agent(self, role: str, template: str) -> dict[str, str]:
        """pilot-agent's environment over the container's own."""
        number = int(ipaddress.ip_address(self.address)) % _PORTS  # differs for addresses near each other
        given = yaml.safe_load(os.environ.get("PROXY_CONFIG") or "{}") or {}
        given |= {
            "binaryPath": envoy_binary(),
            "proxyBootstrapTemplatePath": str(self.write("bootstrap.tmpl", template)),
            "proxyAdminPort": _ADMIN_PORTS + number,
            "statusPort": _STATUS_PORTS + number,
            "concurrency": 1,
            "drainDuration": f"{DRAIN_SECONDS}s",
        }
        version = {"ISTIO_META_ISTIO_VERSION": _WAYPOINT_VERSION} if role == "waypoint" else {}
        own = {"INSTANCE_IP": self.address, "PROXY_CONFIG": json.dumps(given), "LAB_ROLE": role, **version}
        return {"ISTIO_META_CLUSTER_ID": "Kubernetes"} | _container_environment() | own


def _container_environment() -> dict[str, str]:
    """The container's variables but for Go's limits: there is no container whose memory they describe."""
    return {name: value for name, value in os.environ.items() if name not in ("GOMEMLIMIT", "GOMAXPROCS")}


async def _insist(ask: Any) -> Json:
    """Until the API server gives it: istiod and the controllers may be starting too."""
    told = ""
    while True:
        try:
            return dict(await ask())
        except (ApiError, httpx.HTTPError) as error:
            if str(error) != told:
                told = str(error)
                print(f"real_mesh: {error!r}; trying again", flush=True)
            await asyncio.sleep(0.5)


async def discovery(words: list[str]) -> None:
    """Become pilot-discovery, listening on the pod's address only: two of them run during a roll-out."""
    pod = PodFolder()
    async with Api() as api:
        given = await _insist(lambda: api.get(f"/api/v1/namespaces/{pod.namespace}/configmaps/istio"))
    pod.write("etc/istio/config/mesh", mesh_config(given["data"].get("mesh", "")))
    flags = [f"--{name}={pod.address}:{port}" for name, port in _DISCOVERY_PORTS.items()]
    flags += ["--kubeconfig", str(LAB / "kubeconfig"), "--ctrlz_port", "0"]
    os.chdir(pod.path)
    program = _program("pilot-discovery")
    os.execve(program, [program, *(words or ["discovery"]), *flags], _container_environment() | _DISCOVERY_ENV)


async def proxy(words: list[str]) -> None:
    """Become the pilot-agent of a gateway or waypoint."""
    pod = PodFolder()
    role = "waypoint" if "waypoint" in words else "gateway"
    async with Api() as api:
        if role == "waypoint":
            path = f"/apis/networking.istio.io/v1alpha3/namespaces/{ROOT_NAMESPACE}/envoyfilters/{_FILTER}"
            await _insist(lambda: api.apply(path, stock_envoy_filter()))
        await pod.identity(api)
    pod.log_to_access()
    os.chdir(pod.path)
    program = _program("pilot-agent")
    os.execve(program, [program, *(words or ["proxy", "router"])], pod.agent(role, bootstrap(pod.address)))


def ztunnel_config(world: World) -> ProxyConfig:
    """Plain TCP for Services without a waypoint; for the others a tunnel to their address through theirs."""
    # As istiod says, also while the waypoint has no pods: then it fails rather than going round it.
    bound = {host: service for host, service in world.services.items() if waypoint.is_bound(service)}
    config = node_config(world, set(bound))
    for host, service in bound.items():
        place = world.waypoint_of(service)
        door = world.find("Service", *place) if place else None
        if place is None or door is None:
            continue
        cluster = f"outbound|{HBONE_PORT}||{service_host(door)}"
        if all(known["name"] != cluster for known in config.clusters):
            add_service_clusters(config, world, door, "")
            config.clusters = [_hbone(c, place) if c["name"] == cluster else c for c in config.clusters]
        for port in service["spec"].get("ports") or []:
            number, addresses = int(port["port"]), addresses_of(service)
            if not addresses or port.get("protocol", "TCP") != "TCP":
                continue
            chain = tcp_chain(cluster)
            # The last address is the cluster's; a waypoint knows a Service by it.
            chain["filters"][0]["typed_config"]["tunneling_config"] = {"hostname": f"{addresses[-1]}:{number}"}
            config.listeners.append(listener(f"outbound|{number}||{host}", addresses, number, [chain]))
    return config


def _hbone(cluster: Json, place: tuple[str, str]) -> Json:
    """HTTP/2 over mutual TLS, to nobody but that waypoint's account."""
    identity = "spiffe://cluster.local/ns/{}/sa/{}".format(*place)
    wanted = {"san_type": "URI", "matcher": {"exact": identity}}
    context = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_secret("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [wanted]},
            "validation_context_sds_secret_config": _secret("ROOTCA"),
        },
    }
    socket = "transport_sockets.tls.v3.UpstreamTlsContext"
    tls = _typed("envoy.transport_sockets.tls", socket, common_tls_context=context)
    return {**cluster, **_http2(), "transport_socket": tls}


def _secret(name: str) -> Json:
    """Waits a second only: istiod itself, who signs the certificate, is reached through this Envoy."""
    config = {"api_config_source": _grpc("sds-grpc", "GRPC"), "initial_fetch_timeout": "1s"}
    return {"name": name, "sds_config": {**config, "resource_api_version": "V3"}}


async def ztunnel() -> int:
    """Keep the stand-in's files current beside its pilot-agent, which has ztunnel's account."""
    pod = PodFolder()
    changed, stopped = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    publisher = Publisher(LAB / "xds" / NODE_PROXY)

    def publish() -> None:
        publisher.publish(ztunnel_config(World(item for found in informers for item in found.items.values())))

    async with Api() as api:
        await pod.identity(api)
        informers = [Informer(api, path, lambda *_: changed.set()) for path in _WATCHED]
        watching = [asyncio.create_task(informer.run()) for informer in informers]
        await asyncio.gather(*(informer.synced.wait() for informer in informers))
        publish()
        agent = await asyncio.create_subprocess_exec(
            _program("pilot-agent"), "proxy", "router", "--domain", f"{pod.namespace}.svc.cluster.local",
            cwd=pod.path, env=pod.agent("ztunnel", bootstrap(pod.address, files=publisher.directory)),
        )  # fmt: skip
        ended, stop = asyncio.create_task(agent.wait()), asyncio.create_task(stopped.wait())
        while not (ended.done() or stop.done()):
            notice = asyncio.create_task(changed.wait())
            await asyncio.wait({ended, stop, notice}, return_when=asyncio.FIRST_COMPLETED, timeout=1)
            notice.cancel()
            publisher.clean()
            if changed.is_set():
                await asyncio.sleep(0.02)  # changes come in groups
                changed.clear()
                publish()
        if not ended.done():
            agent.terminate()
        code = await ended
        for task in watching:
            task.cancel()
    return 0 if stop.done() else (code or 1)


def main() -> int:
    role, *words = sys.argv[1:] or [""]
    if role == "ztunnel":
        return asyncio.run(ztunnel())
    if role not in ("discovery", "proxy"):
        raise SystemExit(f"lab.real_mesh: first argument must be discovery, proxy or ztunnel, got {role!r}")
    asyncio.run(discovery(words) if role == "discovery" else proxy(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
