"""What a user's shell needs: `.lab/env`, the Pulumi backend with its stack, the plugins and the charts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from lab import aws, charts, monitoring, parts, plugins
from lab.control_plane import binary
from lab.edge import part as edge_part
from lab.namespace import LabError, State, environment, write_atomic
from lab.paths import LAB, ROOT

STACK = "lab"
GATEWAY_URL = "http://shop.lab.test"
MESH_URL = "http://web.shop.svc.cluster.local"
ENV_FILE = LAB / "env"


def prepare(state: State) -> None:
    """Write plugins, charts and `.lab/env`, and remember the environment in `state`."""
    found = {part.name: part for part in parts.all_parts()}
    python = Path(sys.prefix) / "bin" / "python"
    plugins.install(LAB / "bin", python, found)
    state.path_first = [str(LAB / "bin"), str(Path(binary("pulumi")).parent), str(python.parent)]
    backend = LAB / "pulumi-state"
    backend.mkdir(exist_ok=True)
    state.environment = {
        "PULUMI_BACKEND_URL": backend.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "lab",
        "PULUMI_HOME": str(LAB / "pulumi-home"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PYTHONDONTWRITEBYTECODE": "",  # a program's start takes three times as long without byte code
        "KUBECONFIG": str(LAB / "kubeconfig"),
        "GATEWAY_URL": GATEWAY_URL,
        "MESH_URL": MESH_URL,
        **edge_part.urls(GATEWAY_URL),
        "PROMETHEUS_URL": monitoring.PROMETHEUS_URL if found["prometheus"].real else "",
        "ALERTMANAGER_URL": monitoring.ALERTMANAGER_URL if found["alertmanager"].real else "",
        **aws.ENVIRONMENT,
        "LAB_CHARTS": str(_charts()),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in state.environment.items()]
    first = ":".join(state.path_first)
    write_atomic(ENV_FILE, "\n".join([f'export PATH={shlex.quote(first)}:"$PATH"', *lines]) + "\n")


def _charts() -> Path:
    """`.lab/charts`: Istio's own where the user has them, else the lab's."""
    folder = LAB / "charts"
    if folder.is_symlink():
        folder.unlink()
    real = parts.find("charts")
    if real is not None:
        if not folder.exists():
            folder.symlink_to(real)
        return real
    crds = parts.find("crds")
    if crds is None:
        raise LabError("Istio's CRDs were not found in the cache: run `make setup`")
    charts.write(folder, crds / "istio.yaml")
    return folder


def create_stack(state: State) -> None:
    """Make the stack `lab` in the lab's own backend, unless it is there."""
    if (LAB / "pulumi-state" / ".pulumi" / "stacks" / "canary" / f"{STACK}.json").exists():
        return
    done = subprocess.run(
        ["pulumi", "stack", "init", STACK, "--cwd", str(ROOT), "--non-interactive"],
        env=environment(state, os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"`pulumi stack init {STACK}` failed:\n{(done.stderr or done.stdout).strip()}")
