"""The lab, its stack, and what every end-to-end test needs of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab.paths import LAB, ROOT
from lab.stack import Stack


@pytest.fixture(scope="session")
def lab() -> None:
    """The running lab."""
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=ROOT, check=True)


@pytest.fixture(scope="session")
def deployed(lab: None) -> Iterator[Stack]:
    """The lab's stack, deployed anew from the checkout's stack file."""
    stack = Stack(LAB / "tests.yaml")
    stack.reset()
    if stack.resources():
        stack.destroy().check()
    stack.up().check()
    yield stack


@pytest.fixture
def stack(deployed: Stack) -> Iterator[Stack]:
    """The stack at rest: sample-web:1.0 serves everybody and there is no canary.

    Each test leaves by the way users have: down to 0, then the former state.
    """
    _rest(deployed)
    yield deployed
    _rest(deployed)


def _rest(stack: Stack) -> None:
    stack.reset()
    found = stack.up()
    if found.code:
        # A test may leave the stack where rules forbid the direct way (another stable): start over.
        stack.destroy().check()
        stack.up().check()
