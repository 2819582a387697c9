"""Flagger and its load tester in the lab: the programs are the real ones, the charts leave behind what theirs leave.

As in `lab.charts`: plain YAML without templating, values are accepted and ignored.  What Flagger's own charts have
besides (RBAC, which the lab's node needs none of) is left out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from lab import parts, toolchain
from lab.monitoring import PROMETHEUS_URL
from lab.namespace import LabError
from lab.paths import LAB, ROOT

FOLDER = LAB / "flagger-charts"
# Chart: version, image, port, further arguments.  All pods share one network namespace, and both programs listen on all
# addresses, so neither may have 8080.
_CHARTS = {
    "flagger": ("1.41.0", "flagger", 19080, ["-mesh-provider=istio", f"-metrics-server={PROMETHEUS_URL}"]),
    "loadtester": ("0.35.0", "flagger-loadtester", 19081, ["-timeout=1h"]),
}


def provide() -> Path:
    """Builds what is missing (minutes, once), writes the charts, and returns their folder: a `flagger.chartSource`."""
    missing = [name for name in toolchain.FLAGGER.provides if parts.find(name) is None]
    build = [sys.executable, "-m", "lab.setup", "--flagger"]
    if missing and subprocess.run(build, cwd=ROOT, check=False).returncode:
        raise LabError(f"{', '.join(missing)} could not be built: see above")
    crds = parts.find("flagger-crds.yaml")
    assert crds is not None
    _write("flagger", {"crds": crds.read_text().replace("{{", '{{ "{{" }}')})
    _write("loadtester", {})
    return FOLDER


def _write(chart: str, templates: dict[str, str]) -> None:
    import yaml

    version, image, port, arguments = _CHARTS[chart]
    labels = {"app": chart, "app.kubernetes.io/name": chart}
    meta = {"name": image, "labels": labels}
    container = {
        "name": chart,
        "image": f"ghcr.io/fluxcd/{image}:{version}",
        "command": [f"./{chart}", f"-port={port}", "-log-level=info", *arguments],
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1},
    }
    pod = {"serviceAccountName": image, "containers": [container]}
    deployment = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment},
    ]
    if chart == "loadtester":
        ports = [{"name": "http", "port": 80, "targetPort": "http"}]
        objects.append(
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}}
        )
    about = {"apiVersion": "v2", "name": chart, "version": version, "appVersion": version, "type": "application"}
    about["description"] = f"The canary lab's stand-in for Flagger's chart {chart}"
    files = {f"{item['kind'].lower()}.yaml": yaml.safe_dump(item, sort_keys=False) for item in objects}
    files |= {f"{name}.yaml": text for name, text in templates.items()}
    folder = FOLDER / chart
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    (folder / "Chart.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    (folder / "values.yaml").write_text("# Values are accepted and ignored: nothing here is templated.\n")
    for file, text in files.items():
        (folder / "templates" / file).write_text(text)
