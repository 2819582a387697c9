"""Kubernetes' resource quantities."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_SUFFIX: dict[str, Decimal | int] = {"m": Decimal("0.001"), "": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_SUFFIX |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(value: Any) -> Decimal | None:
    """A quantity as a number: cores, bytes (the API server gives `1000m` back as `1`); None if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(value))
    return Decimal(match[1]) * _SUFFIX[match[2]] if match and match[2] in _SUFFIX else None
