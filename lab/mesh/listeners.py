"""Envoy listeners: HTTP doors (gateway, waypoint) and the plain TCP door of a Service that no waypoint serves."""

from __future__ import annotations

import base64

from lab.mesh.model import Json, Unsupported, World

_TYPE = "type.googleapis.com/envoy.extensions"
_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ACCESS_LOG_FIELDS = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "duration": "%DURATION%",
    "authority": "%REQ(:AUTHORITY)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "client": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}


def listener(name: str, addresses: list[str], port: int, chains: list[Json], *, tls: bool = False) -> Json:
    """Freebind, because a Service's address may be configured before the node has put it on its interface."""
    sockets = [{"socket_address": {"address": a, "port_value": port}} for a in addresses]
    out: Json = {
        "@type": _LISTENER,
        "name": name,
        "address": sockets[0],
        "freebind": True,
        "enable_reuse_port": True,
        "per_connection_buffer_limit_bytes": 1048576,
        "filter_chains": chains,
    }
    if sockets[1:]:
        out["additional_addresses"] = [{"address": s} for s in sockets[1:]]
    if tls:
        inspector = {"@type": f"{_TYPE}.filters.listener.tls_inspector.v3.TlsInspector"}
        out["listener_filters"] = [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]
    return out


def http_chain(stat: str, route_name: str, role: str, access_log: str, extra: list[Json] | None = None) -> Json:
    """One HTTP connection manager whose routes come by name."""
    log = {
        "@type": f"{_TYPE}.access_loggers.file.v3.FileAccessLog",
        "path": access_log,
        "log_format": {"json_format": {"role": role, **ACCESS_LOG_FIELDS}},
    }
    manager: Json = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": stat,
        "rds": {"route_config_name": route_name},
        "server_name": "istio-envoy",
        "normalize_path": True,
        "stream_idle_timeout": "0s",
        "delayed_close_timeout": "1s",
        # A client sees its connection closed gracefully while this proxy drains, for at most this long.
        "drain_timeout": "2s",
        "http_filters": [
            *(extra or []),
            _filter("fault", "fault.v3.HTTPFault"),
            _filter("router", "router.v3.Router"),
        ],
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": log}],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }
    if role == "gateway":
        manager["use_remote_address"] = True
        manager["forward_client_cert_details"] = "SANITIZE_SET"
    else:
        manager["server_header_transformation"] = "PASS_THROUGH"
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def tcp_chain(cluster: str) -> Json:
    proxy = {
        "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
        "max_connect_attempts": 3,
    }
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}


def _filter(name: str, kind: str) -> Json:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{_TYPE}.filters.http.{kind}"}}


def with_tls(chain: Json, world: World, namespace: str, server: Json, path: str) -> Json:
    """Terminate TLS with the Secret beside the gateway pods; SNI chooses the chain."""
    tls = server.get("tls") or {}
    name = str(tls.get("credentialName") or "")
    secret = world.find("Secret", namespace, name)
    data = (secret or {}).get("data") or {}
    if not data.get("tls.crt") or not data.get("tls.key"):
        raise Unsupported(f"{path}.tls.credentialName", f"Secret {namespace}/{name} with tls.crt and tls.key not found")
    certificate = {
        "certificate_chain": {"inline_string": base64.b64decode(data["tls.crt"]).decode()},
        "private_key": {"inline_string": base64.b64decode(data["tls.key"]).decode()},
    }
    context = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [certificate],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        },
    }
    names = [str(h).rsplit("/", 1)[-1].lower() for h in server.get("hosts") or []]
    out = {**chain, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}
    if "*" not in names:
        out["filter_chain_match"] = {"server_names": names}
    return out
