"""Runs the whole program against a recording engine: no CLI, no cluster."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pulumi
import yaml
from google.protobuf import json_format
from pulumi.runtime import mocks
from pulumi.runtime import settings as runtime_settings

import live

ROOT = Path(__file__).parent.parent
ORIGIN_SECRET = "origin-secret-of-the-tests"
GATEWAY = "gateway-1.elb.eu-central-1.amazonaws.com"
_SECRET = "4dabf18193072939515e22adb298388d"  # by this key the wire tells secrets from other values


@dataclass
class Registration:
    """One registered resource, as the engine sees it."""

    type: str
    name: str
    parent: str
    custom: bool
    inputs: dict[str, Any]
    depends_on: list[str]
    ignored: list[str] = field(default_factory=list)
    """Paths of `ignore_changes`."""
    replaced_on: list[str] = field(default_factory=list)
    """Paths of `replace_on_changes`."""
    deleted_first: bool = False


@dataclass
class Run:
    """What one run of the program did."""

    resources: list[Registration] = field(default_factory=list)
    completed: set[str] = field(default_factory=set)
    outputs: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    """What the engine was asked and had answered, in order, as far as the order matters."""

    def of(self, kind: str) -> dict[str, Registration]:
        """Resources whose type ends with `kind`, by name."""
        return {one.name: one for one in self.resources if one.type.endswith(f":{kind}")}

    def spec(self, kind: str, name: str) -> Any:
        """The spec of one Kubernetes object."""
        return self.of(kind)[name].inputs["spec"]


class _Monitor(mocks.MockMonitor):
    def __init__(self, run: Run, recorded: Mapping[str, Any]) -> None:
        super().__init__(_Mocks(recorded))
        self._run = run

    def Invoke(self, request: Any) -> Any:  # noqa: N802 - the name is gRPC's
        self._run.calls.append(f"asked {request.tok}")
        return super().Invoke(request)  # type: ignore[no-untyped-call]

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the name is gRPC's
        inputs = json_format.MessageToDict(request.object)
        if request.type != "pulumi:pulumi:Stack":
            names = sorted({urn.rpartition("::")[2] for urn in request.dependencies})
            parent = request.parent.rpartition("::")[2]
            again = list(request.replaceOnChanges), request.deleteBeforeReplace
            self._run.resources.append(
                Registration(
                    request.type,
                    request.name,
                    parent,
                    request.custom,
                    _whole(inputs),
                    names,
                    list(request.ignoreChanges),
                    *again,
                )
            )
        else:
            time.sleep(0.02)  # long enough for a program that does not wait to get ahead
            self._run.calls.append("registered the stack")
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 - the name is gRPC's
        self._run.completed.add(request.urn.rpartition("::")[2])
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


class _Callbacks:
    """Where the engine would learn of the program's own functions, which nobody calls here."""

    def register_error_hook(self, hook: pulumi.ErrorHook) -> None:
        assert hook.name == "why"


class _Mocks(mocks.Mocks):
    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self._recorded = recorded

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if args.resource_id == "istio-ingress/istio-ingressgateway":  # read, as a cluster at a cloud shows it
            return args.resource_id, {"status": {"loadBalancer": {"ingress": [{"hostname": GATEWAY}]}}}
        if args.typ.startswith("aws:"):
            added = {"name": f"{args.name}-1a2b3c4", "arn": f"arn:aws:{args.name}", "domainName": "d1.cloudfront.net"}
            return f"{args.name}-id", {**args.inputs, **added}
        return f"{args.name}-id", args.inputs

    def call(self, args: mocks.MockCallArgs) -> Any:
        return {"outputs": self._recorded}


def _whole(value: Any) -> Any:
    """Numbers travel as floats; whole ones are written whole.  Secret values show as a word."""
    if isinstance(value, dict) and _SECRET in value:
        return "(secret)"
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def without_times(text: str) -> str:
    """Times of the run replaced by a word."""
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "(time of the update)", text)


def stack_config(stack: str, *, edge: bool = True) -> dict[str, Any]:
    """The configuration of a stack file of the checkout or of the tests; `edge=False` leaves its edge out."""
    files = [ROOT / "tests" / "stacks" / f"{stack}.yaml", ROOT / f"Pulumi.{stack}.yaml"]
    found: dict[str, Any] = yaml.safe_load(next(one for one in files if one.exists()).read_text())["config"]
    left_out = () if edge else ("canary:edge", "canary:originSecret")
    return {
        key: ORIGIN_SECRET if key == "canary:originSecret" else value
        for key, value in found.items()
        if key not in left_out
    }


def recorded_from(run: Run) -> dict[str, Any]:
    """What the engine would have recorded of `run`."""
    return {
        f"urn:{one.name}": {"type": one.type, "outputs": {**one.inputs, "__inputs": one.inputs}}
        for one in run.resources
        if one.custom
    }


def run(
    config: Mapping[str, Any],
    *,
    recorded: Mapping[str, Any] | None = None,
    seen: live.Live | None = None,
    result: Run | None = None,
) -> Run:
    """Runs `__main__.py` with `config` (keys as in a stack file) over what an earlier update `recorded`.

    `result` is for a run that fails: it shows what was done until then.
    """
    result = result or Run()
    flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    asyncio.set_event_loop(asyncio.new_event_loop())
    mocks.set_mocks(_Mocks({}), project="canary", stack="test", monitor=_Monitor(result, recorded or {}))
    runtime_settings.SETTINGS.callbacks = _Callbacks()
    pulumi.runtime.set_all_config(flat)

    def program() -> pulumi.Output[None]:
        with mock.patch.object(live, "read", return_value=seen or live.Live()):
            told = runpy.run_path(str(ROOT / "__main__.py")).get("told")
        return pulumi.Output.from_input(told).apply(lambda outputs: result.outputs.update(outputs or {}))

    pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    runtime_settings.reset_options()
    return result
