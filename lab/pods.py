"""One pod on the lab's node: bound, given an address, run, reported, and in the end stopped and removed."""

from __future__ import annotations

import asyncio
import base64
import math
import shutil

import httpx

from lab.addresses import Loopback, Pool
from lab.containers import ConfigError, Container, MountError, expand, now
from lab.control_plane import NODE
from lab.kube import STRATEGIC, Api, ApiError, Json
from lab.namespace import NODE_IP
from lab.paths import LAB
from lab.quantity import quantity

_RETRY_SECONDS = 0.2
_SOURCES = (("configMapRef", "configmaps"), ("secretRef", "secrets"))
_KEYS = (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets"))
_NOT_MOUNTED = {"projected", "downwardAPI", "hostPath"}  # what Istio's own pods have; the lab's processes read no such


class Pod:
    """Everything the node does for one pod, in one task."""

    def __init__(self, api: Api, addresses: Pool, loopback: Loopback, pod: Json) -> None:
        self.object = pod
        self._api = api
        self._pool = addresses
        self._loopback = loopback
        self._meta = pod["metadata"]
        self._path = f"/api/v1/namespaces/{self._meta['namespace']}/pods/{self._meta['name']}"
        self._label = f"{self._meta['namespace']}.{self._meta['name']}"
        self._deleted = asyncio.Event()  # a deletion time is set, or the object is gone
        self._gone = False
        self._dirty = asyncio.Event()
        self._containers: list[Container] = []
        self._since: dict[str, tuple[str, str]] = {}
        self._address = ""

    def update(self, pod: Json) -> None:
        self.object = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._deleted.set()

    def vanish(self) -> None:
        """The object was removed, by force or by another hand."""
        self._gone = True
        self._deleted.set()

    async def run(self) -> None:
        if self._meta.get("deletionTimestamp"):
            self._deleted.set()
        if not self.object["spec"].get("nodeName") and not await self._bind():
            return
        host_network = self.object["spec"].get("hostNetwork", False)
        before: Json = self.object.get("status") or {}
        self._address = NODE_IP if host_network else self._pool.take(before.get("podIP"))
        if not host_network:
            await self._loopback.add(self._address)
        told = {status["name"]: status for status in before.get("containerStatuses") or []}
        self._containers = [
            Container(self.object, spec, self._address, self.environment, self._dirty.set, told.get(spec["name"], {}))
            for spec in self.object["spec"]["containers"]
        ]
        running = [asyncio.create_task(container.run()) for container in self._containers]
        publishing = asyncio.create_task(self._publish())
        self._dirty.set()
        await self._deleted.wait()
        seconds = self.object["metadata"].get("deletionGracePeriodSeconds")
        grace = 0.0 if self._gone else float(30 if seconds is None else seconds)
        await asyncio.gather(*(container.stop(grace) for container in self._containers))
        await asyncio.gather(*running)
        publishing.cancel()
        if not host_network:
            await self._loopback.remove(self._address)
            self._pool.give_back(self._address)
        await self._remove()

    async def _bind(self) -> bool:
        """Bind the pod to the only node; False if it went away meanwhile."""
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": self._meta["name"]}, "target": target}
        while not self._deleted.is_set():
            try:
                await self._api.create(f"{self._path}/binding", binding)
                return True
            except ApiError as error:
                if error.code == 409 and self.object["spec"].get("nodeName") == NODE:
                    return True
                if error.code == 404:
                    return False
                print(f"node: pod {self._label} could not be bound: {error}", flush=True)
            except httpx.HTTPError as error:
                print(f"node: pod {self._label} could not be bound: {error!r}", flush=True)
            await asyncio.sleep(_RETRY_SECONDS)
        return False

    async def _remove(self) -> None:
        shutil.rmtree(LAB / "pods" / self._label, ignore_errors=True)
        while not self._gone:
            try:
                await self._api.delete(self._path, grace=0, uid=self._meta["uid"])
                return
            except (httpx.HTTPError, ApiError) as error:
                print(f"node: pod {self._label} could not be removed: {error!r}", flush=True)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _publish(self) -> None:
        """Report the status whenever it changed; what changes meanwhile goes with the next report."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            change = {"metadata": {"uid": self._meta["uid"]}, "status": self._status()}
            try:
                await self._api.patch(f"{self._path}/status", change, STRATEGIC)
            except ApiError as error:
                if error.code == 404:
                    return
                print(f"node: status of pod {self._label}: {error}", flush=True)
                if error.code >= 500:
                    self._dirty.set()
                await asyncio.sleep(_RETRY_SECONDS)
            except httpx.HTTPError:  # the API server is away; the watch says so in the log
                self._dirty.set()
                await asyncio.sleep(_RETRY_SECONDS)

    def _phase(self) -> str:
        begun = all("waiting" not in c.state or c.last_state or c.restarts for c in self._containers)
        return "Running" if begun else "Pending"

    def _condition(self, kind: str, good: bool, reason: str = "", message: str = "") -> Json:
        status = "True" if good else "False"
        known, since = self._since.get(kind, ("", ""))
        if known != status:
            since = now()
            self._since[kind] = (status, since)
        told = {"type": kind, "status": status, "lastTransitionTime": since}
        # The patch merges conditions: null takes away what an earlier report said.
        return told | {"reason": None if good else reason, "message": None if good else message}

    def _status(self) -> Json:
        unready = [container.name for container in self._containers if not container.ready]
        why = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
        return {
            "phase": self._phase(),
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "hostIP": NODE_IP,
            "hostIPs": [{"ip": NODE_IP}],
            "startTime": self._meta["creationTimestamp"],
            "conditions": [
                self._condition("PodScheduled", True),
                self._condition("Initialized", True),
                self._condition("ContainersReady", not unready, *why),
                self._condition("Ready", not unready, *why),
            ],
            "containerStatuses": [container.status() for container in self._containers],
        }

    async def environment(self, spec: Json) -> dict[str, str]:
        """A container's variables; its volumes are there when this returns. Raises ConfigError."""
        unsupported = [field for field in ("initContainers", "readinessGates") if self.object["spec"].get(field)]
        if self.object["spec"]["restartPolicy"] != "Always":
            unsupported.append(f"restartPolicy {self.object['spec']['restartPolicy']}")
        if unsupported:
            raise ConfigError(f"the lab's node does not support {', '.join(unsupported)} of pods")
        found = await self._mount(spec)
        for source in spec.get("envFrom") or []:
            for kind, plural in _SOURCES:
                data = await self._data(plural, source[kind]) if kind in source else {}
                found |= {source.get("prefix", "") + name: value.decode() for name, value in data.items()}
        for variable in spec.get("env") or []:
            if "valueFrom" in variable:
                value = await self._value_from(variable["valueFrom"], spec)
                found |= {variable["name"]: value} if value is not None else {}
            else:
                found[variable["name"]] = expand(str(variable.get("value") or ""), found)
        return found

    async def _value_from(self, source: Json, spec: Json) -> str | None:
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:  # in pods that a real istiod makes
            kind, _, name = str(source["resourceFieldRef"]["resource"]).partition(".")
            amount = quantity((spec.get("resources") or {}).get(kind, {}).get(name, "1"))
            divisor = quantity(source["resourceFieldRef"].get("divisor") or "1")
            return str(math.ceil((amount or 1) / (divisor or 1)))
        for kind, plural in _KEYS:
            if kind in source:
                data, wanted = await self._data(plural, source[kind]), source[kind]["key"]
                if wanted not in data and not source[kind].get("optional"):
                    where = f"{self._meta['namespace']}/{source[kind]['name']}"
                    raise ConfigError(f"couldn't find key {wanted} in {plural.removesuffix('s')} {where}")
                return data[wanted].decode() if wanted in data else None
        raise ConfigError(f"the lab's node does not support valueFrom {', '.join(source)}")

    def _field(self, path: str) -> str:
        meta = self.object["metadata"]
        for name in ("labels", "annotations"):
            prefix = f"metadata.{name}['"
            if path.startswith(prefix):
                return str((meta.get(name) or {}).get(path.removeprefix(prefix).removesuffix("']"), ""))
        known = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta["namespace"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": NODE,
            "spec.serviceAccountName": self.object["spec"].get("serviceAccountName", "default"),
            "status.podIP": self._address,
            "status.podIPs": self._address,
            "status.hostIP": NODE_IP,
        }
        if path not in known:
            raise ConfigError(f"the lab's node does not support fieldPath {path}; it knows {', '.join(known)}")
        return str(known[path])

    async def _data(self, plural: str, reference: Json) -> dict[str, bytes]:
        """What a ConfigMap or Secret holds; nothing if it is optional and missing."""
        name = reference.get("secretName") or reference["name"]
        try:
            item = await self._api.get(f"/api/v1/namespaces/{self._meta['namespace']}/{plural}/{name}")
        except (ApiError, httpx.HTTPError) as error:
            if not isinstance(error, ApiError) or error.code != 404:
                raise ConfigError(f"{plural} {name} could not be read: {error}") from error
            if reference.get("optional"):
                return {}
            raise ConfigError(f'{plural.removesuffix("s")} "{name}" not found') from error
        text, encoded = item.get("data") or {}, item.get("binaryData") or {}
        if plural == "secrets":
            text, encoded = {}, text
        return {key: value.encode() for key, value in text.items()} | {
            key: base64.b64decode(value) for key, value in encoded.items()
        }

    async def _mount(self, spec: Json) -> dict[str, str]:
        """Volumes of a container as folders; `LAB_ROOT` is where it finds them, if it has any.

        All processes share one file system, so `/etc/app` is `$LAB_ROOT/etc/app`: a program that is to run in the lab
        too reads its files there. Written when the container starts, and not changed afterwards.
        """
        folder = LAB / "pods" / self._label
        root = folder / "root" / spec["name"]
        volumes = {volume["name"]: volume for volume in self.object["spec"].get("volumes") or []}
        mounts = [m for m in spec.get("volumeMounts") or [] if not _NOT_MOUNTED & set(volumes[m["name"]])]
        for mount in sorted(mounts, key=lambda mount: str(mount["mountPath"])):
            source = folder / "volumes" / mount["name"]
            source.mkdir(parents=True, exist_ok=True)
            try:
                for path, content in (await self._files(volumes[mount["name"]])).items():
                    (source / path).parent.mkdir(parents=True, exist_ok=True)
                    (source / path).write_bytes(content)
            except ConfigError as error:
                raise MountError(f'MountVolume.SetUp failed for volume "{mount["name"]}" : {error}') from error
            target = root / mount["mountPath"].strip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.symlink_to(source / mount.get("subPath", ""))
        return {"LAB_ROOT": str(root)} if mounts else {}

    async def _files(self, volume: Json) -> dict[str, bytes]:
        for kind, plural in (("configMap", "configmaps"), ("secret", "secrets")):
            if kind in volume:
                data, items = await self._data(plural, volume[kind]), volume[kind].get("items")
                return {item["path"]: data[item["key"]] for item in items if item["key"] in data} if items else data
        if unsupported := set(volume) - {"name", "emptyDir"}:
            raise ConfigError(f"the lab's node does not support {', '.join(unsupported)}")
        return {}
