"""Runs the policy pack over resources without an engine, by the SDK's own classes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pulumi_policy import PolicyResource, StackValidationArgs, StackValidationPolicy
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, unknown_checking_proxy

from policies import pack
from tests.program import Run

Json = dict[str, Any]
UNKNOWN = UNKNOWN_STRING_VALUE
"""What an engine says in a preview of what it does not know yet."""

MANDATORY = [policy.name for policy in pack.POLICIES if policy.enforcement_level is pack.MANDATORY]


@dataclass(frozen=True)
class Said:
    """One violation."""

    policy: str
    text: str
    urn: str

    @property
    def refused(self) -> bool:
        """True when it stops an update."""
        return self.policy in MANDATORY


def named(name: str) -> StackValidationPolicy:
    """The policy of that name."""
    return next(policy for policy in pack.POLICIES if policy.name == name)


def resource(kind: str, name: str, props: Json, needs: Iterable[str] = (), stack: str = "prod") -> PolicyResource:
    """A resource of the type token `kind`; `needs` are names that it depends on, filled in by `said`.

    As from an engine, every number is a float.
    """
    urn = f"urn:pulumi:{stack}::canary::{kind}::{name}"
    told = unknown_checking_proxy(json.loads(json.dumps(props), parse_int=float))
    found = PolicyResource(kind, told, urn, name, None, None, None, [], {})  # type: ignore[arg-type]
    found.dependencies = list(needs)  # type: ignore[arg-type]
    return found


def said(resources: Iterable[PolicyResource], config: Mapping[str, Json] | None = None) -> list[Said]:
    """What all policies say of these resources, in order."""
    found: list[Said] = []
    linked = [copy.copy(one) for one in resources]
    by_name: dict[str, list[PolicyResource]] = {}
    for one in linked:
        by_name.setdefault(one.name, []).append(one)
    for one in linked:
        one.dependencies = [need for name in one.dependencies for need in by_name.get(str(name), [])]
    for policy in pack.POLICIES:
        args = StackValidationArgs(linked, (config or {}).get(policy.name))
        policy.validate(args, lambda text, urn=None, policy=policy: found.append(Said(policy.name, text, urn or "")))  # type: ignore[misc]
    return found


def refused(resources: Iterable[PolicyResource], config: Mapping[str, Json] | None = None) -> list[Said]:
    """What would stop the update."""
    return [one for one in said(resources, config) if one.refused]


def of_run(run: Run, stack: str = "prod") -> list[PolicyResource]:
    """The resources of a run of the program, with the ids and outputs that an engine shows the pack."""
    found = [
        resource(one.type, one.name, one.inputs | {"id": f"{one.name}-id"}, one.depends_on, stack)
        for one in run.resources
    ]
    return [resource("pulumi:pulumi:Stack", "canary-test", dict(run.outputs), (), stack), *found]


def of_manifests(manifests: Iterable[Json], stack: str = "prod") -> list[PolicyResource]:
    """Kubernetes objects as resources."""
    found = []
    for one in manifests:
        group = one["apiVersion"] if "/" in one["apiVersion"] else f"core/{one['apiVersion']}"
        title = "-".join(filter(None, (one["metadata"].get("namespace"), one["metadata"]["name"], one["kind"])))
        found.append(resource(f"kubernetes:{group}:{one['kind']}", title, one, (), stack))
    return found
