"""Who may reach the pods: the doors only, so that nobody goes round the routes; specs as plain data.

All of it is enforced on the connection by the pod's ztunnel, which knows who calls and not what: a policy that names
paths or headers there would let nobody in.
"""

from __future__ import annotations

import re
from typing import Any

from core import promql, routes
from core.model import Settings

_IN_CLUSTER = re.compile(r"https?://[^./:]+\.([^./:]+)(?:\.svc(?:\.[^/:]+)?)?(?::\d+)?(?:/.*)?")


def peer_authentication_spec() -> dict[str, Any]:
    """No connection without an identity of the mesh; the kubelet's probes are let through by the mesh itself."""
    return {"mtls": {"mode": "STRICT"}}


def authorization_policy_spec(name: str, settings: Settings) -> dict[str, Any]:
    """The waypoint and the ingress gateway may connect to the pods of a service, whatever their track, nobody else.

    Where the gate reads the services' own metrics, so may the namespace of `gate.prometheus`, which has to be in the
    mesh for that.
    """
    doors = [(settings.namespace, routes.WAYPOINT), (routes.INGRESS_NAMESPACE, routes.INGRESS)]
    sources: list[dict[str, Any]] = [
        {"source": {"principals": [f"cluster.local/ns/{space}/sa/{account}" for space, account in doors]}}
    ]
    scraper = _IN_CLUSTER.fullmatch(settings.gate.prometheus) if promql.uses_app(settings) else None
    if scraper is not None:
        sources.append({"source": {"namespaces": [scraper[1]]}})
    # Not by the label `app`: Flagger, where it is used, gives its pods another.
    return {
        "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
        "action": "ALLOW",
        "rules": [{"from": sources}],
    }
