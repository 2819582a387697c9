"""Rules about what carries the weight: pods, the subsets that find them, and the mesh between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from policies.facts import WORKLOADS, Json, Stack, Thing, legs, resolved, rule, within
from policies.routing import _of_canary

PRODUCTION = {"type": "array", "items": {"type": "string"}, "default": ["prod", "prod-*", "*-prod", "production"]}
"""Names of the stacks that serve users; * stands for any text."""

CHARTS = ("base", "istiod", "cni", "ztunnel", "gateway")


def in_production(thing: Thing, config: Json) -> bool:
    """True when the stack, named in the URN, is one of `config`'s."""
    return any(fnmatchcase(thing.urn.split(":")[2], pattern) for pattern in config["stacks"])


@rule("pinned-images", "In production every image is pinned by its digest.", *WORKLOADS, stacks=PRODUCTION)
def _images(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    pod = thing.get("spec", "template", "spec")
    for one in [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]:
        if in_production(thing, config) and not re.fullmatch(r".+@sha256:[0-9a-f]{64}", one.get("image") or ""):
            fix = "and a tag can move under a running rollout; write name:tag@sha256:..."
            yield f"container {one.get('name')}: image {one.get('image')} has no digest, {fix}"


@rule("readiness-probes", "Every container that serves has a readiness probe.", *WORKLOADS)
def _probes(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for one in thing.get("spec", "template", "spec").get("containers") or []:
        if one.get("ports") and not one.get("readinessProbe"):
            why = "so it gets its share of requests before it can answer; add one"
            yield f"container {one.get('name')} has ports and no readinessProbe, {why}"


@rule(
    "subsets-select-pods",
    "Some pods have the labels of each subset that a route leads to.",
    "VirtualService",
    vital=True,
)
def _subsets(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    to = [leg for route in thing.spec.get("http") or [] for leg in legs(route)]
    for host, subset in sorted({(resolved(host, thing.place[0]), subset or "") for host, subset, share in to if share}):
        labels, service = stack.subsets.get(host, {}).get(subset, {}), stack.service(host)
        selected = set(service.get("spec", "selector")) if service else set()
        if service is None or not stack.pods(service, {}):
            continue  # they are another stack's
        if pinned := sorted(set(labels) & selected):
            yield f"Service {service.place[1]} selects by {pinned[0]}, and misses the other subsets; drop that"
        elif not stack.pods(service, labels):
            text = f"subset {subset} selects {dict(labels)}, which no pods have: 503; put it on those of its Deployment"
            yield _of_canary(stack, thing, subset, text)


@rule("no-sidecars", "Nothing in an ambient namespace has a sidecar, which would go round the waypoint.", "Namespace",
      *WORKLOADS)  # fmt: skip
def _sidecars(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    space = thing if thing.kind == "Namespace" else stack.at("Namespace", "", thing.place[0])
    labels = space.get("metadata", "labels") if space else {}
    asked = [key for key in ("istio-injection", "istio.io/rev") if labels.get(key, "disabled") != "disabled"]
    if thing is not space:
        pod = {**thing.get("spec", "template", "metadata", "annotations"), **thing.pod_labels}
        asked = [key for key in ("sidecar.istio.io/inject",) if str(pod.get(key)).lower() == "true"]
    if asked and labels.get("istio.io/dataplane-mode") == "ambient":
        yield f"{asked[0]} asks for sidecars in an ambient namespace; remove it"


@rule("pinned-istio", "Istio is installed in one exact version.", "Release", "Chart")
def _istio(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    mesh, name = [one for one in stack.of("Release", "Chart") if _is_istio(one)], _chart(thing)
    version, all_of = thing.props.get("version"), {str(one.props.get("version")) for one in mesh}
    if thing in mesh and not re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", str(version)):
        yield f"chart {name} has version {version}; write one such as 1.30.3"
    elif thing in mesh and str(version) != min(all_of):
        yield f"chart {name} has version {version}, another {min(all_of)}; give all charts the same"


def _is_istio(thing: Thing) -> bool:
    where = f"{thing.props.get('namespace')} {thing.get('repositoryOpts').get('repo')}"
    return "istio" in where and _chart(thing) in CHARTS


def _chart(thing: Thing) -> str:
    return str(thing.props.get("chart")).rpartition("/")[2]


@rule("disruption-budgets", "Pods that are more than one have a PodDisruptionBudget.", "Deployment", "StatefulSet",
      replicas={"type": "integer", "minimum": 2, "default": 2})  # fmt: skip
def _budgets(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    count, (namespace, name) = int(thing.spec.get("replicas", 1)), thing.place
    # Flagger keeps the pods that serve in a Deployment of its own, by another label.
    flagged = any(one.get("spec", "targetRef").get("name") == name for one in stack.of("Canary"))
    labels = {**thing.pod_labels, "app": f"{name}-primary"} if flagged else thing.pod_labels
    budgets = [one for one in stack.of("PodDisruptionBudget") if one.place[0] == namespace]
    if count >= config["replicas"] and not any(
        within(one.get("spec", "selector", "matchLabels"), labels) for one in budgets
    ):
        fix = "a drained node may take them all at once; add one with maxUnavailable: 1"
        yield f"{name} has {count} pods and no PodDisruptionBudget, so {fix}"
