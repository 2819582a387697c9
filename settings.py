"""The only reader of the stack's configuration."""

from __future__ import annotations

from datetime import datetime

import pulumi
from pulumi.runtime import config as runtime_config

from core import checks
from core.model import Settings


def load(now: datetime) -> Settings:
    """Settings of the selected stack, as they are in force at `now`; warnings go to the update's diagnostics.

    Raises `pulumi.RunError` (one line per problem, no traceback) before any resource is registered.
    """
    everything = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    try:
        settings, warnings = checks.parse(checks.raw(everything, pulumi.get_project()))
    except checks.SettingsError as error:
        raise pulumi.RunError(str(error)) from error
    for warning in warnings:
        pulumi.log.warn(warning)
    return settings.at(now)


def cluster_access() -> tuple[str | None, str | None]:
    """(context, kubeconfig) that the Kubernetes provider uses; None leaves it to the environment."""
    config = pulumi.Config("kubernetes")
    return config.get("context"), config.get("kubeconfig")
