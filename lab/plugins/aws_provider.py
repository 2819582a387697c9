"""Stand-in for `pulumi-resource-aws` 7.51.1: the provider's gRPC face, for the types of the edge and no others.

It speaks to the address in AWS_ENDPOINT_URL and to nothing else.  What it does not support is an error, never ignored.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from typing import Any

from google.protobuf import empty_pb2

from lab.plugins import diff, protos, serving
from lab.plugins.aws_resources import KINDS, Aws, Kind, Refused, Unfinished
from lab.plugins.aws_schema import aligned, checked
from lab.plugins.protos import JSON, UNKNOWN, mark_secrets, reveal
from lab.plugins.serving import Partial, pb

_KNOWN = {"region", "version", "pluginDownloadURL"}
_DEFAULTS = "__defaults"
_answering = serving.answering()


class Provider(serving.Servicer):
    """One provider process serves one region."""

    NAME, VERSION = "aws", "7.51.1"

    def __init__(self) -> None:
        self._aws: Aws | None = None

    @_answering
    def DiffConfig(self, request: Any, context: Any) -> Any:
        return serving.unmoved(request, self.NAME, {"region"})

    @_answering
    def Configure(self, request: Any, context: Any) -> Any:
        settings = {key.rpartition(":")[2]: value for key, value in request.variables.items() if value}
        if unknown := settings.keys() - _KNOWN - {key for key in settings if key.startswith("skip")}:
            raise ValueError(f"the aws stand-in does not support the provider settings {sorted(unknown)}")
        region = settings.get("region") or os.environ.get("AWS_REGION")
        if not region:
            raise ValueError("aws:region is missing, and AWS_REGION too: `pulumi config set aws:region`")
        if not os.environ.get("AWS_ENDPOINT_URL"):
            raise ValueError("AWS_ENDPOINT_URL is missing, and the aws stand-in does not speak to AWS: run in the lab")
        self._aws = aws = Aws(region)
        # Most updates write keys, and this takes longer than the writing: it goes on beside the program's start.
        threading.Thread(target=lambda: aws.client("cloudfront-keyvaluestore"), daemon=True).start()
        return pb.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def _kind(self, urn: str) -> Kind:
        token = urn.split("::")[2].rpartition("$")[2]
        if token not in KINDS:
            raise ValueError(f"the aws stand-in does not support {token}; use the real provider")
        if self._aws is None:
            raise ValueError("the provider was not configured")
        return KINDS[token](self._aws)

    @_answering
    def Check(self, request: Any, context: Any) -> Any:
        kind = self._kind(request.urn)
        news, olds = protos.decode(request.news), protos.decode(request.olds)
        named = "name!" not in kind.schema or news.get("name") is not None
        if not named:
            same = "name" in olds.get(_DEFAULTS, []) and olds.get("name")
            news["name"] = same or _name(request.urn.rpartition("::")[2], request.randomSeed)
        problems: list[tuple[str, str]] = []
        inputs = mark_secrets(checked(kind.schema, _inputs(news), "", problems), news)
        if not named:
            inputs[_DEFAULTS] = ["name"]
        failures = [pb.CheckFailure(property=path, reason=text) for path, text in problems]
        return pb.CheckResponse(inputs=protos.encode(inputs), failures=failures)

    @_answering
    def Diff(self, request: Any, context: Any) -> Any:
        kind = self._kind(request.urn)
        state, new = (_inputs(protos.decode(bag)) for bag in (request.olds, request.news))
        old = {key: value for key, value in state.items() if key not in kind.computed}
        paths = diff.changes(*aligned(kind.schema, old, new))
        replaces = diff.replacements(paths, kind.forced)
        # A name of the user's own cannot be there twice.
        own = "name" in new and "name" not in protos.decode(request.news).get(_DEFAULTS, [])
        return serving.diff_response(paths, replaces, bool(replaces) and own)

    @_answering
    def Create(self, request: Any, context: Any) -> Any:
        kind, inputs = self._kind(request.urn), protos.decode(request.properties)
        plain = _inputs(inputs)
        if request.preview:
            return pb.CreateResponse(properties=protos.encode(_state(inputs, dict.fromkeys(kind.computed, UNKNOWN))))
        try:
            identity = kind.create(plain, request.timeout)
            _, state = _recorded(kind, inputs, kind.read(identity, plain) or {})
        except Unfinished as error:
            raise Partial(error.identity, str(error), _state(inputs, {}), error, inputs) from error
        return pb.CreateResponse(id=identity, properties=protos.encode(state))

    @_answering
    def Read(self, request: Any, context: Any) -> Any:
        kind, state = self._kind(request.urn), protos.decode(request.properties)
        old = protos.decode(request.inputs)
        if not state:
            raise ValueError(f"the aws stand-in imports nothing: {request.id}; use the real provider")
        found = kind.read(request.id, _inputs(state))
        if found is None:
            return pb.ReadResponse()
        inputs, outputs = _recorded(kind, old, found)
        return pb.ReadResponse(id=request.id, inputs=protos.encode(inputs), properties=protos.encode(outputs))

    @_answering
    def Update(self, request: Any, context: Any) -> Any:
        kind, state = self._kind(request.urn), protos.decode(request.olds)
        inputs = protos.decode(request.news)
        if request.preview:
            return pb.UpdateResponse(properties=protos.encode({**state, **_state(inputs, {})}))
        plain = _inputs(inputs)
        try:
            kind.update(request.id, _inputs(state), plain)
            found = kind.read(request.id, plain)
        except Refused as error:
            left = {**state, **_state(inputs, {})} if kind.plans else state
            raise Partial(request.id, str(error), left, error, inputs) from error
        if found is None:
            raise ValueError(f"updating {kind.title} ({request.id}): it is gone; `pulumi refresh`, then again")
        return pb.UpdateResponse(properties=protos.encode(_recorded(kind, inputs, found)[1]))

    @_answering
    def Delete(self, request: Any, context: Any) -> Any:
        self._kind(request.urn).delete(request.id, _inputs(protos.decode(request.properties)))
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        if self._aws:
            self._aws.cancelled.set()
        return empty_pb2.Empty()


def _name(name: str, seed: bytes) -> str:
    """The resource's own name and seven hexadecimal digits, as from the real provider."""
    return f"{name}-{hashlib.sha256(seed).hexdigest()[:7] if seed else secrets.token_hex(4)[:7]}"


def _inputs(bag: JSON) -> JSON:
    """The plain values of a bag."""
    return {key: value for key, value in reveal(bag).items() if key != _DEFAULTS}


def _state(inputs: JSON, more: JSON) -> JSON:
    """Outputs: the inputs, their secrets kept, and more."""
    return {**{key: value for key, value in inputs.items() if key != _DEFAULTS}, **more}


def _recorded(kind: Kind, inputs: JSON, found: JSON) -> tuple[JSON, JSON]:
    """(inputs, outputs) as AWS has them; as they were written, where AWS has the same in another order."""
    live = {key: value for key, value in found.items() if key not in kind.computed}
    if diff.changes(*aligned(kind.schema, _inputs(inputs), live)):
        defaults = {_DEFAULTS: inputs[_DEFAULTS]} if _DEFAULTS in inputs else {}
        inputs = mark_secrets(live, inputs) | defaults
    return inputs, _state(inputs, {key: value for key, value in found.items() if key in kind.computed})


def main(arguments: list[str]) -> None:
    """Serve until the engine ends the process."""
    serving.main(Provider, arguments)
