"""Stand-in for `pulumi-resource-kubernetes` 4.32.0: the provider's gRPC face.

It speaks to the API server that the stack's kubeconfig names. What it does not support is an error, never ignored.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import empty_pb2

from lab.plugins import protos
from lab.plugins.cluster import ApiError, Cancelled, Cluster, NoKind, Unreachable, load_access
from lab.plugins.resources import Change, Objects, Options, Partial

pb = protos.stub("provider_pb2")
rpc = protos.stub("provider_pb2_grpc")
plugin = protos.stub("plugin_pb2")

VERSION = "4.32.0"
_KNOWN = {
    "kubeconfig", "context", "namespace", "enableServerSideApply", "enablePatchForce", "strictMode",
    "upsertExistingObjects", "enableConfigMapMutable", "enableSecretMutable", "suppressDeprecationWarnings",
    "suppressHelmHookWarnings",
}  # fmt: skip
_ENVIRONMENT = {
    "enableServerSideApply": "PULUMI_K8S_ENABLE_SERVER_SIDE_APPLY",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
}
_KINDS = {"add": (0, 1), "delete": (2, 3), "update": (4, 5)}  # PropertyDiff.Kind in place, with replacement

Method = Callable[[Any, Any, Any], Any]


def _answering(method: Method) -> Method:
    """Turn what a method raises into the status that the engine understands."""

    @functools.wraps(method)
    def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return method(self, request, context)
        except Partial as error:
            failed = pb.ErrorResourceInitFailed(
                id=error.identity,
                properties=protos.encode(error.state),
                reasons=error.reasons,
                inputs=protos.encode(error.inputs) if error.inputs is not None else None,
            )
            status = protos.stub("status_pb2").Status(code=2, message=str(error))
            status.details.add().Pack(failed)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except (ApiError, NoKind, Unreachable, Cancelled, ValueError) as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return call


class Provider(rpc.ResourceProviderServicer):  # type: ignore[misc,name-defined]
    """One provider process serves one configuration."""

    def __init__(self, engine: str) -> None:
        self._engine_address = engine
        self._engine: Any = None
        self._cluster: Cluster | None = None
        self._unusable = "the provider was not configured"
        self._options = Options()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin.PluginInfo(version=VERSION)

    def GetSchema(self, request: Any, context: Any) -> Any:
        return pb.GetSchemaResponse(schema=json.dumps({"name": "kubernetes", "version": VERSION}))

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return pb.CheckResponse(inputs=request.news)

    @_answering
    def DiffConfig(self, request: Any, context: Any) -> Any:
        """Another cluster means other objects: a change of it replaces everything."""
        old, new = (protos.reveal(protos.decode(bag)) for bag in (request.olds, request.news))
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        replaces = [key for key in changed if key in ("kubeconfig", "context")]
        if replaces and _cluster_of(old) == _cluster_of(new):
            replaces = []
        some = pb.DiffResponse.DIFF_SOME if changed else pb.DiffResponse.DIFF_NONE
        return pb.DiffResponse(changes=some, diffs=changed, replaces=replaces)

    @_answering
    def Configure(self, request: Any, context: Any) -> Any:
        settings = {key.rpartition(":")[2]: value for key, value in request.variables.items()}
        unknown = {key for key, value in settings.items() if value} - _KNOWN - {"version", "pluginDownloadURL"}
        if unknown:
            raise ValueError(f"the kubernetes stand-in does not support the provider settings {sorted(unknown)}")

        def on(key: str, default: bool = False) -> bool:
            value = settings.get(key, os.environ.get(_ENVIRONMENT[key]))
            return default if value is None else value == "true"

        if not on("enableServerSideApply", True):
            raise ValueError("the kubernetes stand-in supports server-side apply only: enableServerSideApply is false")
        namespace = settings.get("namespace") or ""
        try:
            access = load_access(settings.get("kubeconfig", ""), settings.get("context", ""))
            namespace = namespace or access.namespace
            self._cluster = Cluster(access)
        except (Unreachable, OSError) as error:
            # Not an error yet: a program may configure a provider that it does not use.
            self._unusable = f"configured Kubernetes cluster is unreachable: {error}"
        self._options = Options(
            namespace=namespace or "default",
            force=on("enablePatchForce"),
            upsert=on("upsertExistingObjects"),
            mutable_configmaps=on("enableConfigMapMutable"),
            mutable_secrets=on("enableSecretMutable"),
        )
        return pb.ConfigureResponse(acceptSecrets=True, supportsPreview=True, supports_autonaming_configuration=True)

    def _cluster_or_fail(self) -> Cluster:
        if self._cluster is None:
            raise Unreachable(self._unusable)
        return self._cluster

    def _objects(self) -> Objects:
        return Objects(self._cluster_or_fail(), self._options)

    def _release(self, urn: str) -> Any:
        """The Helm side, loaded when first needed; None for plain objects."""
        if "kubernetes:helm.sh/v3:Release" not in urn.split("::")[2]:
            return None
        from lab.plugins.helm import Releases

        return Releases(self._cluster_or_fail(), self._options.namespace)

    def _say(self, urn: str) -> Callable[[str], None]:
        """Status text beside the resource in the engine's display."""

        def say(text: str) -> None:
            engine_pb = protos.stub("engine_pb2")
            if self._engine is None:
                channel = grpc.insecure_channel(self._engine_address)
                self._engine = protos.stub("engine_pb2_grpc").EngineStub(channel)
            request = engine_pb.LogRequest(severity=engine_pb.INFO, message=text, urn=urn, ephemeral=True)
            try:
                self._engine.Log(request, timeout=5)
            except grpc.RpcError as error:
                sys.stderr.write(f"kubernetes stand-in: could not tell the engine {text!r}: {error.code()}\n")

        return say

    @_answering
    def Check(self, request: Any, context: Any) -> Any:
        news, olds = protos.decode(request.news), protos.decode(request.olds)
        proposed = request.autonaming.proposed_name if request.HasField("autonaming") else ""
        if release := self._release(request.urn):
            inputs, failure = release.check(request.urn, news, olds, request.randomSeed)
            failures = [pb.CheckFailure(property="chart", reason=failure)] if failure else []
            return pb.CheckResponse(inputs=protos.encode(inputs), failures=failures)
        inputs = self._objects().check(request.urn, news, olds, request.randomSeed, proposed)
        return pb.CheckResponse(inputs=protos.encode(inputs))

    @_answering
    def Diff(self, request: Any, context: Any) -> Any:
        state, news = protos.decode(request.olds), protos.decode(request.news)
        ignore = list(request.ignoreChanges)
        if release := self._release(request.urn):
            return _diff_response(release.diff(state, news, ignore))
        return _diff_response(self._objects().diff(state, news, ignore))

    @_answering
    def Create(self, request: Any, context: Any) -> Any:
        inputs, say = protos.decode(request.properties), self._say(request.urn)
        if release := self._release(request.urn):
            identity, state = release.create(inputs, request.timeout, request.preview, say)
        else:
            identity, state = self._objects().create(request.urn, inputs, request.timeout, request.preview, say)
        return pb.CreateResponse(id=identity, properties=protos.encode(state))

    @_answering
    def Read(self, request: Any, context: Any) -> Any:
        inputs, state = protos.decode(request.inputs), protos.decode(request.properties)
        if release := self._release(request.urn):
            found = release.read(request.id, state)
        else:
            found = self._objects().read(request.urn, request.id, inputs, state)
        if found is None:
            return pb.ReadResponse()
        return pb.ReadResponse(id=request.id, inputs=protos.encode(found[0]), properties=protos.encode(found[1]))

    @_answering
    def Update(self, request: Any, context: Any) -> Any:
        state, news, say = protos.decode(request.olds), protos.decode(request.news), self._say(request.urn)
        if release := self._release(request.urn):
            after = release.update(state, news, request.timeout, request.preview, say)
        else:
            after = self._objects().update(
                request.urn, state, news, list(request.ignoreChanges), request.timeout, request.preview, say
            )
        return pb.UpdateResponse(properties=protos.encode(after))

    @_answering
    def Delete(self, request: Any, context: Any) -> Any:
        state, say = protos.decode(request.properties), self._say(request.urn)
        if release := self._release(request.urn):
            release.delete(state, request.timeout, say)
        else:
            self._objects().delete(request.id, state, request.timeout, say)
        return empty_pb2.Empty()

    @_answering
    def Invoke(self, request: Any, context: Any) -> Any:
        raise ValueError(
            f"the kubernetes stand-in does not support {request.tok}: declare the objects, or use the real provider"
        )

    Call = Invoke

    @_answering
    def Construct(self, request: Any, context: Any) -> Any:
        raise ValueError(
            f"the kubernetes stand-in does not support {request.type}: use kubernetes:helm.sh/v3:Release "
            "or plain resources, or use the real provider"
        )

    def Cancel(self, request: Any, context: Any) -> Any:
        if self._cluster:
            self._cluster.cancel()
        return empty_pb2.Empty()


def _cluster_of(config: Mapping[str, Any]) -> Any:
    try:
        access = load_access(*(str(config.get(key) or "") for key in ("kubeconfig", "context")))
    except (Unreachable, OSError) as error:
        return str(error)
    return access.host, access.port


def _diff_response(change: Change) -> Any:
    detailed = {
        path: pb.PropertyDiff(kind=_KINDS[how][path in change.replaces], inputDiff=how == "delete")
        for path, how in change.paths.items()
    }
    some = pb.DiffResponse.DIFF_SOME if change.paths else pb.DiffResponse.DIFF_NONE
    return pb.DiffResponse(
        changes=some,
        replaces=change.replaces,
        deleteBeforeReplace=change.delete_first,
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def main(arguments: list[str]) -> None:
    """Serve until the engine ends the process."""
    if arguments == ["--version"]:
        print(f"v{VERSION} (stand-in)")
        return
    if not arguments:
        raise SystemExit("usage: pulumi-resource-kubernetes ENGINE_ADDRESS (started by the pulumi command)")
    provider = Provider(arguments[-1])
    protos.serve(lambda server: rpc.add_ResourceProviderServicer_to_server(provider, server))


if __name__ == "__main__":
    main(sys.argv[1:])
