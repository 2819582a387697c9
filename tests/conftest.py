"""Options and fixtures that all tests share."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest

# No test asserts a wall time, and a deadline of an example is one.
hypothesis.settings.register_profile("unhurried", parent=hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing them")
    parser.addoption("--repeat", type=int, default=1, help="how often to run what tests/e2e/test_promotion.py runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes seconds fails before what takes minutes begins."""
    items.sort(key=lambda item: item.get_closest_marker("lab") is not None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `attempt` runs as often as `--repeat` says."""
    if "attempt" in metafunc.fixturenames:
        metafunc.parametrize("attempt", range(1, metafunc.config.getoption("--repeat") + 1))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True when golden files are to be renewed."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def web() -> dict[str, Any]:
    """A raw configuration with one service that is rolling out; tests change one thing in it."""
    return {
        "namespace": "shop",
        "weight": 5,
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
    }
