"""`kubernetes:helm.sh/v3:Release` for charts with next to no templating: installs, upgrades, uninstalls.

The state file says which objects a release holds; they carry Helm's marks of ownership. Helm's own records are not
kept, so there is no history to limit (`maxHistory`).
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.plugins import diff
from lab.plugins.awaits import CHECKS, NotReady, Status, Waiter, condition
from lab.plugins.cluster import ApiError, Cluster, NoKind
from lab.plugins.objects import annotation, meta, refuse_unsupported
from lab.plugins.protos import JSON, UNKNOWN, Secret, reveal
from lab.plugins.resources import Change
from lab.plugins.serving import Partial

MANAGER = "helm"
DEFAULT_TIMEOUT = 300
ESCAPED = '{{ "{{" }}'
# All of Helm's language that this stand-in knows: a value, a value as YAML, and a file that a value switches on.
_VALUE = re.compile(r"\{\{ \.Values\.([\w.]+) \}\}")
_BLOCK = re.compile(r"\{\{- toYaml \.Values\.([\w.]+) \| nindent (\d+) \}\}")
_SWITCHED = re.compile(r"\{\{- if \.Values\.([\w.]+) \}\}\n(.*)\{\{- end \}\}\n", re.DOTALL)
_SUPPORTED = {"chart", "compat", "maxHistory", "name", "namespace", "repositoryOpts", "timeout", "values", "version"}
_ORDER = (
    "Namespace", "ServiceAccount", "ConfigMap", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding",
    "Role", "RoleBinding", "Service", "DaemonSet", "Deployment",
)  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart folder, read."""

    metadata: JSON
    manifest: str


def load_chart(inputs: Mapping[str, Any]) -> Chart:
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
    if wanted and str(wanted).lstrip("v") != str(metadata["version"]):
        raise ValueError(f"chart {folder} has version {metadata['version']}, not {wanted}")
    manifest, values = "", _over(yaml.safe_load((folder / "values.yaml").read_text()), inputs.get("values") or {})
    for path in sorted((folder / "templates").glob("*.yaml")):
        text = _render(path, values)
        if "{{" in text.replace(ESCAPED, "") or "helm.sh/hook" in text:
            raise ValueError(f"the kubernetes stand-in knows simple values only, but {path} has expressions or hooks")
        name = f"{metadata['name']}/templates/{path.name}"
        manifest += f"---\n# Source: {name}\n{text.replace(ESCAPED, '{{')}\n"
    return Chart(metadata, manifest)


def _over(low: Any, high: Any) -> Any:
    if not isinstance(low, dict) or not isinstance(high, dict):
        return high
    return low | {key: _over(low.get(key), value) for key, value in high.items()}


