"""Counts the project's Python lines in its three shares, and fails when one has outgrown what was agreed for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from lab.paths import ROOT

PRODUCT = ("components", "core", "policies", "rollout")
LIMIT = 4000  # of the product and of the lab each; tests may grow with what they cover


def python_files(folders: Iterable[str]) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def main() -> int:
    shares = {
        "product": [*ROOT.glob("*.py"), *python_files(PRODUCT)],
        "lab": python_files(["lab"]),
        "tests": python_files(["tests"]),
    }
    counts = {name: lines(paths) for name, paths in shares.items()}
    print("lines of Python: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    over = [name for name in ("product", "lab") if counts[name] > LIMIT]
    for name in over:
        print(f"{name} has {counts[name]} lines; at most {LIMIT} are agreed: make it smaller", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
