"""A stack with an edge, in parts that tests change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core import checks
from core.model import Settings

Make = Callable[..., Settings]


def raw(weight: int = 5, **edge: Any) -> dict[str, Any]:
    """A raw configuration with an edge."""
    own = {"aliases": ["shop.lab.test"], "certificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1", **edge}
    return {
        "weight": weight,
        "services": {
            "web": {
                "stable": {"image": "sample-web:1.0"},
                "canary": {"image": "sample-web:2.0"},
                "hosts": ["shop.lab.test"],
                "rules": [
                    {"name": "qa", "headers": {"x-canary": "true"}},
                    {"name": "first-users", "users": ["1", "2"]},
                ],
            }
        },
        "edge": own,
        "originSecret": "origin-secret-of-the-tests",
    }


@pytest.fixture
def make() -> Make:
    """Settings with an edge: weight and keys of `canary:edge`, the service's canary image, and top-level keys."""

    def made(
        weight: int = 5, canary: str = "sample-web:2.0", top: dict[str, Any] | None = None, **edge: Any
    ) -> Settings:
        config = raw(weight, **edge) | (top or {})
        config["services"]["web"]["canary"]["image"] = canary
        settings, warnings = checks.parse(config)
        assert not warnings
        return settings

    return made
