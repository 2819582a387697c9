"""`kubernetes:helm.sh/v3:Release` for charts without templating: installs, upgrades, uninstalls, and records as Helm 3.

The record is Helm's own (Secrets `sh.helm.release.v1.NAME.vN`), so `helm list` and the real provider can read it.
"""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.plugins import diff
from lab.plugins.awaits import CHECKS, NotReady, Status, Waiter, condition
from lab.plugins.cluster import ApiError, Cluster, NoKind
from lab.plugins.objects import annotation, meta
from lab.plugins.protos import JSON, UNKNOWN, Secret, has_unknown, reveal
from lab.plugins.resources import Change, Partial, Say

MANAGER = "helm"
DEFAULT_TIMEOUT = 300
ESCAPED = '{{ "{{" }}'
_SUPPORTED = {
    "atomic", "chart", "cleanupOnFail", "compat", "createNamespace", "dependencyUpdate", "description",
    "disableCRDHooks", "disableOpenapiValidation", "disableWebhooks", "forceUpdate", "lint", "maxHistory", "name",
    "namespace", "renderSubchartNotes", "repositoryOpts", "resetValues", "skipAwait", "skipCrds", "takeOwnership",
    "timeout", "values", "version", "waitForJobs", "allowNullValues",
}  # fmt: skip
_ORDER = (
    "Namespace", "ResourceQuota", "LimitRange", "PodDisruptionBudget", "ServiceAccount", "Secret", "ConfigMap",
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet",
    "Pod", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job",
)  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart folder, read."""

    metadata: JSON
    manifest: str


def load_chart(inputs: Mapping[str, Any], contents: bool = True) -> Chart:
    """The chart that a release names; it has to be a folder of plain YAML."""
    import yaml

    name = str(inputs.get("chart", ""))
    repository = (inputs.get("repositoryOpts") or {}).get("repo")
    folder = Path(name)
    if repository or "://" in name or not (folder / "Chart.yaml").is_file():
        where = f"{repository} {name}" if repository else name
        raise ValueError(
            f"the kubernetes stand-in installs charts from a folder, not {where!r}: set canary:istio.chartSource to "
            "the folder that holds the charts (the lab's are in .lab/charts), or use the real provider"
        )
    metadata = yaml.safe_load((folder / "Chart.yaml").read_text())
    wanted = inputs.get("version")
    if wanted and wanted is not UNKNOWN and str(wanted).lstrip("v") != str(metadata["version"]):
        raise ValueError(f"chart {folder} has version {metadata['version']}, not {wanted}")
    manifest = ""
    for path in sorted((folder / "templates").glob("*.yaml")) if contents else []:
        text = path.read_text()
        if "{{" in text.replace(ESCAPED, ""):
            raise ValueError(f"the kubernetes stand-in installs plain YAML only, but {path} has a template expression")
        name = f"{metadata['name']}/templates/{path.name}"
        manifest += f"---\n# Source: {name}\n{text.replace(ESCAPED, '{{')}\n"
    return Chart(metadata, manifest)


def parse(manifest: str) -> list[JSON]:
    """The objects of a manifest in the order in which Helm installs them."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = [item for item in yaml.load_all(manifest, Loader=loader) if item]
    rank = {kind: index for index, kind in enumerate(_ORDER)}
    return sorted(found, key=lambda item: rank.get(item["kind"], len(_ORDER)))