def _render(path: Path, values: JSON) -> str:
    import yaml

    def value(name: str) -> Any:
        found: Any = values
        for key in name.split("."):
            if key not in found:
                raise ValueError(f"{path}: the chart has no value {name}")
            found = found[key]
        return found

    def block(match: re.Match[str]) -> str:
        return textwrap.indent("\n" + yaml.safe_dump(value(match[1])), " " * int(match[2]))

    text = path.read_text()
    if switched := _SWITCHED.fullmatch(text):
        text = switched[2] if value(switched[1]) else ""
    return _BLOCK.sub(block, _VALUE.sub(lambda match: json.dumps(value(match[1])), text))


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

    def check(self, news: JSON) -> JSON:
        """Inputs with defaults. Raises ValueError when the chart or an option cannot be used."""
        inputs = {key: value for key, value in news.items() if value is not None and key != "resourceNames"}
        if unsupported := [key for key, value in inputs.items() if value and key not in _SUPPORTED]:
            raise ValueError(f"the kubernetes stand-in does not support {', '.join(unsupported)} of a Helm release")
        if not inputs.get("name"):
            raise ValueError("the kubernetes stand-in gives no names of its own: set the Helm release's name")
        inputs["namespace"] = inputs.get("namespace") or self.namespace
        inputs.setdefault("timeout", DEFAULT_TIMEOUT)
        inputs["version"] = load_chart(reveal(inputs)).metadata["version"]
        return inputs

    def diff(self, state: JSON, news: JSON, ignored: Sequence[str] = ()) -> Change:
        old, new = _inputs_of(state), reveal(news)
        found = diff.changes(old, new, ignored)
        return Change(found, diff.replacements(found, ["name", "namespace"]), delete_first=False)

    def create(self, inputs: JSON, timeout: float, preview: bool) -> tuple[str, JSON]:
        if preview:
            return "", {**inputs, "status": UNKNOWN}
        return _identity(reveal(inputs)), self._roll(inputs, 1, [], timeout)

    def update(self, state: JSON, news: JSON, timeout: float, preview: bool) -> JSON:
        if preview:
            return {**news, "status": UNKNOWN}
        before = reveal(state)
        return self._roll(news, before["status"]["revision"] + 1, before["objects"], timeout)

    def read(self, state: JSON) -> tuple[JSON, JSON] | None:
        """As recorded while any of its objects is there: Helm does not look into them either."""
        if "__inputs" not in state:
            raise ValueError("the kubernetes stand-in does not import Helm releases: use the real provider")
        found = any(self._live(item) for item in reveal(state["objects"]))
        return (_inputs_of(state), state) if found else None

    def delete(self, state: JSON, timeout: float) -> None:
        deadline = time.monotonic() + (timeout or _inputs_of(state)["timeout"])
        for item in self._remove(reveal(state["objects"])):
            Waiter(self.cluster).gone(item, {}, deadline - time.monotonic())

    def _roll(self, inputs: JSON, revision: int, former: list[JSON], timeout: float) -> JSON:
        """Bring the cluster to the chart; the recorded state. Raises Partial with it when that fails half-way."""
        wanted = reveal(inputs)
        deadline = time.monotonic() + (timeout or wanted["timeout"])
        chart = load_chart(wanted)
        manifest = [self._owned(item, wanted) for item in parse(chart.manifest)]
        for item in manifest:
            if item["kind"] != "CustomResourceDefinition":
                refuse_unsupported(item)
            self._refuse_foreign(item, wanted)
        stay = {_key(item) for item in manifest}
        leaving = [item for item in former if _key(item) not in stay]
        try:
            live = [self.cluster.apply(item, MANAGER, force=True) for item in manifest]
            self._remove(leaving)
            self._wait(live, deadline)
        except (ApiError, NoKind, NotReady) as error:
            identity = _identity(wanted)
            message = f'Helm release "{identity}" failed to initialize completely: {error}'
            state = _state(inputs, chart, revision, "failed", [*leaving, *manifest])
            raise Partial(identity, message, state, error) from error
        return _state(inputs, chart, revision, "deployed", manifest)

    def _owned(self, item: JSON, wanted: JSON) -> JSON:
        """The object with the release's namespace and marks of ownership."""
        metadata = dict(meta(item))
        if self._namespaced(item):
            metadata.setdefault("namespace", wanted["namespace"])
        marks = {f"meta.helm.sh/release-{key}": wanted[key] for key in ("name", "namespace")}
        metadata["labels"] = {**(metadata.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **marks}
        return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}

    def _namespaced(self, item: JSON) -> bool:
        try:
            return self.cluster.route(item["apiVersion"], item["kind"]).namespaced
        except NoKind:
            return True  # a kind whose CRD the same chart brings

    def _live(self, item: JSON) -> JSON | None:
        try:
            return self.cluster.get(item)
        except NoKind:
            return None
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def _refuse_foreign(self, item: JSON, wanted: JSON) -> None:
        """Helm takes over an object (say, a kept CRD) only if it carries the marks of this very release."""
        live = self._live(item)
        owner = [annotation(live or {}, f"meta.helm.sh/release-{part}") for part in ("namespace", "name")]
        if live and owner != [wanted["namespace"], wanted["name"]]:
            raise ValueError(
                f"Unable to continue with install: {item['kind']} {meta(item)['name']!r} exists and cannot be imported "
                f"into the release {_identity(wanted)}: it belongs to {'/'.join(owner)!r}"
            )

    def _wait(self, live: list[JSON], deadline: float) -> None:
        checks = {**CHECKS, "apiextensions.k8s.io/v1/CustomResourceDefinition": _established}
        for item in live:
            if check := checks.get(f"{item['apiVersion']}/{item['kind']}"):
                failure = f"resource {item['kind']}/{meta(item)['name']} not ready: context deadline exceeded"
                live_now = self.cluster.get(item)  # most got ready while the others were applied
                Waiter(self.cluster).follow(live_now, deadline - time.monotonic(), check, failure)

    def _remove(self, items: list[JSON]) -> list[JSON]:
        """Delete in reverse order all but what says `helm.sh/resource-policy: keep`; what is on its way out."""
        found = [live for item in reversed(items) if (live := self._live(item))]
        doomed = [live for live in found if annotation(live, "helm.sh/resource-policy") != "keep"]
        return [live for live in doomed if self.cluster.delete(live)]


def _identity(wanted: JSON) -> str:
    return f"{wanted['namespace']}/{wanted['name']}"


def _state(inputs: JSON, chart: Chart, revision: int, status: str, held: list[JSON]) -> JSON:
    """Recorded state of a release; its inputs are one secret, as in pulumi-kubernetes, since values may hold some."""
    told = {"version": str(chart.metadata["version"]), "revision": revision, "status": status}
    names = [{key: meta(item)[key] for key in ("namespace", "name") if key in meta(item)} for item in held]
    objects = [
        {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": name}
        for item, name in zip(held, names, strict=True)
    ]
    return {**inputs, "status": told, "objects": objects, "__inputs": Secret(reveal(inputs))}


def _inputs_of(state: JSON) -> JSON:
    inputs: JSON = reveal(state["__inputs"])
    return inputs


def _established(crd: Mapping[str, Any]) -> Status:
    return Status(condition(crd, "Established").get("status") == "True", ("the CRD is not established yet",))


def _key(item: JSON) -> tuple[str, ...]:
    group = str(item["apiVersion"]).rpartition("/")[0]
    return group, str(item["kind"]), str(meta(item).get("namespace", "")), str(meta(item)["name"])
