"""What the provider stand-ins share: how they start, how errors reach the engine, how a diff is told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import empty_pb2

from lab.plugins import protos
from lab.plugins.protos import JSON

pb = protos.stub("provider_pb2")
rpc = protos.stub("provider_pb2_grpc")
plugin = protos.stub("plugin_pb2")

_KINDS = {"add": (0, 1), "delete": (2, 3), "update": (4, 5)}  # PropertyDiff.Kind in place, with replacement

Method = Callable[[Any, Any, Any], Any]


class Partial(Exception):
    """The object exists, but did not get where it should: the engine saves its state and tries again."""

    def __init__(self, identity: str, message: str, state: JSON, cause: Exception, inputs: JSON | None = None) -> None:
        super().__init__(message)
        self.identity, self.state, self.inputs = identity, state, inputs
        self.reasons: list[str] = [message, *getattr(cause, "reasons", [])]


def answering(*expected: type[Exception]) -> Callable[[Method], Method]:
    """Turns Partial, and the `expected` errors, into the status that the engine understands."""
    caught: tuple[type[Exception], ...] = (OSError, ValueError, *expected)

    def decorate(method: Method) -> Method:
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
            except caught as error:
                context.abort(grpc.StatusCode.UNKNOWN, str(error))

        return call

    return decorate


class Servicer(rpc.ResourceProviderServicer):  # type: ignore[misc,name-defined]
    """What every provider answers alike; `NAME` and `VERSION` are those of the real one."""

    NAME = VERSION = ""

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin.PluginInfo(version=self.VERSION)

    def GetSchema(self, request: Any, context: Any) -> Any:
        return pb.GetSchemaResponse(schema=f'{{"name": "{self.NAME}", "version": "{self.VERSION}"}}')

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return pb.CheckResponse(inputs=request.news)

    @answering()
    def Invoke(self, request: Any, context: Any) -> Any:
        what = request.type if hasattr(request, "type") else request.tok
        raise ValueError(f"the {self.NAME} stand-in does not support {what}: declare plain resources")

    Call = Construct = Invoke

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()


def unmoved(request: Any, name: str, settings: set[str]) -> Any:
    """DiffConfig: `settings` that lead elsewhere mean other objects; the others change nothing."""
    old, new = (protos.reveal(protos.decode(bag)) for bag in (request.olds, request.news))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if moved := settings & set(changed):
        raise ValueError(f"the {name} stand-in does not move a stack ({moved} changed): destroy it first")
    some = pb.DiffResponse.DIFF_SOME if changed else pb.DiffResponse.DIFF_NONE
    return pb.DiffResponse(changes=some, diffs=changed)


def diff_response(paths: Mapping[str, str], replaces: Sequence[str], delete_first: bool) -> Any:
    """What the engine is told of the changed `paths`."""
    detailed = {
        path: pb.PropertyDiff(kind=_KINDS[how][path in replaces], inputDiff=how == "delete")
        for path, how in paths.items()
    }
    some = pb.DiffResponse.DIFF_SOME if paths else pb.DiffResponse.DIFF_NONE
    return pb.DiffResponse(
        changes=some,
        replaces=replaces,
        deleteBeforeReplace=delete_first,
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def main(servicer: type[Servicer], arguments: list[str]) -> None:
    """Serve until the engine ends the process."""
    if arguments == ["--version"]:
        print(f"v{servicer.VERSION} (stand-in)")
        return
    if not arguments:
        raise SystemExit(f"usage: pulumi-resource-{servicer.NAME} ENGINE_ADDRESS (started by the pulumi command)")
    protos.serve(lambda server: rpc.add_ResourceProviderServicer_to_server(servicer(), server))