@dataclass(frozen=True)
class Releases:
    """Check, diff, create, read, update and delete of Helm releases."""

    cluster: Cluster
    namespace: str

    def check(self, urn: str, news: JSON, olds: JSON, _seed: bytes) -> tuple[JSON, str]:
        """Inputs with defaults, and why the chart cannot be used (or nothing)."""
        inputs = {key: value for key, value in news.items() if value is not None and key != "resourceNames"}
        if unsupported := [key for key, value in inputs.items() if value and key not in _SUPPORTED]:
            raise ValueError(f"the kubernetes stand-in does not support {', '.join(unsupported)} of a Helm release")
        if not inputs.get("name"):
            inputs["name"] = reveal(olds.get("name")) or f"{urn.rsplit('::', 1)[-1]}-{secrets.token_hex(4)}"
        inputs["namespace"] = inputs.get("namespace") or self.namespace
        if not inputs.get("skipAwait"):
            inputs.setdefault("timeout", DEFAULT_TIMEOUT)
        if has_unknown(inputs.get("chart")) or has_unknown(inputs.get("repositoryOpts")):
            return inputs, ""
        try:
            inputs["version"] = load_chart(reveal(inputs), contents=False).metadata["version"]
        except ValueError as error:
            return inputs, str(error)
        return inputs, ""

    def diff(self, state: JSON, news: JSON, ignore: list[str]) -> Change:
        old = {key: value for key, value in _inputs_of(state).items() if key not in ("resourceNames", "checksum")}
        new = reveal(news)
        found = diff.changes(old, new, ignore)
        return Change(found, diff.replacements(found, old, new, ["name", "namespace"]), delete_first=False)

    def create(self, inputs: JSON, timeout: float, preview: bool, say: Say) -> tuple[str, JSON]:
        if preview:
            return "", _state(inputs, None)
        wanted = reveal(inputs)
        identity = f"{wanted['namespace']}/{wanted['name']}"
        if self._history(wanted):
            raise ValueError(f"cannot re-use a name that is still in use: {identity}")
        chart = load_chart(wanted)
        if wanted.get("createNamespace"):
            self.cluster.apply(_namespace(wanted["namespace"]), MANAGER, force=True)
        record = _record(wanted, chart, revision=1)
        failure = self._roll(wanted, record, [], timeout, say)
        if failure and wanted.get("atomic"):
            self._uninstall(wanted, record, time.monotonic() + DEFAULT_TIMEOUT)
            raise ValueError(f"release {identity} failed, and has been uninstalled due to atomic being set: {failure}")
        if failure:
            message = (
                f'Helm release "{identity}" was created, but failed to initialize completely. '
                f"Use Helm CLI to investigate: {failure}"
            )
            raise Partial(identity, message, _state(inputs, record), failure)
        return identity, _state(inputs, record)

    def update(self, _state_before: JSON, news: JSON, timeout: float, preview: bool, say: Say) -> JSON:
        if preview:
            return _state(news, None)
        wanted = reveal(news)
        identity = f"{wanted['namespace']}/{wanted['name']}"
        history = self._history(wanted)
        if not history:
            raise ValueError(f'"{wanted["name"]}" has no deployed releases: refresh, then update again')
        last = history[-1]
        record = _record(wanted, load_chart(wanted), last["version"] + 1)
        failure = self._roll(wanted, record, history, timeout, say)
        if failure and wanted.get("atomic"):
            back = {**last, "version": record["version"] + 1}
            self._roll(wanted, back, [*history, record], timeout, say)
            raise ValueError(f"release {identity} failed, and has been rolled back due to atomic being set: {failure}")
        if failure:
            text = "failed to initialize completely. Use Helm CLI to investigate"
            message = f'Helm release "{identity}" {text}: {failure}'
            raise Partial(identity, message, _state(news, record), failure)
        return _state(news, record)

    def read(self, _identity: str, state: JSON) -> tuple[JSON, JSON] | None:
        inputs = state.get("__inputs")
        if inputs is None:
            raise ValueError("the kubernetes stand-in does not import Helm releases: use the real provider")
        plain = inputs.value if isinstance(inputs, Secret) else inputs
        history = self._history(reveal(plain))
        return (plain, _state(plain, history[-1])) if history else None

    def delete(self, state: JSON, timeout: float, say: Say) -> None:
        inputs = _inputs_of(state)
        history = self._history(inputs)
        if not history:
            raise ValueError(f"uninstall: Release not loaded: {inputs['name']}: release: not found")
        say("uninstalling")
        seconds = timeout or inputs.get("timeout") or DEFAULT_TIMEOUT
        waits = inputs.get("atomic") or not inputs.get("skipAwait")
        self._uninstall(inputs, history[-1], time.monotonic() + seconds if waits else None)

    # Helm's own work ---------------------------------------------------------------------------------------------

    def _roll(self, wanted: JSON, record: JSON, history: list[JSON], timeout: float, say: Say) -> Exception | None:
        """Bring the cluster to the record's manifest and keep the record; what went wrong is returned, and kept too."""
        deadline = time.monotonic() + (timeout or wanted.get("timeout") or DEFAULT_TIMEOUT)
        manifest = [self._owned(item, wanted) for item in parse(record["manifest"])]
        for item in manifest:
            self._refuse_foreign(item, wanted)
        failure: Exception | None = None
        self._keep(wanted, record, "pending-upgrade" if history else "pending-install")
        try:
            live = [self.cluster.apply(item, MANAGER, force=True) for item in manifest]
            stay = {_key(item) for item in manifest}
            former = parse(history[-1]["manifest"]) if history else []
            self._remove([item for item in (self._owned(i, wanted) for i in former) if _key(item) not in stay], None)
            if not wanted.get("skipAwait"):
                self._wait(live, deadline, say)
        except (ApiError, NoKind, NotReady) as error:
            failure = error
        self._keep(wanted, record, "failed" if failure else "deployed")
        for old in [] if failure else history:
            if old["info"]["status"] == "deployed":
                self._keep(wanted, old, "superseded")
        limit = int(wanted.get("maxHistory") or 0)
        for old in history[: max(0, len(history) + 1 - limit)] if limit else []:
            self.cluster.delete(self._secret(wanted, old))
        return failure

    def _owned(self, item: JSON, wanted: JSON) -> JSON:
        """The object with the release's namespace and marks of ownership."""
        metadata = dict(meta(item))
        if self._namespaced(item):
            metadata.setdefault("namespace", wanted["namespace"])
        metadata["labels"] = {**(metadata.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
        marks = {
            "meta.helm.sh/release-name": wanted["name"],
            "meta.helm.sh/release-namespace": wanted["namespace"],
        }
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **marks}
        return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}

    def _namespaced(self, item: JSON) -> bool:
        try:
            return self.cluster.route(item["apiVersion"], item["kind"]).namespaced
        except NoKind:
            return True  # a kind whose CRD the same chart brings

    def _refuse_foreign(self, item: JSON, wanted: JSON) -> None:
        """Helm takes over an object (say, a kept CRD) only if it carries the marks of this very release."""
        try:
            live = self.cluster.get(item)
        except (ApiError, NoKind) as error:
            if isinstance(error, ApiError) and error.code != 404:
                raise
            return
        owner = [annotation(live, f"meta.helm.sh/release-{part}") for part in ("name", "namespace")]
        if owner != [wanted["name"], wanted["namespace"]] and not wanted.get("takeOwnership"):
            held = "/".join(reversed(owner)).strip("/") or "nobody (no Helm annotations)"
            raise ValueError(
                f"Unable to continue with install: {item['kind']} {meta(item)['name']!r} exists and cannot be imported "
                f"into the release {wanted['namespace']}/{wanted['name']}: it belongs to {held}"
            )

    def _wait(self, live: list[JSON], deadline: float, say: Say) -> None:
        checks = {**CHECKS, "CustomResourceDefinition": _established}
        for item in live:
            if item["kind"] in checks and item["kind"] != "Job":
                name = "/".join(str(meta(item)[key]) for key in ("namespace", "name") if key in meta(item))
                failure = f"resource {item['kind']}/{name} not ready: context deadline exceeded"
                Waiter(self.cluster, say).follow(item, deadline, checks[item["kind"]], failure)

    def _uninstall(self, wanted: JSON, record: JSON, deadline: float | None) -> None:
        items = [self._owned(item, wanted) for item in parse(record["manifest"])]
        self._remove(items, deadline)
        for old in self._history(wanted):
            self.cluster.delete(self._secret(wanted, old))

    def _remove(self, items: list[JSON], deadline: float | None) -> None:
        """Delete in reverse order all but what says `helm.sh/resource-policy: keep`."""
        doomed = [i for i in reversed(items) if annotation(i, "helm.sh/resource-policy") != "keep"]
        going = [item for item in doomed if self.cluster.delete(item)]
        waiter = Waiter(self.cluster, lambda _text: None)
        for item in going if deadline is not None else []:
            try:
                waiter.gone(self.cluster.get(item), {}, max(0.1, (deadline or 0) - time.monotonic()))
            except ApiError as error:
                if error.code != 404:
                    raise

    # The records -------------------------------------------------------------------------------------------------

    def _history(self, wanted: JSON) -> list[JSON]:
        path = f"/api/v1/namespaces/{wanted['namespace']}/secrets"
        found = self.cluster.items(path, {"owner": "helm", "name": wanted["name"]})
        packed = (base64.b64decode(base64.b64decode(item["data"]["release"])) for item in found)
        return sorted((json.loads(gzip.decompress(data)) for data in packed), key=lambda record: int(record["version"]))

    def _secret(self, wanted: JSON, record: JSON) -> JSON:
        name = f"sh.helm.release.v1.{wanted['name']}.v{record['version']}"
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": wanted["namespace"]},
        }

    def _keep(self, wanted: JSON, record: JSON, status: str) -> None:
        record["info"]["status"] = status
        secret = self._secret(wanted, record)
        labels = {
            "name": wanted["name"],
            "owner": "helm",
            "status": status,
            "version": str(record["version"]),
        }
        secret["metadata"]["labels"] = labels
        packed = base64.b64encode(gzip.compress(json.dumps(record).encode(), mtime=0))
        secret |= {"type": "helm.sh/release.v1", "data": {"release": base64.b64encode(packed).decode()}}
        self.cluster.apply(secret, MANAGER, force=True)


