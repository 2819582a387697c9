"""Replay recorded probes through a real Envoy that the translation configures; runs alone in a private
network namespace.

`python -m tests.golden_routes.replay WORKDIR` reads WORKDIR/cases.json and writes WORKDIR/results.json.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lab.mesh.model import ProxyConfig
from lab.mesh.translate import gateway_config, waypoint_config
from lab.mesh.xds import Publisher
from lab.proxy import admin, bootstrap, start
from tests.golden_routes.oracle import default_host
from tests.golden_routes.world import (
    GATEWAY_ADDRESS,
    GATEWAY_LABELS,
    GATEWAY_NAMESPACE,
    POD_PORT,
    PODS,
    SERVICE_ADDRESS,
    pod_address,
    recorded_world,
    waypoint_gateway,
)

Json = dict[str, Any]
PROXY = "127.0.0.1"
# Not pipelined: Envoy cuts off a connection that has several local answers waiting.
CONNECTIONS = 32
WAYPOINT_REQUESTS = 200


def loopback_up() -> None:
    """What `ip link set lo up` does, for machines without iproute2."""
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING


class Pod(asyncio.Protocol):
    """A tiny HTTP server that says which version it is and which x-track* headers it saw; /count tells its total."""

    def __init__(self, version: str, seen: Counter[str]) -> None:
        self.version, self.seen, self.buffer = version, seen, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            self.answer(head.decode("latin-1"))

    def answer(self, head: str) -> None:
        self.seen[self.version] += " /count " not in head
        tracked = dict(x.split(": ", 1) for x in head.split("\r\n")[1:] if x.lower().startswith("x-track"))
        body = json.dumps({"version": self.version, "seen": tracked, "total": self.seen[self.version]}).encode()
        top = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(top.encode() + body)


def run_pods() -> None:
    """In a child process, so that clients and pods share no interpreter."""

    async def serve() -> None:
        loop, seen = asyncio.get_running_loop(), Counter[str]()
        for name, version in PODS.items():
            await loop.create_server(lambda v=version: Pod(v, seen), pod_address(name), POD_PORT)  # type: ignore[misc]
        await asyncio.Event().wait()

    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 9)
        asyncio.run(serve())


class Client:
    """Keep-alive connections that ask at the same time; one process can ask thousands of times a second."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: list[Any] = []

    def open(self) -> None:
        self.close()
        for _ in range(CONNECTIONS):
            sock = socket.create_connection((self.address, 80), timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.files.append((sock, sock.makefile("rb")))

    def close(self) -> None:
        for sock, file in self.files:
            file.close()
            sock.close()
        self.files = []

    def ask(self, probe: Json, host: str, requests: int) -> Json:
        headers = {"host": host, **probe["headers"]}
        lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        request = f"{probe['method']} {probe['path']} HTTP/1.1\r\n{lines}\r\n".encode()
        served: Counter[str] = Counter()
        first: Json = {}
        left = requests
        while left:
            asking = self.files[:left]
            for sock, _ in asking:
                sock.sendall(request)
            for _, file in asking:
                status, answer_headers, body = read_answer(file)
                answer = json.loads(body) if status == 200 and body.startswith(b"{") else {}
                version = answer.get("version")
                served[version or str(status)] += 1
                first = first or {"response": answer_headers, "seen": answer.get("seen") or {}, "version": version}
            left -= len(asking)
        return {"served_by": served, **first}


def read_answer(file: Any) -> tuple[int, Json, bytes]:
    status = int(file.readline().split()[1])
    headers: Json = {}
    while (line := file.readline().strip()) != b"":
        key, _, value = line.decode("latin-1").partition(": ")
        headers[key] = value
    return status, headers, file.read(int(headers["content-length"]))


def both_doors(manifests: list[Json]) -> ProxyConfig:
    """Gateway and waypoint in one Envoy: they listen on different addresses and name their clusters differently."""
    config, problems = gateway_config(recorded_world(manifests), GATEWAY_NAMESPACE, GATEWAY_LABELS, "access.jsonl")
    if problems:
        raise SystemExit(f"not translated: {problems}")
    world = recorded_world([*manifests, waypoint_gateway()])
    service = world.services["web.shop.svc.cluster.local"]
    other = waypoint_config(world, waypoint_gateway(), [service], "access.jsonl")
    known = {c["name"] for c in config.clusters}
    config.clusters += [c for c in other.clusters if c["name"] not in known]
    config.endpoints |= other.endpoints
    config.listeners += other.listeners
    config.routes += other.routes
    return config


def wait_until_applied(publisher: Publisher) -> float:
    """Seconds until Envoy reports the version of every file that it should hold."""
    began = time.monotonic()
    files = [publisher.directory / "lds.json", publisher.directory / "cds.json"]
    files += [publisher.file("rds", str(r["name"])) for r in publisher.config.routes]
    versions = [json.loads(f.read_text())["version_info"] for f in files]
    while time.monotonic() < began + 10:
        try:
            dump = admin(PROXY, "/config_dump")
        except OSError:
            dump = ""
        if all(v in dump for v in versions):
            return time.monotonic() - began
        time.sleep(0.005)
    raise SystemExit("Envoy did not take the configuration within 10 s; see envoy.log")


def main(work: Path) -> None:
    loopback_up()
    run_pods()
    cases: dict[str, Json] = json.loads((work / "cases.json").read_text())
    publisher = Publisher(work / "xds")
    envoy = None
    results: dict[str, Json] = {}
    gateway, waypoint = Client(GATEWAY_ADDRESS), Client(SERVICE_ADDRESS)
    began, asked = time.monotonic(), 0
    for name, case in cases.items():
        publisher.publish(both_doors(case["manifests"]))
        if envoy is None:
            (work / "bootstrap.json").write_text(json.dumps(bootstrap("golden", publisher.directory, PROXY)))
            envoy = start(work / "bootstrap.json", work, "--log-path", str(work / "envoy.log"))
        applied = wait_until_applied(publisher)
        host = default_host(case["manifests"])
        gateway.open()
        waypoint.open()
        before = pod_total("canary")
        at_gateway = {p["probe"]: gateway.ask(p, host, p["requests"]) for p in case["probes"]}
        time.sleep(0.05)
        reached = pod_total("canary") - before
        mesh_host = "web.shop.svc.cluster.local"
        at_waypoint = {
            p["probe"]: waypoint.ask(p, mesh_host, min(WAYPOINT_REQUESTS, p["requests"])) for p in case["probes"]
        }
        asked += sum(p["requests"] + min(WAYPOINT_REQUESTS, p["requests"]) for p in case["probes"])
        results[name] = {"gateway": at_gateway, "waypoint": at_waypoint, "applied": applied, "canary_reached": reached}
    seconds = time.monotonic() - began
    if envoy is not None:
        envoy.kill()
    (work / "results.json").write_text(json.dumps({"cases": results, "seconds": seconds, "requests": asked}))


def pod_total(version: str) -> int:
    name = next(n for n, v in PODS.items() if v == version)
    with socket.create_connection((pod_address(name), POD_PORT), timeout=5) as sock:
        sock.sendall(b"GET /count HTTP/1.1\r\n\r\n")
        with sock.makefile("rb") as file:
            return int(json.loads(read_answer(file)[2])["total"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
