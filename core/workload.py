"""The pods of one track as plain data: what runs, with which configuration, how many, how many may go at once."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core import capacity, specs
from core.model import Settings, Track

SHUTDOWN_SECONDS = 25
"""What a pod gets after its drain to finish what it has begun; with the default drain Kubernetes' own 30 s."""

HASH_DIGITS = 10


@dataclass(frozen=True)
class Content:
    """A ConfigMap or Secret of `owner`, mostly a track; `data` is as the API server keeps it (base64 in a Secret).

    The name carries a hash of the content: a change is a new object beside the old one, so a rollout and its way back
    take their configuration along, and no running pod ever sees another's.

    The hash is 40 bits of SHA-256.  That tells versions apart (two of a thousand meet once in two million stacks), and
    is all that names, which are no secret, show of a Secret: of a random value nothing that could be used; a value that
    can be guessed can be tried against it, as against any login, so guessable ones are no secrets.  The owner's name
    is hashed along, so that equal values in two places do not show.
    """

    kind: Literal["ConfigMap", "Secret"]
    owner: str
    data: Mapping[str, str]

    @property
    def name(self) -> str:
        """`<service>-<track>-<hash>`."""
        text = json.dumps([self.kind, self.owner, dict(self.data)], sort_keys=True)
        return f"{self.owner}-{hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]}"


def contents(settings: Settings, name: str, version: str) -> Iterator[Content]:
    """What the pods of a track read besides their plain variables."""
    track = dict(settings.services[name].tracks())[version]
    if track.config is not None:
        yield Content("ConfigMap", f"{name}-{version}", track.config.data)
    if secrets := settings.secrets(track):
        coded = {variable: base64.b64encode(value.encode()).decode() for variable, value in secrets.items()}
        yield Content("Secret", f"{name}-{version}", coded)


def deployment_spec(settings: Settings, name: str, version: str, at_least: int = 0) -> dict[str, Any]:
    """One track.  `version` is `stable` or `canary`: what the subsets of the DestinationRule select.

    `at_least` is a number of pods that this update may not go below, whatever is declared.
    """
    service = settings.services[name]
    track = dict(service.tracks())[version]
    selector = {"app": name, "version": version}
    drain = track.drain or 0
    security = track.security or service.security
    container: dict[str, Any] = {
        "name": name,
        "image": track.image,
        "ports": [{"name": service.protocol, "containerPort": track.target_port}],
        "readinessProbe": _probe(service.protocol, track, failures=1),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    volumes: dict[str, dict[str, Any]] = {}
    mounts: dict[str, dict[str, Any]] = {}
    if track.env:
        container["env"] = [{"name": key, "value": value} for key, value in sorted(track.env.items())]
    for content in contents(settings, name, version):
        mount = track.config.mount if track.config is not None and content.kind == "ConfigMap" else None
        if mount is not None:
            volumes["config"] = {"configMap": {"name": content.name}}
            mounts["config"] = {"mountPath": mount, "readOnly": True}
        else:
            source = "configMapRef" if content.kind == "ConfigMap" else "secretRef"
            container.setdefault("envFrom", []).append({source: {"name": content.name}})
    if security.read_only_root:
        container["securityContext"]["readOnlyRootFilesystem"] = True
        volumes["tmp"], mounts["tmp"] = {"emptyDir": {}}, {"mountPath": "/tmp"}
    if mounts:
        container["volumeMounts"] = [{"name": key, **mount} for key, mount in sorted(mounts.items())]
    if track.probe is not None:
        container["livenessProbe"] = _probe(service.protocol, track, failures=5)
    if track.resources:
        container["resources"] = track.resources
    if drain:
        # Endpoints leave the proxies a moment after a pod is told to stop; it must answer until then.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": drain}}}
    pod: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}
        | ({"runAsNonRoot": True} if security.non_root else {}),
        "terminationGracePeriodSeconds": drain + SHUTDOWN_SECONDS,
        "topologySpreadConstraints": specs.spread(selector),
        "containers": [container],
    }
    if track.pull_secrets:
        pod["imagePullSecrets"] = [{"name": one} for one in track.pull_secrets]
    if volumes:
        pod["volumes"] = [{"name": key, **volume} for key, volume in sorted(volumes.items())]
    return {
        "replicas": capacity.replicas(settings, name, version, at_least),
        "progressDeadlineSeconds": settings.ready_timeout,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "selector": {"matchLabels": selector},
        "template": {"metadata": {"labels": specs.labels(name) | {"version": version}}, "spec": pod},
    }


def _probe(protocol: str, track: Track, failures: int) -> dict[str, Any]:
    """Without `probe` an open port will do: not every gRPC server answers health checks."""
    period = 2 if track.probe is None else track.probe.period_seconds
    if track.probe is None:
        how: dict[str, Any] = {"tcpSocket": {"port": track.target_port}}
    elif protocol == "grpc":
        asked = track.probe.path.removeprefix("/")
        how = {"grpc": {"port": track.target_port} | ({"service": asked} if asked else {})}
    else:
        how = {"httpGet": {"path": track.probe.path, "port": track.target_port}}
    return how | {"periodSeconds": period, "failureThreshold": failures}


def autoscaler_spec(settings: Settings, name: str, version: str, at_least: int = 0) -> dict[str, Any] | None:
    """The HorizontalPodAutoscaler of a track that asks for one.

    While there is a canary, stable keeps the pods it has, however little it is asked: a revert needs them at once.
    """
    service = settings.services[name]
    scale = dict(service.tracks())[version].autoscale
    if scale is None:
        return None
    least = capacity.replicas(settings, name, version, at_least)
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": scale.cpu}}
    found: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-{version}"},
        "minReplicas": least,
        "maxReplicas": max(scale.max, least),
        "metrics": [{"type": "Resource", "resource": cpu}],
    }
    if version == "stable" and service.canary is not None:
        found["behavior"] = {"scaleDown": {"selectPolicy": "Disabled"}}
    return found


def disruption_spec(settings: Settings, name: str, version: str) -> dict[str, Any] | None:
    """The PodDisruptionBudget of a track that has, or may get, more than one pod."""
    track = dict(settings.services[name].tracks())[version]
    most = track.autoscale.max if track.autoscale is not None else track.replicas
    if most == 1:
        return None
    return specs.DISRUPTION | {"selector": {"matchLabels": {"app": name, "version": version}}}


def account(settings: Settings, name: str) -> dict[str, Any]:
    """The ServiceAccount of a service: who its pods are to the mesh and, by annotation, to a cloud."""
    metadata: dict[str, Any] = {"name": name, "namespace": settings.namespace, "labels": specs.labels(name)}
    if annotations := settings.services[name].service_account.annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "body": {"automountServiceAccountToken": False}}
