"""Where the checkout, the run state and the cache of built tools are.

Standard library only: set-up runs before the venv is there.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / ".lab"
VENV = ROOT / ".venv"
TOOLCHAIN = ROOT / "lab" / "toolchain"


def _cache() -> Path:
    wanted = os.environ.get("CANARY_CACHE", "").strip()
    return Path(wanted).expanduser().absolute() if wanted else Path.home() / ".cache" / "canary"


CACHE = _cache()
