"""What keeps callers from going round the doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import ResourceOptions

from components.objects import CoreObject
from core import security
from core.model import Settings


@dataclass(frozen=True, kw_only=True)
class MeshSecurityArgs:
    """`after` is what has to serve before anybody is locked out: the waypoint and the routes."""

    settings: Settings
    after: Sequence[pulumi.Resource]


class MeshSecurity(pulumi.ComponentResource):
    """Strict mTLS in the namespace, and per service who may connect to its pods.  Nothing waits for these."""

    def __init__(self, name: str, args: MeshSecurityArgs, opts: ResourceOptions | None = None) -> None:
        settings = args.settings
        super().__init__("canary:index:MeshSecurity", name, {"namespace": settings.namespace}, opts)

        def declare(title: str, kind: str, called: str, spec: dict[str, Any]) -> None:
            metadata = {"name": called, "namespace": settings.namespace}
            kind = f"security.istio.io/v1:{kind}"
            CoreObject(kind, title, metadata=metadata, spec=spec, parent=self, depends_on=args.after)

        declare(f"{name}-mtls", "PeerAuthentication", "default", security.peer_authentication_spec())
        for service in settings.services:
            spec = security.authorization_policy_spec(service, settings)
            declare(f"{service}-doors", "AuthorizationPolicy", f"{service}-doors", spec)
        self.register_outputs({})
