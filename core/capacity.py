"""How many pods a share needs."""

from __future__ import annotations

from core import replicas as pods
from core.model import Settings


def needed(weight: int, stable: int) -> int:
    """Pods that carry `weight` per cent of what `stable` pods carry; one at least, which rules and QA may meet."""
    return max(1, -(-stable * weight // 100))


def shortage(settings: Settings, name: str, stable: int | None) -> str | None:
    """Why canary cannot get the pods that the weight needs beside `stable` live ones (None: not known), or None."""
    canary = dict(settings.services[name].tracks()).get("canary")
    if canary is None or canary.replicas == "auto" or settings.strategy != "istio":
        return None
    key, most = ("replicas", canary.replicas or 1)
    if canary.autoscale is not None:
        key, most = ("autoscale.max", canary.autoscale.max)
    beside = max(stable or 0, replicas(settings, name, "stable"))
    need = needed(settings.effective_weight, beside)
    if most >= need:
        return None
    where = f"canary:services.{name}.canary.{key}"
    return f"needs {need} pods of canary beside {beside} of stable, and {where} is {most}; set it to {need} at least"


def replicas(settings: Settings, name: str, version: str, at_least: int = 0) -> int:
    """Declared pods of a track, and not fewer than `at_least`; with an autoscaler the least it may have.

    `auto` counts in pods of stable: where only stable is autoscaled, in the most that it may have.
    """
    tracks = dict(settings.services[name].tracks())
    if settings.strategy == "replicas":
        shared = pods.counts(settings.effective_weight if "canary" in tracks else 0, settings.services[name].replicas)
        return shared[0 if version == "stable" else 1]
    track, scale = tracks[version], tracks[version].autoscale
    found = scale.min if scale is not None else 1
    if track.replicas == "auto":
        stable = tracks["stable"].autoscale
        whole = stable.max if stable is not None and scale is None else replicas(settings, name, "stable")
        found = max(found, needed(settings.effective_weight, whole))
    elif scale is None:
        found = track.replicas or 1
    return max(found, at_least)
