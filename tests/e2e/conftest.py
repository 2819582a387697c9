"""The lab, its stack, and what every end-to-end test needs of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.paths import LAB, ROOT
from lab.stack import Stack

STATE = LAB / "pulumi-state" / ".pulumi" / "stacks" / "canary" / "lab.json"


BESIDE_THE_ALARM = ("test_golden_routing", "test_pods", "test_replicas")
"""Modules that leave the lab's stack alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An alarm takes two minutes to ring, in which nothing may touch the stack: these run meanwhile."""
    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    beside = [item for item in ours if item.path.stem in BESIDE_THE_ALARM]
    others = [item for item in items if item not in beside]
    rings = [item for item in ours if item.path.stem == "test_alerts"][1:]
    if rings:
        at = others.index(rings[0])
        items[:] = [*others[:at], *beside, *others[at:]]


class Rested(Stack):
    """The lab's stack, which can be brought to where a test begins; by no update at all if it is there."""

    left: tuple[str, int] | None = None
    """The stack file, and when the state was written, as this class left them."""

    def _deploy(self) -> bool:
        """Deploys the stack file; False when rules forbid it from here."""
        wanted = self.file.read_text()
        if self.left != (wanted, STATE.stat().st_mtime_ns):
            if self.up().code:
                return False
            self.left = wanted, STATE.stat().st_mtime_ns
        return True

    def _be(self, **changes: Any) -> None:
        self.reset()
        self.edit(**changes)
        if not self._deploy():
            # A test promoted, or broke the mesh: start over.
            self.destroy().check()
            self.up().check()

    def rest(self) -> None:
        """sample-web:1.0 serves everybody and there is no canary and no edge: the checkout's stack file, deployed."""
        self._be()

    def alone(self) -> None:
        """The mesh without a service."""
        self._be(services=None)

    def five(self) -> None:
        """The same, and sample-web:2.0 has 5 %."""

        def risen() -> bool:
            self.reset()
            self.service(canary={"image": "sample-web:2.0"})
            self.edit(weight=5)
            return self._deploy()

        if not risen():
            self.rest()
            assert risen()


@pytest.fixture(scope="session")
def lab() -> None:
    """The running lab."""
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=ROOT, check=True)


@pytest.fixture(scope="session")
def deployed(lab: None) -> Rested:
    """The lab's stack; what an earlier run left is gone with the first rest."""
    return Rested(LAB / "tests.yaml")


@pytest.fixture
def stack(deployed: Rested) -> Stack:
    """The stack at rest."""
    deployed.rest()
    return deployed


@pytest.fixture
def at_five(deployed: Rested) -> Stack:
    """The stack with canary at 5 %."""
    deployed.five()
    return deployed
