"""The lab's node: `python -m lab.node` stands in for kubelet, scheduler, cloud load balancers and cluster DNS.

It watches and never polls. The cluster drives the processes: a pod that appears is bound, given an address on loopback
and started; one that is deleted is drained and stopped. EndpointSlices are the controller manager's work.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import httpx

from lab import namespace
from lab.addresses import (
    INGRESS,
    HostsFile,
    Loopback,
    Pool,
    balancer_address,
    balancer_name,
    public_names,
    service_names,
    wanted_balancer_address,
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
        self._pod_addresses = Pool()
        self._hosts = HostsFile()
        self._pods: dict[str, Pod] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._services_changed = asyncio.Event()
        self._services = Informer(api, "/api/v1/services", self._note)
        self._routes = Informer(api, "/apis/networking.istio.io/v1/virtualservices", self._note)
        self._watched = Informer(api, "/api/v1/pods", self._pod_changed)
        self._given: set[str] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in (self._services, self._routes, self._watched):
                group.create_task(informer.run())
            group.create_task(self._serve_services())

    def _note(self, kind: str, item: Json) -> None:
        self._services_changed.set()

    def _pod_changed(self, kind: str, item: Json) -> None:
        uid = item["metadata"]["uid"]
        known = self._pods.get(uid)
        if kind == "DELETED":
            if known is not None:
                known.vanish()
        elif known is not None:
            known.update(item)
        else:
            self._pods[uid] = pod = Pod(self._api, self._pod_addresses, self._loopback, item)
            task = asyncio.create_task(self._follow(uid, pod))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _follow(self, uid: str, pod: Pod) -> None:
        try:
            await pod.run()
        except Exception as error:  # noqa: BLE001 - one pod's trouble must not end the node
            print(f"node: pod {'/'.join(key(pod.object))}: {error!r}", flush=True)
        finally:
            self._pods.pop(uid, None)

    async def _serve_services(self) -> None:
        """Addresses for services, and the hosts file; again after a failure."""
        await asyncio.gather(self._services.synced.wait(), self._routes.synced.wait())
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

    async def _addresses(self) -> None:
        wanted: set[str] = set()
        for named, service in list(self._services.items.items()):
            if service["spec"].get("clusterIP", "None") == "None":
                continue
            wanted.add(service["spec"]["clusterIP"])
            if service["spec"].get("type") == "LoadBalancer":
                address = wanted_balancer_address(service)
                wanted.add(address)
                await self._loopback.add(address)
                if balancer_address(service) != address:
                    path = f"/api/v1/namespaces/{named[0]}/services/{named[1]}/status"
                    given = {"ip": address, "hostname": balancer_name(service)}
                    await self._api.patch(path, {"status": {"loadBalancer": {"ingress": [given]}}})
        for address in wanted - self._given:
            await self._loopback.add(address)
        for address in self._given - wanted:
            await self._loopback.remove(address)
        self._given = wanted

    def _write_hosts(self) -> None:
        names = service_names(self._services.items.values())
        ingress = self._services.items.get(INGRESS)
        entry = balancer_address(ingress) if ingress else None
        if ingress is not None and entry is not None:
            names[balancer_name(ingress)] = entry
            public = public_names(self._routes.items.values())
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
