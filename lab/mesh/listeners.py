"""Envoy listeners: HTTP doors (gateway, waypoint) and the plain TCP door of a Service that no waypoint serves."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

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
    "grpc_status": "%GRPC_STATUS_NUMBER%",
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


def with_tls(chain: Json, world: World, namespace: str, server: Json, path: str) -> tuple[Json, Json]:
    """The chain that terminates TLS, chosen by SNI, and the secret it names: the one beside the gateway pods."""
    tls = server.get("tls") or {}
    name = str(tls.get("credentialName") or "")
    found = (world.find("Secret", namespace, name) or {}).get("data") or {}
    missing = [key for key in ("tls.crt", "tls.key") if not found.get(key)]
    if missing:
        told = f"Secret {namespace}/{name} {'has no ' + missing[0] if found else 'not found'}: HTTPS is not served"
        raise Unsupported(f"{path}.tls.credentialName", told)
    certificate, key = (base64.b64decode(found[part]).decode() for part in ("tls.crt", "tls.key"))
    if problem := certificate_problem(certificate, key):
        raise Unsupported(f"{path}.tls.credentialName", f"Secret {namespace}/{name}: {problem}: HTTPS is not served")
    pair = {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
    secret = {"@type": f"{_TYPE}.transport_sockets.tls.v3.Secret", "name": name, "tls_certificate": pair}
    context = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": name}],
            "tls_params": {
                "tls_minimum_protocol_version": str(tls.get("minProtocolVersion", "TLSV1_2")).replace("TLSV", "TLSv"),
                "tls_maximum_protocol_version": "TLSv1_3",
            },
        },
    }
    names = [str(h).rsplit("/", 1)[-1].lower() for h in server.get("hosts") or []]
    out = {**chain, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}
    if "*" not in names:
        out["filter_chain_match"] = {"server_names": names}
    return out, secret


def certificate_problem(certificate: str, key: str) -> str:
    """Why Envoy would refuse the pair, and with it the whole update; empty if it is fine."""
    try:
        public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        own = load_pem_private_key(key.encode(), None).public_key()
    except (ValueError, TypeError) as error:
        return f"tls.crt or tls.key cannot be read ({error})"
    return "" if own == public else "tls.key is not the key of tls.crt"
