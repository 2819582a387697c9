"""Counts the project's Python lines in its three shares, beside what was agreed for two of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lab.paths import ROOT

PRODUCT = ("components", "core", "policies", "rollout")
AGREED = 4000  # of the product and of the lab each; tests may grow with what they cover


def lines(paths: Iterable[Path]) -> int:
    """Lines of all files, blank ones and comments included."""
    return sum(len(path.read_text().splitlines()) for path in paths)


def main() -> None:
    """Prints the counts."""
    files = {
        "product": [*ROOT.glob("*.py"), *(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))],
        "lab": [*(ROOT / "lab").rglob("*.py")],
        "tests": [*(ROOT / "tests").rglob("*.py")],
    }
    counts = {name: lines(paths) for name, paths in files.items()}
    over = ", ".join(name for name in ("product", "lab") if counts[name] > AGREED)
    print("lines of Python: " + ", ".join(f"{name} {count}" for name, count in counts.items()), end="")
    print(f" (agreed: {AGREED} each for product and lab{f'; OVER: {over}' if over else ''})")


if __name__ == "__main__":
    main()
