"""A Kubernetes API client that starts fast: standard library only, one kept connection per thread.

A client library would cost 0.1 to 0.25 s of import on every `pulumi up`; the provider needs a few verbs.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tempfile
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON = dict[str, Any]
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"


class ApiError(Exception):
    """The API server said no; carries its Status."""

    def __init__(self, code: int, status: Mapping[str, Any]) -> None:
        super().__init__(str(status.get("message") or f"HTTP {code}"))
        self.code = code
        self.reason = str(status.get("reason", ""))
        self.details: Mapping[str, Any] = status.get("details") or {}


class NoKind(Exception):
    """The API server does not serve this kind (its CRD is missing)."""

    def __init__(self, api_version: str, kind: str) -> None:
        super().__init__(f'no matches for kind "{kind}" in version "{api_version}"')


class Unreachable(Exception):
    """No answer from the API server, or no way to it."""


@dataclass(frozen=True)
class Access:
    """What a kubeconfig says about reaching the cluster."""

    host: str
    port: int
    namespace: str
    tls: ssl.SSLContext


def _named(config: JSON, kind: str, name: str) -> JSON:
    entries = {entry.get("name"): entry for entry in config.get(f"{kind}s") or []}
    if name not in entries:
        raise Unreachable(f'kubeconfig has no {kind} "{name}" (it has: {", ".join(map(str, entries)) or "none"})')
    return dict(entries[name].get(kind) or {})


def _pem(entry: JSON, key: str, folder: Path) -> str | None:
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"]).decode()
    return (folder / entry[key]).read_text() if entry.get(key) else None


def load_access(source: str, context: str = "") -> Access:
    """Read a kubeconfig: its content, a path, or (empty) $KUBECONFIG or ~/.kube/config."""
    import yaml

    folder, text = Path.cwd(), source
    if "\n" not in source and not source.lstrip().startswith("{"):
        path = Path(source or os.environ.get("KUBECONFIG", "").split(":")[0] or "~/.kube/config").expanduser()
        if not path.is_file():
            raise Unreachable(f"kubeconfig {path} does not exist: set kubernetes:kubeconfig or KUBECONFIG")
        folder, text = path.parent, path.read_text()
    config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(config, dict):
        raise Unreachable("kubeconfig is not a YAML mapping")
    chosen = _named(config, "context", context or str(config.get("current-context", "")))
    target = _named(config, "cluster", str(chosen.get("cluster", "")))
    user = _named(config, "user", str(chosen.get("user", "")))
    url = urllib.parse.urlsplit(str(target.get("server", "")))
    if url.scheme != "https" or not url.hostname:
        raise Unreachable(f"kubeconfig server {target.get('server')!r} is not an https URL")
    tls = ssl.create_default_context(cadata=_pem(target, "certificate-authority", folder))
    certificate, key = (_pem(user, name, folder) for name in ("client-certificate", "client-key"))
    if not certificate or not key:
        raise Unreachable("the kubernetes stand-in logs in with a client certificate only: give the user one")
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pem:  # ssl reads a key from files only
        pem.write(f"{certificate}\n{key}")
        pem.flush()
        tls.load_cert_chain(pem.name)
    return Access(url.hostname, url.port or 443, str(chosen.get("namespace") or "default"), tls)


@dataclass(frozen=True)
class Route:
    """Where a kind lives in the API."""

    api_version: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "") -> str:
        base = f"/{'apis' if '/' in self.api_version else 'api'}/{self.api_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{base}{scope}/{self.plural}" + (f"/{urllib.parse.quote(name)}" if name else "")


class Cluster:
    """The verbs of the API server."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.cancelled = threading.Event()  # ends every wait
        self._local = threading.local()
        self._routes: dict[str, dict[str, Route]] = {}

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> JSON:
        """One request; an idle connection that the server closed meanwhile is opened again once."""
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        kept: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        while True:
            connection = kept or http.client.HTTPSConnection(
                self.access.host, self.access.port, timeout=30, context=self.access.tls
            )
            try:
                connection.request(method, target, payload, headers)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                if kept and not isinstance(error, TimeoutError):
                    kept = None
                    continue
                where = f"https://{self.access.host}:{self.access.port}"
                raise Unreachable(f"configured Kubernetes cluster is unreachable: {where}: {error}") from error
            self._local.connection = connection
            return _answer(response.status, data)

    def route(self, api_version: str, kind: str) -> Route:
        """Discovery of one group version, cached; a miss is asked for again, since a CRD may have come."""
        known = self._routes.get(api_version, {})
        if kind not in known:
            try:
                listing = self.request("GET", f"/{'apis' if '/' in api_version else 'api'}/{api_version}")
            except ApiError as error:
                if error.code == 404:
                    raise NoKind(api_version, kind) from None
                raise
            resources = [item for item in listing.get("resources", []) if "/" not in item["name"]]
            known = {item["kind"]: Route(api_version, item["name"], item["namespaced"]) for item in resources}
            self._routes[api_version] = known
        if kind not in known:
            raise NoKind(api_version, kind)
        return known[kind]

    def path_of(self, obj: Mapping[str, Any], named: bool = True) -> str:
        """The URL path of an object, or of its collection."""
        route = self.route(str(obj["apiVersion"]), str(obj["kind"]))
        meta = obj.get("metadata") or {}
        namespace = str(meta.get("namespace") or self.access.namespace)
        return route.path(namespace, str(meta.get("name", "")) if named else "")

    def get(self, obj: Mapping[str, Any]) -> JSON:
        return self.request("GET", self.path_of(obj))

    def items(self, path: str, labels: Mapping[str, str] | None = None) -> list[JSON]:
        selector = {"labelSelector": ",".join(f"{k}={v}" for k, v in (labels or {}).items())}
        return list(self.request("GET", path, selector).get("items") or [])

    def create(self, obj: JSON, manager: str, dry_run: bool = False) -> JSON:
        return self.request("POST", self.path_of(obj, named=False), _options(manager, dry_run), obj)

    def apply(self, obj: JSON, manager: str, force: bool, dry_run: bool = False) -> JSON:
        query = {**_options(manager, dry_run), "force": "true" if force else "false"}
        return self.request("PATCH", self.path_of(obj), query, obj, APPLY)

    def delete(self, obj: Mapping[str, Any]) -> bool:
        """Whether there was anything to delete."""
        try:
            self.request("DELETE", self.path_of(obj), {"propagationPolicy": "Foreground"})
        except NoKind:
            return False
        except ApiError as error:
            if error.code != 404:
                raise
            return False
        return True


def _options(manager: str, dry_run: bool) -> dict[str, str]:
    return {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}


def _answer(code: int, data: bytes) -> JSON:
    try:
        body = json.loads(data) if data else {}
    except ValueError:
        body = {"message": data.decode(errors="replace")}
    if code >= 400:
        raise ApiError(code, body if isinstance(body, dict) else {})
    return dict(body)
