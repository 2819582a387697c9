"""Stand-ins for the Pulumi plugins that no package registry offers: Python language host, Kubernetes and AWS providers.

`install` writes them as executables; the Pulumi engine finds plugins by name on PATH.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.parts import Part

LANGUAGE = "pulumi-language-python"
LANGUAGE_EXEC = "pulumi-language-python-exec"
KUBERNETES = "pulumi-resource-kubernetes"
AWS = "pulumi-resource-aws"

_MODULES = {LANGUAGE: "language_host", KUBERNETES: "kubernetes_provider", AWS: "aws_provider"}
_WRAPPER = """#!/bin/sh
# Starts the lab's stand-in for {name}; written by `python -m lab up`.
PYTHONPATH="{root}${{PYTHONPATH:+:$PYTHONPATH}}" exec "{python}" -m lab.plugins.start {module} {extra}"$@"
"""


def _exec_file(parts: Mapping[str, Part]) -> Path:
    """The file that runs a Python program for the language host; it comes with the engine's sources."""
    from lab.parts import find  # not above: the plugins import this package, and have to start fast

    beside = [Path(parts[name].path or "").parent / LANGUAGE_EXEC for name in ("pulumi", LANGUAGE) if name in parts]
    for candidate in [Path(os.environ.get("LAB_PULUMI_EXEC", "")), *beside, find(LANGUAGE_EXEC)]:
        if candidate and candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{LANGUAGE_EXEC} is neither beside pulumi nor in the cache: run `python3 -m lab.setup`")


def _link(target: Path, to: Path) -> None:
    target.unlink(missing_ok=True)
    target.symlink_to(to.resolve())


def install(bin_dir: Path, python: Path, parts: Mapping[str, Part]) -> None:
    """Put each plugin where the engine finds it: a stand-in for one that is missing. A real one wins: it is linked."""
    bin_dir.mkdir(parents=True, exist_ok=True)
    for name, module in _MODULES.items():
        target = bin_dir / name
        if name in parts and parts[name].real:
            # A folder of real parts is not on PATH, where the engine looks; the host looks there for its exec file.
            _link(target, Path(parts[name].path or ""))
            if name == LANGUAGE:
                _link(bin_dir / LANGUAGE_EXEC, _exec_file(parts))
            continue
        extra = ""
        if name == LANGUAGE:
            copy = bin_dir / LANGUAGE_EXEC
            text = _exec_file(parts).read_text()
            copy.unlink(missing_ok=True)  # it may be a link to a real part, which is not ours to write
            copy.write_text(text)
            copy.chmod(0o755)
            extra = f'--exec "{copy}" '
        root = Path(__file__).resolve().parents[2]
        text = _WRAPPER.format(name=name, root=root, python=python, module=module, extra=extra)
        partial = target.with_suffix(".new")  # a running engine never sees half a file
        partial.write_text(text)
        partial.chmod(0o755)
        partial.replace(target)
