"""The rules as policies of Pulumi's SDK.  All look at the whole stack: a resource alone does not show a way down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import MessageToDict
from pulumi.runtime import proto
from pulumi_policy import EnforcementLevel, PolicyConfigSchema, PolicyPack, StackValidationPolicy, policy
from pulumi_policy.deserialize import deserialize_properties
from pulumi_policy.proxy import UnknownValueError, unknown_checking_proxy

from policies import edge, routing, workloads
from policies.facts import RULES, Mild, Rule, Stack, Thing, kind_of

MODULES = (routing, workloads, edge)
"""Whose import states the rules."""

KINDS = {kind for rule in RULES for kind in rule.kinds} | {
    "AuthorizationPolicy", "Canary", "DestinationRule", "GRPCRoute", "Gateway", "HTTPRoute", "LogDeliverySource",
    "PodDisruptionBudget", "Service",
}  # fmt: skip
"""All that any rule reads."""

MANDATORY, ADVISORY = EnforcementLevel.MANDATORY, EnforcementLevel.ADVISORY

_told: list[tuple[str, str]] = []
_unread: list[tuple[str, str]] = []
"""(text, URN) of what is left to the two policies that come last."""


def _policy(rule: Rule) -> StackValidationPolicy:
    def validate(args: Any, report: Callable[..., Any]) -> None:
        stack = args.resources if isinstance(args.resources, Stack) else seen(args.resources)
        for one in stack.of(*rule.kinds):
            try:
                for text in rule.faults(stack, one, args.get_config()):
                    if rule.mandatory and isinstance(text, Mild):
                        _told.append((f"{rule.name}: {text}", one.urn))
                    else:
                        report(text, one.urn)
            except UnknownValueError as error:
                _unread.append((f"{rule.name}: {error.message}", one.urn))
            except Exception as error:  # noqa: BLE001 - whatever stands in an object, it must not stop a way down
                _unread.append((f"{rule.name}: {type(error).__name__}: {error}", one.urn))

    schema = PolicyConfigSchema({key: dict(one) for key, one in rule.config.items()}) if rule.config else None
    return StackValidationPolicy(rule.name, rule.text, validate, MANDATORY if rule.mandatory else ADVISORY, schema)


def _last(name: str, text: str, left: list[tuple[str, str]]) -> StackValidationPolicy:
    def validate(args: Any, report: Callable[..., Any]) -> None:
        while left:
            report(*left.pop(0))

    return StackValidationPolicy(name, text, validate, ADVISORY)


POLICIES = [
    *map(_policy, RULES),
    _last("way-down-first", "While a route goes down, and of what is at rest, a fault is told and not refused.", _told),
    _last(
        "not-checked", "What cannot be read is not checked: a preview does not know all that the update will.", _unread
    ),
]


def seen(resources: Any) -> Stack:
    """The stack in the resources that the SDK hands to a policy."""
    return Stack(
        Thing(one.urn, kind_of(one.resource_type), one.props, frozenset(need.urn for need in one.dependencies))
        for one in resources
    )


class _ReadingOnce(policy._PolicyAnalyzerServicer):
    """The SDK's server reads all resources anew for each policy: two dozen times what this takes."""

    def Remediate(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol names the methods
        return proto.RemediateResponse()

    def AnalyzeStack(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = proto.AnalyzeResponse()
        stack: Any = Stack(
            Thing(
                one.urn,
                kind_of(one.type),
                unknown_checking_proxy(deserialize_properties(MessageToDict(one.properties))),
                frozenset(one.dependencies),
            )
            for one in request.resources
            if kind_of(one.type) in KINDS
        )
        for one in POLICIES:
            level = self._get_enforcement_level(one)
            if level is not EnforcementLevel.DISABLED:
                report = self._create_report_violation(response, one.name, one.description, level, one.severity)
                one.validate(policy.StackValidationArgs(stack, self._get_policy_config(one.name)), report)
        return response


def serve() -> None:
    """Answers the engine until it ends the process."""
    policy._PolicyAnalyzerServicer = _ReadingOnce  # type: ignore[misc]
    PolicyPack("canary", [*POLICIES], ADVISORY)
