"""Stack outputs as plain data, from the routes as written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import record, replicas
from core.model import Settings
from policies import weights


def summary(written: Mapping[str, Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    """What the stack says of itself.  `written` holds each service's VirtualService, `{metadata, spec}`, as written.

    The train's weight is that of its furthest service: where an update stopped half-way, that is what users may meet.
    """
    found = {name: record.read(inputs, None) for name, inputs in written.items()}
    entries = {name: entry for name, entry in found.items() if entry is not None}
    furthest = max(entries.values(), key=lambda entry: entry.route.weight, default=None)
    carriers = [entry.route for entry in entries.values() if entry.route.canary is not None]
    services: dict[str, dict[str, Any]] = {
        name: {
            "weight": entry.route.weight,
            "stable": settings.services[name].stable.image,
            "canary": canary.image if (canary := settings.services[name].canary) is not None else None,
            "since": weights.stamp(entry.route.since) if entry.route.since else None,
        }
        for name, entry in entries.items()
    }
    if settings.strategy == "replicas":
        for name, told in services.items():
            told["replicas"] = replicas.told(entries[name].route.weight, settings.services[name].replicas)
    since = max((entry.route.since for entry in entries.values() if entry.route.since), default=None)
    scheme = "http" if settings.gateway.tls_secret is None else "https"
    hosts = settings.public_hosts
    return {
        "weight": furthest.configured if furthest else 0,
        "effectiveWeight": furthest.route.weight if furthest else 0,
        "phase": weights.phase(
            canary=bool(carriers),
            weight=furthest.route.weight if furthest else 0,
            halted=any(route.halted for route in carriers),
        ),
        "since": weights.stamp(since) if since else None,
        "services": services,
        "gatewayUrl": f"{scheme}://{hosts[0]}" if hosts else None,
        "edgeDomain": None,
        "edge": None,
        "windows": {"serve": settings.windows.serve, "serving": settings.serving},
        "rejected": sorted({image for entry in entries.values() for image in entry.route.rejected}),
        "override": settings.override.model_dump(mode="json", by_alias=True) if settings.override else None,
    }
