"""Configuration of one Envoy as files that it watches (file-based xDS), changed in an order that loses no request."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lab.mesh.model import Json, ProxyConfig

# Envoy applies a moved file within milliseconds; this covers a busy machine.
SETTLE = 0.1
# Two proxies listen on one address for so long while a Service's address moves from the one to the other.
OVERLAP = 0.5
LINGER = 2.0


def source(path: Path) -> Json:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}, "initial_fetch_timeout": "2s"}


class Publisher:
    """Writes one proxy's directory; files move into place only when their content changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._written: dict[Path, str] = {}
        self._clusters: dict[str, Json] = {}
        self._listeners: dict[str, Json] = {}
        self.config = ProxyConfig()
        self._linger_until: float | None = None
        for part in ("rds", "eds", "sds"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def publish(self, config: ProxyConfig) -> list[str]:
        """Endpoints, then clusters, then routes, then listeners; what is no longer used goes in `clean`, and listeners
        in `close`."""
        changed: list[str] = []
        for secret in config.secrets:
            self._write(self.file("sds", secret["name"]), [secret], f"sds {secret['name']}", changed)
        for name, assignment in config.endpoints.items():
            self._write(self.file("eds", name), [assignment], f"eds {name}", changed)
        wanted = {str(c["name"]): self._cluster(c) for c in config.clusters}
        added = set(wanted) - set(self._clusters)
        gone = set(self._clusters) - set(wanted)
        kept = {n: c for n, c in self._clusters.items() if n in gone}
        first = not self._written.get(self.directory / "lds.json")
        self._write(self.directory / "cds.json", [*wanted.values(), *kept.values()], "cds", changed)
        if added and not first:
            time.sleep(SETTLE)
        for route in config.routes:
            self._write(self.file("rds", route["name"]), [route], f"rds {route['name']}", changed)
        self._listeners |= {str(x["name"]): self._listener(x) for x in config.listeners}
        self._write(self.directory / "lds.json", list(self._listeners.values()), "lds", changed)
        self._clusters = wanted | kept
        if gone:
            self._linger_until = self._linger_until or time.monotonic() + LINGER
        self.config = config
        return changed

    @property
    def closing(self) -> bool:
        """Whether a listener is open that the configuration no longer has."""
        return self._listeners.keys() != {x["name"] for x in self.config.listeners}

    def close(self) -> None:
        """Stop listening where another proxy listens by now."""
        self._listeners = {str(x["name"]): self._listener(x) for x in self.config.listeners}
        self._write(self.directory / "lds.json", list(self._listeners.values()), "lds", [])

    def clean(self) -> None:
        """Drop clusters that no route has named for a while; requests in flight on them have ended."""
        if self._linger_until is None or time.monotonic() < self._linger_until:
            return
        self._linger_until = None
        self._clusters = {str(c["name"]): self._cluster(c) for c in self.config.clusters}
        self._write(self.directory / "cds.json", list(self._clusters.values()), "cds", [])
        keep = {self.file("eds", n) for n in self._clusters} | {self.file("rds", r["name"]) for r in self.config.routes}
        keep |= {self.file("sds", s["name"]) for s in self.config.secrets}
        for path in [p for part in ("eds", "rds", "sds") for p in (self.directory / part).iterdir()]:
            if path not in keep:
                path.unlink()
                self._written.pop(path, None)

    def file(self, kind: str, name: str) -> Path:
        return self.directory / kind / f"{quote(name, safe='')}.json"

    def _cluster(self, cluster: Json) -> Json:
        eds = {"service_name": cluster["name"], "eds_config": source(self.file("eds", cluster["name"]))}
        return cluster | {"eds_cluster_config": eds}

    def _listener(self, listener: Json) -> Json:
        out: Json = json.loads(json.dumps(listener))
        for chain in out["filter_chains"]:
            rds = chain["filters"][0]["typed_config"].get("rds")
            if rds:
                rds["config_source"] = source(self.file("rds", rds["route_config_name"]))
            for secret in _sds(chain):
                secret["sds_config"] = source(self.file("sds", secret["name"]))
        return out

    def _write(self, path: Path, resources: list[Any], what: str, changed: list[str]) -> None:
        body = json.dumps(resources, sort_keys=True)
        version = hashlib.sha256(body.encode()).hexdigest()[:16]
        if self._written.get(path) == version:
            return
        write_atomic(path, json.dumps({"version_info": version, "resources": resources}))
        self._written[path] = version
        changed.append(what)


def _sds(chain: Json) -> list[Json]:
    context = chain.get("transport_socket", {}).get("typed_config", {}).get("common_tls_context", {})
    return list(context.get("tls_certificate_sds_secret_configs", []))


def write_atomic(path: Path, text: str) -> None:
    """Envoy reloads on the move, so it never reads half a file; private, because secrets hold TLS keys."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    os.replace(temporary, path)


# As in the bootstrap of Istio's proxies: Envoy on its own takes no list of more than some ten users.
RUNTIME = {"layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}}]}


def static_bootstrap(config: ProxyConfig) -> Json:
    """The same configuration without files, for `envoy --mode validate`."""
    routes = {r["name"]: _bare(r) for r in config.routes}
    listeners: list[Json] = json.loads(json.dumps(config.listeners))
    for listener in listeners:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            if "rds" in manager:
                manager["route_config"] = routes[manager.pop("rds")["route_config_name"]]
    clusters = []
    for cluster in config.clusters:
        static = {"type": "STATIC", "load_assignment": _bare(config.endpoints[cluster["name"]])}
        clusters.append(_bare(cluster, "eds_cluster_config") | static)
    secrets = [_bare(s) for s in config.secrets]
    listed = {"listeners": [_bare(x) for x in listeners], "clusters": clusters, "secrets": secrets}
    return {"static_resources": listed, "layered_runtime": RUNTIME}


def _bare(resource: Json, *without: str) -> Json:
    return {k: v for k, v in resource.items() if k not in ("@type", *without)}
