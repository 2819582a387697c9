"""The edge nodes as a part of the lab: how they are started, and where they listen."""

from __future__ import annotations

import sys

from lab import aws, namespace, parts
from lab.control_plane import Command
from lab.edge import NODES


def command() -> Command | None:
    """Both nodes; None where nginx or its module is missing, as `lab parts` says."""
    if parts.find("nginx") is None or parts.find("ngx_http_js_module.so") is None:
        return None
    settings = {"PYTHONPATH": namespace.python_path(), **aws.ENVIRONMENT}
    return Command("edge", [sys.executable, "-u", "-m", "lab.edge.watch"], settings)


def urls(gateway: str) -> dict[str, str]:
    """Addresses of both nodes by the name that `.lab/env` gives them; the host is the gateway's."""
    there = command() is not None
    return {f"{name.upper()}_URL": f"{gateway}:{port}" if there else "" for name, port in NODES.items()}
