"""The lab's node: `python -m lab.node` stands in for kubelet, scheduler, cloud load balancers and cluster DNS.

It watches and never polls. The cluster drives the processes: a pod that appears is bound, given an address on loopback
and started; one that is deleted is drained and stopped. EndpointSlices are the controller manager's work.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import httpx

from lab import monitoring, namespace
from lab.addresses import (
    BALANCERS,
    INGRESS,
    PODS,
    HostsFile,
    Loopback,
    Pool,
    balancer_address,
    public_names,
    service_names,
)
from lab.control_plane import NODE
from lab.kube import Api, ApiError, Informer, Json, key
from lab.pods import Pod

_RETRY_SECONDS = 0.5


class Node:
    """Watches pods, services and the mesh's public host names."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._loopback = Loopback()
        self._pod_addresses = Pool(PODS, skip=257)  # 10.244.0.x is the node's own
        self._balancers = Pool(BALANCERS, skip=1)
        self._hosts = HostsFile()
        self._pods: dict[str, Pod] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._services_changed = asyncio.Event()
        self._pods_changed = asyncio.Event()
        mesh = "/apis/networking.istio.io/v1"
        note = self._note
        self._services = Informer(api, "/api/v1/services", note)
        self._gateways = Informer(api, f"{mesh}/gateways", note)
        self._routes = Informer(api, f"{mesh}/virtualservices", note)
        self._watched = Informer(api, "/api/v1/pods", self._pod_changed)
        self._targets: list[Json] = []
        self._given: dict[tuple[str, str], list[str]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in (self._services, self._gateways, self._routes, self._watched):
                group.create_task(informer.run())
            group.create_task(self._serve_services())
            group.create_task(self._tell_prometheus())

    def _note(self, kind: str, item: Json) -> None:
        self._services_changed.set()

    def _pod_changed(self, kind: str, item: Json) -> None:
        self._pods_changed.set()
        uid = item["metadata"]["uid"]
        known = self._pods.get(uid)
        if kind == "DELETED":
            if known is not None:
                known.vanish()
        elif known is not None:
            known.update(item)
        elif item["spec"].get("nodeName", NODE) == NODE and (item.get("status") or {}).get("phase") not in (
            "Succeeded",
            "Failed",
        ):
            self._pods[uid] = pod = Pod(self._api, self._pod_addresses, self._loopback, item)
            task = asyncio.create_task(self._follow(uid, pod))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _follow(self, uid: str, pod: Pod) -> None:
        try:
            await pod.finished()
        except Exception:  # noqa: BLE001 - told in the log where it happened
            return
        finally:
            self._pods.pop(uid, None)

    async def _serve_services(self) -> None:
        """Addresses for services, and the hosts file; again after a failure."""
        await asyncio.gather(*(informer.synced.wait() for informer in (self._services, self._gateways, self._routes)))
        while True:
            await self._services_changed.wait()
            self._services_changed.clear()
            try:
                await self._addresses()
                self._write_hosts()
            except (ApiError, httpx.HTTPError, OSError) as error:
                print(f"node: addresses of services: {error!r}; trying again", flush=True)
                await asyncio.sleep(_RETRY_SECONDS)
                self._services_changed.set()

    async def _tell_prometheus(self) -> None:
        while True:
            await self._pods_changed.wait()
            self._pods_changed.clear()
            found = monitoring.targets(self._watched.items.values())
            if found != self._targets:
                self._targets = found
                namespace.write_atomic(monitoring.TARGETS, json.dumps(found, indent=1))

    async def _addresses(self) -> None:
        present = dict(self._services.items)
        for gone in [name for name in self._given if name not in present]:
            for address in self._given.pop(gone):
                self._balancers.give_back(address)
                await self._loopback.remove(address)
        for name, service in present.items():
            wanted = [ip for ip in service["spec"].get("clusterIPs") or [] if ip != "None" and ":" not in ip]
            for address in wanted:
                await self._loopback.add(address)
            if service["spec"].get("type") == "LoadBalancer":
                wanted.append(await self._balance(service))
            for address in self._given.get(name, []):
                if address not in wanted:
                    self._balancers.give_back(address)
                    await self._loopback.remove(address)
            self._given[name] = wanted

    async def _balance(self, service: Json) -> str:
        """The service's load balancer address, given and reported if it has none yet."""
        named, known = key(service), balancer_address(service)
        for address in self._given.get(named, []):
            if address.startswith("10.99."):
                known = known or address
        fresh = not any(known in addresses for addresses in self._given.values())
        address = self._balancers.take(known) if fresh or known is None else known
        await self._loopback.add(address)
        if balancer_address(service) != address:
            path = f"/api/v1/namespaces/{named[0]}/services/{named[1]}/status"
            status = {"loadBalancer": {"ingress": [{"ip": address}]}}
            await self._api.patch(path, {"status": status})
        return address

    def _write_hosts(self) -> None:
        names = service_names(self._services.items.values())
        ingress = self._services.items.get(INGRESS)
        entry = balancer_address(ingress) if ingress else None
        if entry is not None:
            public = public_names(self._gateways.items.values(), self._routes.items.values())
            names |= {host: entry for host in public if host not in names}
        self._hosts.write(names)


async def _main() -> int:
    state = namespace.running()
    async with Api() as api:
        while not await api.ready():
            await asyncio.sleep(0.1)
        await api.check_is_lab(state.id)
        print(f"node: {NODE} (a stand-in for kubelet) watches the lab {state.id}", flush=True)
        running = asyncio.create_task(Node(api).run())
        # The end of the lab: pods need no drain, and they die with their node.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
