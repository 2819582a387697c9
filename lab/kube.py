"""The lab's Kubernetes client: a few verbs and watches straight against the API server, asynchronous.

Paths are the API's own (`/api/v1/pods`), so custom resources need no generated classes, and objects are plain JSON.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from lab.namespace import API_IP, LabError
from lab.paths import LAB

Json = dict[str, Any]
SERVER = f"https://{API_IP}:6443"
LAB_ID = "lab.canary/id"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

_RETRY_SECONDS = 0.2
_ABSENT_SECONDS = 0.5  # how often a kind is looked for whose CRD is not there yet
_WATCH_SECONDS = 300


class ApiError(Exception):
    """The API server refused a request; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """One connection pool to the lab's API server with the administrator's certificate."""

    def __init__(self, server: str = SERVER) -> None:
        pki = LAB / "pki"
        tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = httpx.AsyncClient(base_url=server, verify=tls, timeout=10, limits=limits, trust_env=False)

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def request(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str
    ) -> Json:
        """The answer's JSON; ApiError on anything but 2xx. `body` may be text (YAML for APPLY)."""
        content = None if body is None else body if isinstance(body, str | bytes) else json.dumps(body)
        response = await self._http.request(
            method, path, content=content, params=query, headers={"content-type": kind, "accept": "application/json"}
        )
        if response.is_success:
            answer: Json = response.json() if "json" in response.headers.get("content-type", "") else {}
            return answer
        raise ApiError(response.status_code, _message(response.content))

    async def get(self, path: str) -> Json:
        return await self.request("GET", path)

    async def create(self, path: str, manifest: Mapping[str, Any]) -> Json:
        return await self.request("POST", path, manifest)

    async def patch(self, path: str, change: Mapping[str, Any], kind: str = MERGE) -> Json:
        return await self.request("PATCH", path, change, kind)

    async def apply(self, path: str, manifest: Mapping[str, Any] | str, manager: str = "lab") -> Json:
        """Server-side apply; the manifest may be YAML text, which saves parsing large CRDs."""
        return await self.request("PATCH", path, manifest, APPLY, fieldManager=manager, force="true")

    async def delete(self, path: str, grace: int | None = None, uid: str | None = None) -> None:
        """Delete; that it is already gone is fine."""
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", path, options)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            return (await self._http.get("/readyz", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False

    async def check_is_lab(self, lab_id: str) -> None:
        """Refuse a cluster that this lab did not start."""
        system = await self.get("/api/v1/namespaces/kube-system")
        found = (system["metadata"].get("annotations") or {}).get(LAB_ID)
        if found != lab_id:
            raise LabError(
                f"the cluster at {self._http.base_url} carries {LAB_ID}={found!r} on kube-system,"
                f" this lab is {lab_id!r}: it was not started by this lab and is left alone"
            )

    def stream(self, path: str, version: str) -> Any:
        """An open watch; use with `async with`."""
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        timeout = httpx.Timeout(10, read=_WATCH_SECONDS + 30)
        return self._http.stream("GET", path, params=query, timeout=timeout)


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content).get("message"))
    except (ValueError, AttributeError):
        return content.decode(errors="replace")[:300]


def key(item: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name) of an object."""
    meta = item["metadata"]
    return meta.get("namespace", ""), meta["name"]


Changed = Callable[[str, Json], None]
"""Called with ADDED, MODIFIED or DELETED and the object."""


class Informer:
    """A local copy of all objects of one kind, kept current by a watch; survives restarts of the API server.

    `path` is the list of the kind over all namespaces. A kind whose CRD is missing counts as having no objects.
    `synced` is set after the first complete list.
    """

    def __init__(self, api: Api, path: str, changed: Changed | None = None) -> None:
        self.items: dict[tuple[str, str], Json] = {}
        self.synced = asyncio.Event()
        self._api = api
        self._path = path
        self._changed = changed or (lambda kind, item: None)

    async def run(self) -> None:
        """List, then watch, forever."""
        while True:
            pause = _RETRY_SECONDS
            try:
                version: str | None = await self._list()
                self.synced.set()
                while version is not None:
                    version = await self._watch(version)
            except ApiError as error:
                if error.code == 404:
                    self._replace([])
                    self.synced.set()
                    pause = _ABSENT_SECONDS
                else:
                    print(f"watch of {self._path}: {error}; listing again", flush=True)
            except (httpx.HTTPError, ValueError) as error:
                print(f"watch of {self._path} broke off: {error!r}; listing again", flush=True)
            await asyncio.sleep(pause)

    async def _list(self) -> str:
        answer = await self._api.get(self._path)
        # Items of a list carry neither apiVersion nor kind; watch events do.
        kind, version = str(answer.get("kind", "")).removesuffix("List"), answer.get("apiVersion")
        self._replace([{"apiVersion": version, "kind": kind, **item} for item in answer.get("items") or []])
        return str(answer["metadata"]["resourceVersion"])

    def _replace(self, items: list[Json]) -> None:
        present = {key(item): item for item in items}
        for gone in [known for known in self.items if known not in present]:
            self._changed("DELETED", self.items.pop(gone))
        for name, item in present.items():
            known = self.items.get(name)
            if known is not None and known["metadata"]["uid"] != item["metadata"]["uid"]:
                self._changed("DELETED", self.items.pop(name))  # deleted and made again while nobody watched
                known = None
            if known is None or known["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self.items[name] = item
                self._changed("ADDED" if known is None else "MODIFIED", item)

    async def _watch(self, version: str) -> str | None:
        """Follow until the server ends the watch; the version to go on from, or None to list again."""
        async with self._api.stream(self._path, version) as response:
            if response.status_code != 200:
                raise ApiError(response.status_code, _message(await response.aread()))
            async for line in response.aiter_lines():
                event = json.loads(line)
                kind, item = event["type"], event["object"]
                if kind == "ERROR":
                    return None  # mostly 410: the version is too old
                version = item["metadata"]["resourceVersion"]
                if kind == "BOOKMARK":
                    continue
                if kind == "DELETED":
                    self.items.pop(key(item), None)
                else:
                    self.items[key(item)] = item
                self._changed(kind, item)
        return version
