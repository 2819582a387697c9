"""Where a command works: the project and its stack file, the stack's engine, the cluster it is deployed to."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import live
from core import checks
from core.model import Settings
from rollout import stackfile
from rollout.cli import Exit, Stop
from rollout.engine import Engine

PROJECT = stackfile.PROJECT


def now() -> datetime:
    """UTC, to the second, as the program has it."""
    return datetime.now(UTC).replace(microsecond=0)


class Site:
    """The stack `stack` of the project in `project`."""

    def __init__(self, project: Path, stack: str) -> None:
        self.project, self.stack = project, stack
        self.engine = Engine(project, stack)

    @classmethod
    def find(cls, stack: str | None) -> Site:
        """The project around the working directory; without `stack` the stack that is selected there."""
        here = Path.cwd()
        project = next((one for one in (here, *here.parents) if (one / "Pulumi.yaml").exists()), None)
        if project is None:
            raise Stop(Exit.BAD_INPUT, f"no Pulumi.yaml in {here} or above; run this in a checkout of the project")
        if stack is None:
            asked = ["pulumi", "stack", "--show-name", "--non-interactive"]
            done = subprocess.run(asked, cwd=project, capture_output=True, text=True, timeout=30, check=False)
            stack = done.stdout.strip()
            if not stack:
                raise Stop(Exit.BAD_INPUT, "no stack is selected; name one with --stack")
        return cls(project, stack.rpartition("/")[2])

    def load(self) -> stackfile.StackFile:
        """The stack file as it is now."""
        return stackfile.load(self.project / f"Pulumi.{self.stack}.yaml")

    def settings(self, file: stackfile.StackFile | None = None) -> Settings:
        """What the stack file asks for at this moment.  Raises `Stop` where it is wrong."""
        try:
            return checks.parse((file or self.load()).settings_raw)[0].at(now())
        except checks.SettingsError as error:
            raise Stop(Exit.BAD_INPUT, str(error)) from error

    @cached_property
    def access(self) -> tuple[str, str | None, str | None]:
        """(namespace, context, kubeconfig) of the stack file; None leaves it to the environment.

        Of a file that is broken elsewhere those lines are read all the same.
        """
        try:
            config = self.load().config
        except Stop:
            text = (self.project / f"Pulumi.{self.stack}.yaml").read_text()
            line = r"""^ +(\w+:\w+): *["']?([^\s"'#]+)["']? *(?:#.*)?$"""
            config = dict(re.findall(line, text, re.MULTILINE))
        kubeconfig = config.get("kubernetes:kubeconfig")
        if kubeconfig is not None and str(kubeconfig).startswith(stackfile.SEALED):
            kubeconfig = None
        return str(config.get(f"{PROJECT}:namespace", "default")), config.get("kubernetes:context"), kubeconfig

    @cached_property
    def client(self) -> Any:
        """A client of the cluster, connected when it is first used."""
        return live.connect(*self.access)

    @property
    def strategy(self) -> str:
        """`canary:strategy`; of a file that is broken the default."""
        try:
            return str(self.load().settings_raw.get("strategy", "istio"))
        except Stop:
            return "istio"

    def live(self) -> live.Live:
        """What the cluster says, as the program reads it."""
        return live.read(*self.access)

    @contextmanager
    def tried(self, file: stackfile.StackFile) -> Iterator[Path]:
        """A stack file for a preview of edits that are not saved."""
        handle, path = tempfile.mkstemp(prefix=f"Pulumi.{self.stack}.", suffix=".yaml")
        try:
            with os.fdopen(handle, "w") as out:
                out.write(file.text)
            yield Path(path)
        finally:
            Path(path).unlink()
