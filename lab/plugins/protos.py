"""Pulumi's protobuf stubs without the SDK around them, and property values as plain Python.

Importing `pulumi` takes about 0.3 s, which every `pulumi up` would pay once per plugin. The generated stubs need
only grpc and protobuf, so the packages above them are registered empty and their `__init__` never runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf import struct_pb2

JSON = dict[str, Any]

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_UNKNOWNS = (  # of a string (also sent for all kinds), bool, number, list, asset, archive and object
    "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
)


def stub(name: str) -> Any:
    """The generated module `pulumi.runtime.proto.<name>`."""
    if "pulumi" not in sys.modules:
        spec = importlib.util.find_spec("pulumi")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"the Pulumi SDK is not installed for {sys.executable}: pip install pulumi")
        folder = spec.submodule_search_locations[0]
        for package in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
            module = types.ModuleType(package)
            module.__path__ = [folder + package.removeprefix("pulumi").replace(".", "/")]
            sys.modules[package] = module
    return importlib.import_module(f"pulumi.runtime.proto.{name}")


def serve(register: Callable[[Any], None], at_end: Callable[[], None] = lambda: None) -> NoReturn:
    """Serve gRPC on a free loopback port, print the port as the engine expects, wait for the end."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=unlimited)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT is how the engine closes a plugin
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    at_end()
    sys.stderr.flush()
    os._exit(0)  # no call is open any more, and tearing down grpc's threads takes longer than the calls did


class _Unknown:
    def __repr__(self) -> str:
        return "<unknown>"

    def __deepcopy__(self, _memo: object) -> _Unknown:
        return self


UNKNOWN = _Unknown()  # a value that only the update will know


@dataclass(frozen=True)
class Secret:
    """A value that the state file keeps encrypted."""

    value: Any


def decode(message: struct_pb2.Struct) -> JSON:
    """A property bag as Python values; secrets and unknowns stay marked."""
    return {key: _decode(value) for key, value in message.fields.items()}


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        fields = value.struct_value.fields
        if _SIGNATURE not in fields:
            return decode(value.struct_value)
        if fields[_SIGNATURE].string_value != _SECRET:
            raise ValueError("the stand-in takes plain and secret values only, not assets or archives")
        return Secret(_decode(fields["value"]))
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "number_value":
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWNS else value.string_value
    return value.bool_value if kind == "bool_value" else None


def encode(bag: Mapping[str, Any]) -> struct_pb2.Struct:
    """The reverse of `decode`."""
    message = struct_pb2.Struct()
    message.update(_plain(bag))
    return message


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return {_SIGNATURE: _SECRET, "value": _plain(value.value)}
    if value is UNKNOWN:
        return _UNKNOWNS[0]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def reveal(value: Any) -> Any:
    """The same value without secret marks, copied."""
    if isinstance(value, Secret):
        return reveal(value.value)
    if isinstance(value, dict):
        return {key: reveal(item) for key, item in value.items()}
    return [reveal(item) for item in value] if isinstance(value, list) else value


def _contains(value: Any, what: Callable[[Any], bool]) -> bool:
    if isinstance(value, dict | list):
        return any(_contains(item, what) for item in (value.values() if isinstance(value, dict) else value))
    return what(value)


def has_unknown(value: Any) -> bool:
    """Whether something inside is not known before the update."""
    return _contains(reveal(value), lambda item: item is UNKNOWN)


def mark_secrets(out: JSON, like: Mapping[str, Any]) -> JSON:
    """`out` with the parts made secret that are so in `like`."""
    result = dict(out)
    for key, shape in like.items():
        if isinstance(result.get(key), dict) and isinstance(shape, dict):
            result[key] = mark_secrets(result[key], shape)
        elif key in result and _contains(shape, lambda item: isinstance(item, Secret)):
            result[key] = Secret(reveal(result[key]))
    return result
