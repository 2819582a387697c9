"""How many pods a share needs."""

from __future__ import annotations

from core.model import Settings


def needed(weight: int, stable: int) -> int:
    """Pods that carry `weight` per cent of what `stable` pods carry; one at least, which rules and QA may meet."""
    return max(1, -(-stable * weight // 100))


def replicas(settings: Settings, name: str, version: str) -> int:
    """Declared pods of a track; with an autoscaler the least it may have."""
    track = dict(settings.services[name].tracks())[version]
    if track.replicas == "auto":
        return needed(settings.effective_weight, replicas(settings, name, "stable"))
    return track.autoscale.min if track.autoscale is not None else track.replicas or 1
