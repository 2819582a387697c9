"""`python -m lab.telemetry`: Envoy's access logs as metrics with Istio's names and labels, for Prometheus to scrape.

Stock Envoy has no `istio.stats` filter, so this stands in for it: gateways report as `source`, waypoints as `waypoint`,
and a request that never got an endpoint has an unknown destination workload, as in ambient mode. The pods that have
metrics of their own it lists for Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.images import SAMPLES, repository_and_tag
from lab.kube import Api, Informer
from lab.monitoring import TARGETS
from lab.namespace import write_atomic
from lab.paths import LAB
from lab.sample_app import METRICS_PORT

Json = dict[str, Any]
# Istio's default histogram buckets in milliseconds.
BUCKETS = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
    3_600_000,
)  # fmt: skip
REPORTERS = {"gateway": "source", "waypoint": "waypoint"}
UNKNOWN = "unknown"
TICK = 0.5
ADDRESS, PORT = "10.244.0.1", 15090
MAX_LOG_BYTES = 8 * 1024 * 1024
LABELS = (
    "reporter", "source_workload", "source_workload_namespace", "source_canonical_service", "destination_workload",
    "destination_workload_namespace", "destination_app", "destination_version", "destination_canonical_service",
    "destination_canonical_revision", "destination_service", "destination_service_name",
    "destination_service_namespace", "request_protocol", "response_code", "grpc_response_status", "response_flags",
    "connection_security_policy",
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What a pod's address says about who answered or asked."""

    name: str = UNKNOWN
    namespace: str = UNKNOWN
    app: str = UNKNOWN
    version: str = UNKNOWN
    canonical_service: str = UNKNOWN
    canonical_revision: str = UNKNOWN


NOBODY = Workload()


def workload_of(pod: Mapping[str, Any]) -> Workload:
    meta = pod["metadata"]
    labels: dict[str, str] = meta.get("labels") or {}
    owner: Json = next((o for o in meta.get("ownerReferences") or [] if o.get("controller")), {})
    name = str(owner.get("name") or meta["name"])
    suffix = labels.get("pod-template-hash")
    if owner.get("kind") == "ReplicaSet" and suffix:
        name = name.removesuffix(f"-{suffix}")
    app = labels.get("app", UNKNOWN)
    service = labels.get("service.istio.io/canonical-name") or labels.get("app.kubernetes.io/name") or labels.get("app")
    revision = labels.get("service.istio.io/canonical-revision") or labels.get("app.kubernetes.io/version")
    version = labels.get("version")
    return Workload(
        name, meta.get("namespace", UNKNOWN), app, version or UNKNOWN, service or name, revision or version or "latest"
    )


@dataclass
class Series:
    count: int = 0
    total_ms: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))


class Metrics:
    """Counters by label values; series are never dropped, as in a proxy, so that rates never go backwards."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, ...], Series] = {}

    def add(self, entry: Json, proxy: Workload, workloads: Mapping[str, Workload]) -> None:
        reporter = REPORTERS.get(str(entry.get("role")))
        if reporter is None or entry.get("method") is None:  # a connection that never became a request
            return
        address = str(entry.get("upstream_host") or "").rpartition(":")[0]
        flags = str(entry.get("response_flags") or "-")
        # Without a connection nobody learnt who the peer is.
        target = NOBODY if "UF" in flags.split(",") else workloads.get(address, NOBODY)
        source = proxy if reporter == "source" else workloads.get(str(entry.get("client")), NOBODY)
        grpc = entry.get("grpc_status")
        host, name, namespace = destination_service(str(entry.get("upstream_cluster") or ""))
        key = (
            reporter, source.name, source.namespace, source.canonical_service, target.name, target.namespace,
            target.app, target.version, target.canonical_service, target.canonical_revision, host, name, namespace,
            "http" if grpc is None else "grpc", str(entry.get("response_code", 0)), "" if grpc is None else str(grpc),
            flags, UNKNOWN,
        )  # fmt: skip
        series = self.series.setdefault(key, Series())
        duration = float(entry.get("duration") or 0)
        series.count += 1
        series.total_ms += duration
        series.buckets[bisect_left(BUCKETS, duration)] += 1

    def text(self) -> str:
        """Prometheus' text format; no value needs escaping: all are names of objects, hosts, codes or flags."""
        totals = ["# TYPE istio_requests_total counter"]
        times = ["# TYPE istio_request_duration_milliseconds histogram"]
        for key, series in sorted(self.series.items()):
            labels = ",".join(f'{n}="{v}"' for n, v in zip(LABELS, key, strict=True))
            totals.append(f"istio_requests_total{{{labels}}} {series.count}")
            running = 0
            for limit, number in zip([*map(str, BUCKETS), "+Inf"], series.buckets, strict=True):
                running += number
                times.append(f'istio_request_duration_milliseconds_bucket{{{labels},le="{limit}"}} {running}')
            times.append(f"istio_request_duration_milliseconds_sum{{{labels}}} {series.total_ms:g}")
            times.append(f"istio_request_duration_milliseconds_count{{{labels}}} {series.count}")
        return "\n".join([*totals, *times, ""])


