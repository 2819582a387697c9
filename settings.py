"""The only reader of the stack's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config

from core import checks
from core.model import Settings


def raw(everything: Mapping[str, Any], project: str) -> dict[str, Any]:
    """The project's keys without their prefix; structured values arrive as JSON text, scalars as plain text."""
    found = {}
    for key, value in everything.items():
        namespace, _, name = key.partition(":")
        if namespace == project:
            found[name] = value if name.startswith(checks.SECRET) else _structured(value)
    return found


def _structured(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value  # the model names the key and shows the text
    return value


def load(now: datetime) -> Settings:
    """Settings of the selected stack, as they are in force at `now`; warnings go to the update's diagnostics.

    Raises `pulumi.RunError` (one line per problem, no traceback) before any resource is registered.
    """
    everything = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    try:
        settings, warnings = checks.parse(raw(everything, pulumi.get_project()))
    except checks.SettingsError as error:
        raise pulumi.RunError(str(error)) from error
    for warning in warnings:
        pulumi.log.warn(warning)
    return settings.at(now)


def cluster_access() -> tuple[str | None, str | None]:
    """(context, kubeconfig) that the Kubernetes provider uses; None leaves it to the environment."""
    config = pulumi.Config("kubernetes")
    return config.get("context"), config.get("kubeconfig")
