"""The lab, its stack, and what every end-to-end test needs of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab.paths import LAB, ROOT
from lab.stack import Stack, Update


class Rested(Stack):
    """A stack that knows whether it was written to since it was last at rest."""

    touched = True

    def run(self, command: str, *more: str) -> Update:
        """Any CLI command on this stack, inside the lab."""
        self.touched = self.touched or command in ("up", "refresh", "destroy")
        return super().run(command, *more)

    def rest(self) -> None:
        """sample-web:1.0 serves everybody and there is no canary and no edge: the checkout's stack file, deployed."""
        self.reset()
        if not self.touched:
            return
        self.edit(weight=0)
        if self.up().code:
            # Rules may forbid the direct way (a test promoted, or broke the mesh): start over.
            self.destroy().check()
            self.up().check()
        self.touched = False


@pytest.fixture(scope="session")
def lab() -> None:
    """The running lab."""
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=ROOT, check=True)


@pytest.fixture(scope="session")
def deployed(lab: None) -> Rested:
    """The lab's stack, deployed anew: what an earlier run left is gone."""
    stack = Rested(LAB / "tests.yaml")
    stack.reset()
    if stack.resources():
        stack.destroy().check()
    return stack


@pytest.fixture
def stack(deployed: Rested) -> Stack:
    """The stack at rest."""
    deployed.rest()
    return deployed