def destination_service(cluster: str) -> tuple[str, str, str]:
    """`outbound|80|canary|web.shop.svc.cluster.local` -> host, name, namespace; unknown where no cluster was found."""
    parts = cluster.split("|")
    if len(parts) != 4:
        return UNKNOWN, UNKNOWN, UNKNOWN
    host = parts[3]
    labels = host.split(".")
    return host, labels[0], labels[1] if len(labels) > 1 else UNKNOWN


class Tail:
    """Reads whole new lines of one growing file, and empties it when it is large and read to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.rest = b""
        self.inode = 0

    def lines(self) -> list[bytes]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return []
        if status.st_ino != self.inode or status.st_size < self.offset:  # replaced or emptied
            self.inode, self.offset, self.rest = status.st_ino, 0, b""
        if status.st_size == self.offset:
            # Envoy appends, so it goes on at the new end; done at a quiet moment, so that no line is lost.
            if self.offset > MAX_LOG_BYTES:
                os.truncate(self.path, 0)
                self.offset, self.rest = 0, b""
            return []
        with self.path.open("rb") as source:
            source.seek(self.offset)
            data = source.read()
        self.offset += len(data)
        *whole, self.rest = (self.rest + data).split(b"\n")
        return whole


def scrape_target(pod: Mapping[str, Any]) -> Json | None:
    """Prometheus' target for a pod of a sample image, which has metrics of its own."""
    spec, meta = pod["spec"]["containers"][0], pod["metadata"]
    repository = repository_and_tag(str(spec.get("image", "")))[0]
    address = (pod.get("status") or {}).get("podIP")
    if repository not in SAMPLES or not address or meta.get("deletionTimestamp"):
        return None
    ports = spec.get("ports") or [{"containerPort": 3000}]
    port = METRICS_PORT if repository == "sample-grpc" else ports[0]["containerPort"]
    labels = {name: value for name, value in (meta.get("labels") or {}).items() if name in ("app", "version")}
    return {
        "targets": [f"{address}:{port}"],
        "labels": {"namespace": meta["namespace"], "pod": meta["name"], **labels},
    }


class Telemetry:
    def __init__(self, folder: Path, api: Api) -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.tails: dict[Path, Tail] = {}
        self.workloads: dict[str, Workload] = {}
        self.proxies: dict[str, Workload] = {}
        self.targets: list[Json] = []
        self.pods = Informer(api, "/api/v1/pods", self._pod)

    def _pod(self, change: str, pod: Json) -> None:
        # Deleted pods stay known: their last requests are logged after they have gone, and addresses are not
        # soon reused.
        if change == "DELETED":
            return
        workload = workload_of(pod)
        address = (pod.get("status") or {}).get("podIP")
        if address:
            self.workloads[address] = workload
        self.proxies[f"{pod['metadata']['namespace']}.{pod['metadata']['name']}"] = workload

    def read(self) -> None:
        for path in self.folder.glob("*.jsonl"):
            tail = self.tails.setdefault(path, Tail(path))
            proxy = self.proxies.get(path.stem, NOBODY)
            for line in tail.lines():
                try:
                    self.metrics.add(json.loads(line), proxy, self.workloads)
                except ValueError:
                    print(f"telemetry: {path.name}: not an access log line: {line[:120]!r}", flush=True)

    def list_targets(self) -> None:
        targets = [target for pod in self.pods.items.values() if (target := scrape_target(pod))]
        if targets != self.targets:
            write_atomic(TARGETS, json.dumps(targets, indent=1))
            self.targets = targets

    async def follow(self) -> None:
        await self.pods.synced.wait()
        while True:
            self.read()
            self.list_targets()
            await asyncio.sleep(TICK)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection is enough for a scraper and a test."""
        status, body = "404 Not Found", b""
        if (await reader.readline()).startswith(b"GET /metrics"):
            self.read()
            status, body = "200 OK", self.metrics.text().encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


async def serve() -> None:
    folder = LAB / "access"
    folder.mkdir(parents=True, exist_ok=True)
    async with Api() as api:
        telemetry = Telemetry(folder, api)
        server = await asyncio.start_server(telemetry.answer, ADDRESS, PORT)
        print(f"telemetry: {folder} as Istio's metrics on http://{ADDRESS}:{PORT}/metrics", flush=True)
        work = asyncio.gather(telemetry.pods.run(), telemetry.follow(), server.serve_forever())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            print("telemetry: stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(serve())
