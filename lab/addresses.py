"""Addresses of the lab on its loopback, and the names of services in its hosts file: what a CNI, a cloud's load
balancers and cluster DNS would do."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from lab.namespace import API_IP, FIXED_HOSTS, HOSTS

PODS = ipaddress.IPv4Network("10.244.0.0/16")
INGRESS = ("istio-ingress", "istio-ingressgateway")
_DOMAIN = "cluster.local"


class Loopback:
    """Adds and removes /32 addresses; one change at a time, in the order asked for."""

    def __init__(self) -> None:
        self._present: set[str] = {API_IP}
        self._lock = asyncio.Lock()

    async def add(self, address: str) -> None:
        async with self._lock:
            if address not in self._present:
                await self._ip("add", address)
                self._present.add(address)

    async def remove(self, address: str) -> None:
        async with self._lock:
            if address in self._present and address != API_IP:
                await self._ip("del", address)
                self._present.discard(address)

    async def _ip(self, verb: str, address: str) -> None:
        child = await asyncio.create_subprocess_exec(
            "ip", "addr", verb, f"{address}/32", "dev", "lo", stderr=asyncio.subprocess.PIPE
        )
        _, error = await child.communicate()
        # A node that was started again finds the addresses of its former life.
        if child.returncode != 0 and b"File exists" not in error:
            print(f"node: ip addr {verb} {address}: {error.decode().strip()}", flush=True)


class Pool:
    """Hands out pod addresses in turn, so that one just given back is not taken at once by another pod."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._next = itertools.cycle(str(PODS[number]) for number in range(257, 4096))  # 10.244.0.x is the node's own

    def take(self, wanted: str | None) -> str:
        """`wanted` if it is free (an address from before a restart of the node), else the next free one."""
        if not wanted or wanted in self._used:
            wanted = next(candidate for candidate in self._next if candidate not in self._used)
        self._used.add(wanted)
        return wanted

    def give_back(self, address: str) -> None:
        self._used.discard(address)


def wanted_balancer_address(service: Mapping[str, Any]) -> str:
    """A load balancer's address belongs to its ClusterIP: 10.96.1.2 has 10.99.1.2 in front."""
    return str(service["spec"]["clusterIP"]).replace("10.96.", "10.99.", 1)


def balancer_name(service: Mapping[str, Any]) -> str:
    """Its name, as a cloud gives it: for an origin of the edge, which takes no address."""
    return f"{service['metadata']['name']}.{service['metadata']['namespace']}.lb.lab.test"


def balancer_address(service: Mapping[str, Any]) -> str | None:
    for entry in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
        return str(entry.get("ip"))
    return None


def service_names(services: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Every Service's cluster names → its ClusterIP."""
    names = {}
    for service in services:
        address = service["spec"].get("clusterIP")
        if address and address != "None":
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            for form in (f"{name}.{namespace}.svc.{_DOMAIN}", f"{name}.{namespace}.svc", f"{name}.{namespace}"):
                names[form] = address
    return names


def public_names(routes: Iterable[Mapping[str, Any]]) -> set[str]:
    """Host names that come in at a gateway; a wildcard is no name that a hosts file could hold."""
    specs = [route["spec"] for route in routes]
    found = {host for spec in specs if set(spec.get("gateways") or []) - {"mesh"} for host in spec.get("hosts") or []}
    return {host for host in found if "*" not in host and "." in host and not host.endswith(f".{_DOMAIN}")}


class HostsFile:
    """The namespace's `/etc/hosts`. Written in place, because it is bind-mounted; new names are added at the end, so
    that a reader in between misses nothing that was there."""

    def __init__(self) -> None:
        self._lines = [*FIXED_HOSTS]

    def write(self, names: Mapping[str, str]) -> None:
        wanted = [f"{address} {name}" for name, address in names.items()]
        kept = [line for line in self._lines[len(FIXED_HOSTS) :] if line in wanted]
        lines = [*FIXED_HOSTS, *kept, *sorted(set(wanted) - set(kept))]
        if lines == self._lines and HOSTS.stat().st_size:
            return
        self._lines = lines
        with HOSTS.open("r+") as file:
            file.write("\n".join(lines) + "\n")
            file.truncate()