def _record(wanted: JSON, chart: Chart, revision: int) -> JSON:
    now = datetime.now(UTC).isoformat()
    return {
        "name": wanted["name"],
        "namespace": wanted["namespace"],
        "version": revision,
        "info": {"first_deployed": now, "last_deployed": now, "deleted": "", "status": ""},
        "chart": {"metadata": chart.metadata, "templates": [], "values": {}},
        "config": wanted.get("values") or {},
        "manifest": chart.manifest,
    }


def _state(inputs: JSON, record: JSON | None) -> JSON:
    """Recorded state of a release; its inputs are one secret, as in pulumi-kubernetes, since values may hold some."""
    state: JSON = dict(inputs)
    if record is None:
        return {**state, "status": UNKNOWN, "resourceNames": UNKNOWN, "__inputs": Secret(reveal(inputs))}
    metadata = record["chart"]["metadata"]
    names: dict[str, list[str]] = {}
    for item in parse(record["manifest"]):
        group = str(item["apiVersion"]).rpartition("/")[0]
        key = f"{item['kind']}.{group}/{item['apiVersion']}" if group else f"{item['kind']}/{item['apiVersion']}"
        names.setdefault(key, []).append(str(meta(item)["name"]))
    state["resourceNames"] = names
    state["status"] = {
        "appVersion": str(metadata.get("appVersion", "")),
        "chart": metadata["name"],
        "name": record["name"],
        "namespace": record["namespace"],
        "revision": record["version"],
        "status": record["info"]["status"],
        "version": metadata["version"],
    }
    return {**state, "__inputs": Secret(reveal(inputs))}


def _inputs_of(state: JSON) -> JSON:
    inputs: JSON = reveal(state.get("__inputs") or {})
    return inputs


def _established(crd: Mapping[str, Any]) -> Status:
    return Status(condition(crd, "Established").get("status") == "True", ("the CRD is not established yet",))


def _key(item: JSON) -> tuple[str, ...]:
    group = str(item["apiVersion"]).rpartition("/")[0]
    return group, str(item["kind"]), str(meta(item).get("namespace", "")), str(meta(item)["name"])


def _namespace(name: str) -> JSON:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
