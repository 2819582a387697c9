"""`python -m lab.istiod`: the istiod stand-in; watches the cluster and keeps every Envoy's configuration files current.

Also does what istiod does besides routing in this project: deploys waypoints, reports conditions.
What it cannot serve is printed, and listed in `.lab/xds/errors.json`; the last good form of a resource stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from lab.kube import MERGE, Api, ApiError, Informer
from lab.mesh import waypoint
from lab.mesh.authz import not_enforced
from lab.mesh.model import (
    WAYPOINT_CLASS,
    Json,
    Problem,
    ProxyConfig,
    Unsupported,
    World,
    key_of,
    kind,
    labels_of,
    name_of,
    namespace_of,
    service_host,
    title,
)
from lab.mesh.translate import accept, gateway_config, is_proxy_pod, node_config, waypoint_config
from lab.mesh.xds import OVERLAP, Publisher, write_atomic
from lab.paths import LAB
from lab.proxy import ACCESS_LOG, NODE_PROXY, admin, proxy_id, role_of

DEBOUNCE = 0.02
RETRY = 1.0
PROXY_VERSION = os.environ.get("IMAGE_TAG") or "1.30.3"
NETWORKING, SECURITY = "/apis/networking.istio.io/v1", "/apis/security.istio.io/v1"
GATEWAY_API = "/apis/gateway.networking.k8s.io/v1"
WATCHED = [
    "/api/v1/namespaces", "/api/v1/services", "/api/v1/pods", "/api/v1/secrets", "/api/v1/configmaps",
    "/apis/discovery.k8s.io/v1/endpointslices", "/apis/apps/v1/deployments",
    f"{NETWORKING}/gateways", f"{NETWORKING}/virtualservices", f"{NETWORKING}/destinationrules",
    f"{SECURITY}/authorizationpolicies", f"{GATEWAY_API}/gateways",
]  # fmt: skip
# Watched only to say that they have no effect here. Of these every mesh has some, and the product declares them:
NOT_ENFORCED = {
    f"{SECURITY}/peerauthentications": "pods have no mesh identity, and accept plain connections from everywhere",
    "/apis/telemetry.istio.io/v1/telemetries": "proxies write the lab's own access log",
}
NOT_SERVED = [
    f"{NETWORKING}/serviceentries", f"{NETWORKING}/sidecars", f"{NETWORKING}/workloadentries",
    "/apis/networking.istio.io/v1alpha3/envoyfilters", f"{SECURITY}/requestauthentications",
    "/apis/extensions.istio.io/v1alpha1/wasmplugins", f"{GATEWAY_API}/httproutes",
]  # fmt: skip


def log(text: str) -> None:
    print(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} istiod stand-in: {text}", flush=True)


class Istiod:
    def __init__(self, api: Api) -> None:
        self.api = api
        self.dirty = asyncio.Event()
        paths = [*WATCHED, *NOT_ENFORCED, *NOT_SERVED]
        self.informers = {p: Informer(api, p, lambda *_: self.dirty.set()) for p in paths}
        self.publishers: dict[str, Publisher] = {}
        self.state = LAB / "xds"
        # What is in force outlives a restart of this process, so that a bad resource then does not take its route down.
        self.saved = self.state / "accepted.json"
        self.good: dict[tuple[str, str, str], Json] = {}
        self.found: set[Problem] = set()  # by translation
        self.problems: set[Problem] = set()  # as last written
        self.rejections: dict[str, int] = {}
        self.rejected: dict[str, list[Problem]] = {}
        self.applied: dict[str, Json] = {}
        self.ready = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        for informer in self.informers.values():
            self._spawn(informer.run())
        self._spawn(self._serve_ready())
        for informer in self.informers.values():
            await informer.synced.wait()
        log(f"watching {len(self.informers)} kinds")
        await self._lead()
        if self.saved.exists():
            self.good = {key_of(o): o for o in json.loads(self.saved.read_text())}
        self.dirty.set()
        while True:
            for publisher in self.publishers.values():
                publisher.clean()
            try:
                async with asyncio.timeout(RETRY):  # wait_for of Python 3.11 may lose the cancellation that ends us
                    await self.dirty.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(DEBOUNCE)
            self.dirty.clear()
            world = self.publish()
            self.ready = True
            try:
                await self.report(world)
            except (ApiError, OSError) as error:
                log(f"writing to the API server failed, trying again: {error}")
                self._spawn(self._later(RETRY))

    async def _lead(self) -> None:
        """During a roll-out two of us run: only one writes, the other stands by, ready, until that one has gone."""
        self.lock = (self.state / "leader.lock").open("w")
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                self.ready = True
                await asyncio.sleep(DEBOUNCE)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log(f"stopped by {task.exception()!r}")  # the node restarts the pod, as it would istiod's
            os._exit(1)

    async def _later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.dirty.set()

    async def _serve_ready(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            status = "200 OK" if self.ready else "503 Service Unavailable"
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, os.environ.get("POD_IP", "127.0.0.1"), 8080)
        await server.serve_forever()

    # -- configuration of the proxies

    def publish(self) -> World:
        """Translate the present state and write what changed."""
        began = time.monotonic()
        live = [o for p in WATCHED for o in self.informers[p].items.values()]
        before = dict(self.good)
        objects, problems = accept(live, self.good)
        if before != self.good:
            write_atomic(self.saved, json.dumps(list(self.good.values())))
        world = World(objects)
        problems += self._without_effect(world)
        changed: list[str] = []
        configs = self._configs(world, problems)
        for name, config in configs.items():
            publisher = self.publishers.setdefault(name, Publisher(self.state / name))
            parts = publisher.publish(config)
            changed += [f"{name} {part}" for part in parts]
            if any(not part.startswith("eds ") for part in parts):
                self._spawn(self._check_taken(name))
        closing = [publisher for publisher in self.publishers.values() if publisher.closing]
        if closing:
            time.sleep(OVERLAP)
        for publisher in closing:
            publisher.close()
        for name in set(self.publishers) - set(configs):
            del self.publishers[name]
            shutil.rmtree(self.state / name, ignore_errors=True)
        if changed:
            shown = ", ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
            log(f"wrote {shown} in {(time.monotonic() - began) * 1000:.0f} ms")
        self.found = set(problems)
        self._note()
        return world

    def _configs(self, world: World, problems: list[Problem]) -> dict[str, ProxyConfig]:
        out: dict[str, ProxyConfig] = {}
        groups: dict[tuple[str, str], dict[str, str]] = {}
        for pod in world.all("Pod"):
            labels = labels_of(pod)
            if is_proxy_pod(pod) and role_of(labels) == "gateway":
                key = (namespace_of(pod), proxy_id(namespace_of(pod), labels))
                # What all pods of the gateway have in common; pod-template-hash differs during a roll-out.
                groups[key] = dict(groups.get(key, labels).items() & labels.items())
        for (namespace, name), labels in sorted(groups.items()):
            out[name], found = gateway_config(world, namespace, labels, ACCESS_LOG)
            problems += found
        handed_over: set[str] = set()
        for gateway in world.all("KubernetesGateway"):
            if world.waypoint((namespace_of(gateway), name_of(gateway))) is None:
                continue
            bound = waypoint.bound_services(world, gateway)
            out[f"{namespace_of(gateway)}.{name_of(gateway)}"] = waypoint_config(world, gateway, bound, ACCESS_LOG)
            # Plain TCP serves on until the waypoint does; once bound, a waypoint that breaks is not papered over.
            handed_over |= {service_host(s) for s in bound if waypoint.attachable(world, gateway)}
        out[NODE_PROXY] = node_config(world, handed_over)
        return out

    def _without_effect(self, world: World) -> list[Problem]:
        def objects(paths: list[str]) -> list[Json]:
            return [o for p in paths for o in self.informers[p].items.values()]

        message = "has no effect: the routing stand-in does not serve this kind"
        out = [Problem(title(o), "spec", f"{o.get('kind')} {message}") for o in objects(NOT_SERVED)]
        for path, why in NOT_ENFORCED.items():
            message = f"accepted, not enforced here: {why}"
            out += [Problem(title(o), "spec", message, known=True) for o in objects([path])]
        for policy in world.all("AuthorizationPolicy"):
            if message := not_enforced(world, policy, is_proxy_pod):
                out.append(Problem(title(policy), "spec", message, known=True))
        for gateway in world.all("KubernetesGateway"):
            name = gateway["spec"].get("gatewayClassName")
            if name != WAYPOINT_CLASS:
                message = f"{name!r} is not served, only {WAYPOINT_CLASS}"
                out.append(Problem(title(gateway), "spec.gatewayClassName", message))
                continue
            try:
                waypoint.objects(world, gateway, PROXY_VERSION)
            except Unsupported as error:
                out.append(Problem(title(gateway), error.path, error.message))
        return out

    async def _check_taken(self, name: str) -> None:
        """Ask the Envoys of a proxy whether they refused what was written; their log says why."""
        await asyncio.sleep(1)
        refused: list[Problem] = []
        for pod in list(self.informers["/api/v1/pods"].items.values()):
            address = (pod.get("status") or {}).get("podIP")
            if not address or not is_proxy_pod(pod) or proxy_id(namespace_of(pod), labels_of(pod)) != name:
                continue
            try:
                stats = await asyncio.to_thread(admin, address, "/stats?filter=update_rejected")
            except OSError:
                continue  # not started yet, or already stopping: it reads the files when it starts
            count = sum(int(line.rsplit(": ", 1)[1]) for line in stats.splitlines() if ": " in line)
            if count > self.rejections.get(title(pod), 0):
                message = "Envoy refused its new configuration and keeps the old; the pod's log says why"
                refused.append(Problem(title(pod), "envoy", message))
            self.rejections[title(pod)] = count
        self.rejected[name] = refused
        self._note()

    def _note(self) -> None:
        problems = self.found | {p for refused in self.rejected.values() for p in refused}
        for problem in sorted(problems - self.problems):
            log(f"{'note' if problem.known else 'ERROR'} {problem.resource}: {problem.field}: {problem.message}")
        for problem in sorted(self.problems - problems):
            log(f"resolved {problem.resource}: {problem.field}")
        self.problems = problems
        write_atomic(self.state / "errors.json", json.dumps([asdict(p) for p in sorted(problems)], indent=1))

    # -- what istiod writes to the API server

    async def report(self, world: World) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for gateway in world.all("KubernetesGateway"):
            served = gateway["spec"].get("gatewayClassName") == WAYPOINT_CLASS
            if not served or gateway["metadata"].get("deletionTimestamp"):
                continue
            with contextlib.suppress(Unsupported):  # listed as a problem; the waypoint stays as it is
                for path, manifest in waypoint.objects(world, gateway, PROXY_VERSION):
                    await self._apply(world, path, manifest)
            status = waypoint.gateway_status(world, gateway, now)
            path = f"{GATEWAY_API}/namespaces/{namespace_of(gateway)}/gateways/{name_of(gateway)}/status"
            await self._write_status(path, gateway, status)
        for service in world.services.values():
            old = (service.get("status") or {}).get("conditions") or []
            wanted = waypoint.bound_condition(world, service, now)
            kept = [c for c in old if c.get("type") != waypoint.BOUND]
            if wanted is not None or len(kept) != len(old):
                path = f"/api/v1/namespaces/{namespace_of(service)}/services/{name_of(service)}/status"
                await self._write_status(path, service, {"conditions": [*kept, *([wanted] if wanted else [])]})

    async def _apply(self, world: World, path: str, manifest: Json) -> None:
        """Apply when our wish changed or somebody deleted the object; other edits are left alone, as istiod does."""
        target = f"{path}/{name_of(manifest)}"
        missing = kind(manifest) in ("Deployment", "Service") and world.find(*key_of(manifest)) is None
        if self.applied.get(target) != manifest or missing:
            await self.api.apply(target, manifest, manager="istio.io/mesh-controller")
            self.applied[target] = manifest

    async def _write_status(self, path: str, obj: Json, status: Json) -> None:
        old = obj.get("status") or {}
        if any(old.get(k) != v for k, v in status.items()):
            try:
                await self.api.patch(path, {"status": status}, MERGE)
            except ApiError as error:
                if error.code != 404:  # deleted in the meantime
                    raise


async def serve() -> None:
    async with Api() as api:
        main_task = asyncio.current_task()
        if main_task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main_task.cancel)
        try:
            await Istiod(api).run()
        except asyncio.CancelledError:
            log("stopped; the proxies keep what they have")


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
