"""Which host process a container image stands for. There are no containers: the lab knows a handful of images by name
and refuses all others as a registry would refuse an image that it does not have."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from lab import parts, real_mesh, toolchain
from lab.kube import Json
from lab.namespace import python_path

# Images whose work the lab does otherwise or not at all: no process, ready at once. `lab parts` lists them.
_PAUSED = {"install-cni", "pause"}
# Real programs, built when first asked for; see `lab.flagger_charts`.
_FLAGGER = {"flagger", "flagger-loadtester"}
SAMPLES = {"sample-web": "lab.sample_app", "sample-grpc": "lab.sample_grpc"}
_VERSION = r"v?\d+(\.\d+)*"
_SAMPLE_TAG = re.compile(rf"{_VERSION}(-(slow|fail\d{{0,2}}|above\d+|crash|unready))*")
_PASSED_ON = re.compile("PATH|HOME|LANG|LC_.*|TMPDIR|KUBECONFIG|VIRTUAL_ENV|LAB_PARTS|LAB_STANDINS|CANARY_CACHE")
# Istio's images: their role where Istio's own programs are found, and the stand-in otherwise.
_MESH = {
    "pilot": ("discovery", ("lab.istiod",)),
    "proxyv2": ("proxy", ("lab.proxy",)),
    "auto": ("proxy", ("lab.proxy",)),
    "ztunnel": ("ztunnel", ("lab.proxy", "--role", "ztunnel")),
}


class PullError(Exception):
    """The image is not there, in a registry's words."""


@dataclass(frozen=True)
class Start:
    """A host process."""

    arguments: list[str]
    environment: dict[str, str]


def repository_and_tag(image: str) -> tuple[str, str]:
    """`registry:5000/team/web:1.0@sha256:…` → (`web`, `1.0`); the tag is `latest` where there is none."""
    name = image.partition("@")[0].rpartition("/")[2]
    repository, _, tag = name.partition(":")
    return repository, tag or "latest"


def start_of(pod: Json, container: Json, env: Mapping[str, str], address: str) -> Start | None:
    """The process of one container; None if the image needs none. PullError if there is no such image."""
    image = str(container.get("image", ""))
    repository, tag = repository_and_tag(image)
    if repository in _PAUSED:
        return None
    meta = pod["metadata"]
    given = {
        **{name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)},
        "PYTHONPATH": python_path(),
        "POD_IP": address,
        "POD_NAME": meta["name"],
        "POD_NAMESPACE": meta["namespace"],
        "POD_LABELS": json.dumps(meta.get("labels") or {}),
        "IMAGE_TAG": tag,
        **env,
    }
    command = [str(word) for word in container.get("command") or []]
    words = [str(word) for word in container.get("args") or []]
    if repository in SAMPLES:
        if not _SAMPLE_TAG.fullmatch(tag):
            raise PullError(f'failed to pull image "{image}": manifest unknown: {repository} has no tag "{tag}"')
        return Start([*(command or _module(SAMPLES[repository])), *words], given)
    if repository in _FLAGGER:
        program = toolchain.cached("loadtester") if repository == "flagger-loadtester" else parts.find("flagger")
        if program is None:
            raise PullError(f'failed to pull image "{image}": not built: run `python -m lab flagger`')
        given["PATH"] = f"{program.parent}{os.pathsep}{given.get('PATH', os.defpath)}"  # the load tester starts hey
        access = [f"-kubeconfig={given['KUBECONFIG']}"] if repository == "flagger" else []
        return Start([str(program), *command[1:], *words, *access], given)
    if repository in _MESH:
        role, stand_in = _MESH[repository]
        return Start(real_mesh.command(role, words) if real_mesh.available() else _module(*stand_in), given)
    raise PullError(f'failed to pull image "{image}": not found: lab/images.py knows no process for it')


def _module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-u", "-m", name, *words]
