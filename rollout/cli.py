"""The command line: what every command has in common. Each command is a module of its own, loaded when it is named."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import IO, Any

import click


class Exit(IntEnum):
    """What a command ends with."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    ROLLED_BACK = 3
    LOCKED = 4
    HELD = 5
    DRIFT = 6


class Stop(click.ClickException):
    """Ends the command with one line on standard error and `code`."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """In the form that was asked for."""
        if "--json" in sys.argv:
            click.echo(json.dumps({"error": self.message.splitlines(), "exit": self.exit_code}, indent=1))
        else:
            super().show(file)


COMMANDS = {
    "check": "rollout.check",
    "history": "rollout.history",
    "rollback": "rollout.rollback",
    "advance": "rollout.steps:advance",
    "promote": "rollout.steps:promote",
    "start": "rollout.steps:start",
    "status": "rollout.status",
    "explain": "rollout.explain",
    "run": "rollout.run",
    "watch": "rollout.watch",
    "judge": "rollout.judge",
}
"""Where each command is: the module has a click command named `command`, or as it says after the colon."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, name = COMMANDS.get(cmd_name, "").partition(":")
        command: click.Command | None = getattr(importlib.import_module(module), name or "command") if module else None
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Walks the ladder of `canary:steps` on evidence, reverts by itself, and keeps what it saw."""


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--stack` and `--json`, which every command takes."""
    function = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)
    return click.option("--stack", envvar="PULUMI_STACK", help="Stack; default: the one that is selected.")(function)


def changing(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--dry-run` and `--git`, which every command that changes something takes too."""
    function = click.option("--git", is_flag=True, help="Commit the stack file; push, open a pull request.")(function)
    function = click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")(function)
    return common(function)
