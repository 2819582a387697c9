"""Prometheus and Alertmanager: their configuration in `.lab/` and their commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab import parts
from lab.control_plane import Command
from lab.namespace import NODE_IP
from lab.paths import LAB

PROMETHEUS_URL = f"http://{NODE_IP}:9090"
ALERTMANAGER_URL = f"http://{NODE_IP}:9093"
TELEMETRY = f"{NODE_IP}:15090"
RULES = LAB / "rules"
TARGETS = LAB / "targets.json"  # pods of sample images, kept current by telemetry

# Debian's Alertmanager reads its templates from an absolute path. Where the package was only unpacked, its files are
# laid over /usr/share, in a mount namespace of this one process.
_OVERLAY = """
mount -t overlay overlay -o "lowerdir=$1:/usr/share" /usr/share || echo "lab: $1 could not be laid over /usr/share" >&2
shift
exec "$@"
"""
_TEMPLATES = "prometheus/alertmanager/default.tmpl"


def prometheus() -> Command | None:
    """None where there is no Prometheus; `lab parts` says what is missed then."""
    path = parts.find("prometheus")
    if path is None:
        return None
    config = LAB / "prometheus.yml"
    RULES.mkdir(exist_ok=True)
    config.write_text(json.dumps(_prometheus(), indent=1))  # JSON is YAML
    flags = [
        f"--config.file={config}",
        f"--storage.tsdb.path={LAB / 'prometheus'}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address={NODE_IP}:9090",
        f"--web.external-url={PROMETHEUS_URL}",
        "--web.enable-lifecycle",
        "--log.level=warn",
    ]
    return Command("prometheus", [str(path), *flags])


def alertmanager() -> Command | None:
    path = parts.find("alertmanager")
    if path is None:
        return None
    config = LAB / "alertmanager.yml"
    config.write_text(json.dumps(_alertmanager(), indent=1))
    flags = [
        f"--config.file={config}",
        f"--storage.path={LAB / 'alertmanager'}",
        f"--web.listen-address={NODE_IP}:9093",
        f"--web.external-url={ALERTMANAGER_URL}",
        "--cluster.listen-address=",  # one replica: no gossip
        "--log.level=warn",
    ]
    share = path.resolve().parent.parent / "share"
    if (share / _TEMPLATES).exists() and not Path("/usr/share", _TEMPLATES).exists():
        over = ["unshare", "-m", "sh", "-c", _OVERLAY, "overlay", str(share)]
        return Command("alertmanager", [*over, str(path), *flags])
    return Command("alertmanager", [str(path), *flags])


def _prometheus() -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
        "rule_files": [str(RULES / "*.yml"), str(RULES / "*.yaml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [ALERTMANAGER_URL.removeprefix("http://")]}]}]},
        "scrape_configs": [
            # The mesh's metrics carry the labels of what they describe, not of who reports them.
            {"job_name": "istio", "honor_labels": True, "static_configs": [{"targets": [TELEMETRY]}]},
            {"job_name": "pods", "honor_labels": True, "file_sd_configs": [{"files": [str(TARGETS)]}]},
        ],
    }


def _alertmanager() -> dict[str, Any]:
    """No receiver yet: alerts are shown, not sent."""
    return {"route": {"receiver": "none", "group_wait": "1s"}, "receivers": [{"name": "none"}]}
