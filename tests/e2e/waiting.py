"""Waiting for what has to come, with a bound after which it is taken for lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(holds: Callable[[], Any], what: str, within: float = 60) -> Any:
    """What `holds` gives, once that is something."""
    deadline = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.2)
    return found
