"""Drives the lab's Pulumi stack the way a user does: edit the stack file, run the CLI, read the outputs."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import namespace
from lab.paths import LAB, ROOT

HUNG = 900
"""Seconds after which a CLI run is taken for hung; the slowest takes two minutes."""


def inside(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(argv, environment) that run `command` inside the lab, from inside or outside."""
    state = namespace.running()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if namespace.inside(state):
        return [*command], namespace.environment(state, os.environ)
    return [sys.executable, "-m", "lab", "exec", "--", *command], {**os.environ, "PYTHONPATH": path}


@dataclass(frozen=True)
class Update:
    """One run of the CLI: exit code, everything it printed, wall seconds."""

    code: int
    text: str
    seconds: float

    def check(self) -> Update:
        """Itself, or an error with what the CLI printed."""
        if self.code:
            raise RuntimeError(f"pulumi ended with exit code {self.code}:\n{self.text}")
        return self


class _Line:
    """An open line to the API server of one lab; a process for each request would cost half a second of it."""

    def __init__(self) -> None:
        argv, environment = inside([sys.executable, "-m", "lab.request"])
        self._child = subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()

    def ask(self, *question: Any) -> dict[str, Any]:
        """One question, one answer; from any thread."""
        assert self._child.stdin is not None and self._child.stdout is not None
        with self._lock:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError("the line to the lab's API server broke off")
        told: dict[str, Any] = json.loads(answer)
        return told


@functools.cache
def _line(network: str) -> _Line:
    return _Line()


def api(method: str, path: str, body: Any = None) -> Any:
    """One request to the lab's API server, from inside the lab or outside; RuntimeError with its message if refused."""
    told = _line(namespace.running().network).ask(method, path, body)
    if "refused" in told:
        raise RuntimeError(told["refused"])
    return told["answer"]


class Stack:
    """The stack `name` of the project in `project`, with a stack file of its own, so that the checkout stays clean."""

    def __init__(self, file: Path | None = None, name: str = "lab", project: Path = ROOT) -> None:
        self.file = file or LAB / "Pulumi.lab.yaml"
        self.name = name
        self.project = project

    def reset(self, edge: bool = False) -> None:
        """Puts the stack file back to the checkout's; without its edge, which has tests of its own."""
        self.file.write_text((ROOT / "Pulumi.lab.yaml").read_text())
        if not edge:
            self.edit(edge=None, originSecret=None)

    def edit(self, **changes: Any) -> None:
        """Sets top-level keys of our configuration, as an edit of the stack file would; None removes one."""
        data = yaml.safe_load(self.file.read_text())
        for key, value in changes.items():
            data["config"].pop(f"canary:{key}", None)
            if value is not None:
                data["config"][f"canary:{key}"] = value
        self.file.write_text(yaml.safe_dump(data, sort_keys=False))

    def service(self, name: str = "web", **changes: Any) -> None:
        """Sets keys of one service; None removes one."""
        data = yaml.safe_load(self.file.read_text())
        service = data["config"]["canary:services"].setdefault(name, {})
        for key, value in changes.items():
            service.pop(key, None)
            if value is not None:
                service[key] = value
        self.file.write_text(yaml.safe_dump(data, sort_keys=False))

    def up(self, *more: str) -> Update:
        """`pulumi up` without a preview of its own."""
        return self.run("up", "--yes", "--skip-preview", "--config-file", str(self.file), *more)

    def preview(self, *more: str) -> Update:
        """`pulumi preview`."""
        return self.run("preview", "--config-file", str(self.file), *more)

    def planned(self) -> dict[str, list[str]]:
        """Operation → names of the resources that a preview would change."""
        text = self.preview("--json").check().text
        found: dict[str, list[str]] = {}
        for step in json.loads(text[text.index("{") :])["steps"]:
            if step["op"] != "same":
                found.setdefault(step["op"], []).append(step["urn"].rpartition("::")[2])
        return found

    def refresh(self, *more: str) -> Update:
        """`pulumi refresh`."""
        return self.run("refresh", "--yes", "--skip-preview", "--config-file", str(self.file), *more)

    def destroy(self) -> Update:
        """`pulumi destroy`."""
        return self.run("destroy", "--yes", "--skip-preview", "--config-file", str(self.file))

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs."""
        found: dict[str, Any] = json.loads(self.run("stack", "output", "--json").check().text)
        return found

    def resources(self) -> list[dict[str, Any]]:
        """What the state records."""
        deployment = json.loads(self.run("stack", "export").check().text)["deployment"]
        found: list[dict[str, Any]] = deployment.get("resources") or []
        return found

    def run(self, command: str, *more: str) -> Update:
        """Any CLI command on this stack, inside the lab."""
        common = ["--stack", self.name, "--color", "never", "--non-interactive"]
        argv, environment = inside(["pulumi", command, *more, *common])
        start = time.monotonic()
        done = subprocess.run(
            argv,
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HUNG,
            check=False,
        )
        return Update(done.returncode, done.stdout, time.monotonic() - start)
