"""Stand-in for `pulumi-resource-kubernetes` 4.32.0: the provider's gRPC face.

It speaks to the API server that the stack's kubeconfig names. What it does not support is an error, never ignored.
"""

from __future__ import annotations

import os
import re
from typing import Any

from google.protobuf import empty_pb2

from lab.plugins import protos, serving
from lab.plugins.awaits import NotReady
from lab.plugins.cluster import ApiError, Cluster, NoKind, Unreachable, load_access
from lab.plugins.resources import Objects, Options
from lab.plugins.serving import pb

_KNOWN = {"kubeconfig", "context", "namespace", "enableServerSideApply", "enablePatchForce", "upsertExistingObjects"}
_answering = serving.answering(ApiError, NoKind, NotReady, Unreachable)


class Provider(serving.Servicer):
    """One provider process serves one configuration."""

    NAME, VERSION = "kubernetes", "4.32.0"

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._options = Options()

    @_answering
    def DiffConfig(self, request: Any, context: Any) -> Any:
        return serving.unmoved(request, self.NAME, {"kubeconfig", "context"})

    @_answering
    def Configure(self, request: Any, context: Any) -> Any:
        settings = {key.rpartition(":")[2]: value for key, value in request.variables.items()}
        unknown = {key for key, value in settings.items() if value} - _KNOWN - {"version", "pluginDownloadURL"}
        unknown |= {key for key in os.environ if key.startswith("PULUMI_K8S_")}
        if unknown:
            raise ValueError(f"the kubernetes stand-in does not support the provider settings {sorted(unknown)}")
        if settings.get("enableServerSideApply", "true") != "true":
            raise ValueError("the kubernetes stand-in supports server-side apply only: enableServerSideApply is false")
        access = load_access(settings.get("kubeconfig", ""), settings.get("context", ""))
        self._cluster = Cluster(access)
        self._options = Options(
            namespace=settings.get("namespace") or access.namespace,
            force=settings.get("enablePatchForce") == "true",
            upsert=settings.get("upsertExistingObjects") == "true",
        )
        return pb.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def _configured(self) -> Cluster:
        if self._cluster is None:
            raise Unreachable("the provider was not configured")
        return self._cluster

    def _objects(self) -> Objects:
        return Objects(self._configured(), self._options)

    def _release(self, urn: str) -> Any:
        """The Helm side, loaded when first needed; None for plain objects."""
        if "kubernetes:helm.sh/v3:Release" not in urn.split("::")[2]:
            return None
        from lab.plugins.helm import Releases

        return Releases(self._configured(), self._options.namespace)

    @_answering
    def Check(self, request: Any, context: Any) -> Any:
        news, release = protos.decode(request.news), self._release(request.urn)
        inputs = release.check(news) if release else self._objects().check(request.urn, news)
        return pb.CheckResponse(inputs=protos.encode(inputs))

    @_answering
    def Diff(self, request: Any, context: Any) -> Any:
        state, news, ignored = protos.decode(request.olds), protos.decode(request.news), _ignored(request)
        change = (self._release(request.urn) or self._objects()).diff(state, news, ignored)
        return serving.diff_response(change.paths, change.replaces, change.delete_first)

    @_answering
    def Create(self, request: Any, context: Any) -> Any:
        inputs = protos.decode(request.properties)
        if release := self._release(request.urn):
            identity, state = release.create(inputs, request.timeout, request.preview)
        else:
            identity, state = self._objects().create(request.urn, inputs, request.timeout, request.preview)
        return pb.CreateResponse(id=identity, properties=protos.encode(state))

    @_answering
    def Read(self, request: Any, context: Any) -> Any:
        inputs, state = protos.decode(request.inputs), protos.decode(request.properties)
        if release := self._release(request.urn):
            found = release.read(state)
        else:
            found = self._objects().read(request.urn, request.id, inputs, state)
        if found is None:
            return pb.ReadResponse()
        return pb.ReadResponse(id=request.id, inputs=protos.encode(found[0]), properties=protos.encode(found[1]))

    @_answering
    def Update(self, request: Any, context: Any) -> Any:
        state, news = protos.decode(request.olds), protos.decode(request.news)
        if release := self._release(request.urn):
            after = release.update(state, news, request.timeout, request.preview)
        else:
            after = self._objects().update(
                request.urn, state, news, request.timeout, request.preview, _ignored(request)
            )
        return pb.UpdateResponse(properties=protos.encode(after))

    @_answering
    def Delete(self, request: Any, context: Any) -> Any:
        state = protos.decode(request.properties)
        if release := self._release(request.urn):
            release.delete(state, request.timeout)
        else:
            self._objects().delete(request.id, state, request.timeout)
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        if self._cluster:
            self._cluster.cancelled.set()
        return empty_pb2.Empty()


def _ignored(request: Any) -> list[str]:
    """`ignoreChanges`: plain paths of fields, the only ones that pulumi-kubernetes too drops from its patch."""
    paths = list(request.ignoreChanges)
    if odd := [path for path in paths if not re.fullmatch(r"\w+(\.\w+)*", path)]:
        raise ValueError(f"the kubernetes stand-in takes ignoreChanges of plain paths (spec.replicas), not {odd}")
    return paths


def main(arguments: list[str]) -> None:
    """Serve until the engine ends the process."""
    serving.main(Provider, arguments)
