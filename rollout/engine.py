"""The Pulumi engine through its Automation API: updates with events, locks and who holds them, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pulumi import automation as auto

from core import record
from rollout.cli import Exit, Stop

LIMIT = 60.0
"""Seconds that the backend may take to be read; updates take as long as they take."""

MARK = "ROLLOUT_STACK"
"""Environment variable of every engine process that this command starts: by it an update is known as ours."""

_HOLDER = re.compile(r"created by (\S+)@(\S+) \(pid (\d+)\) at (\S+)")
_NOISE = "an unhandled error occurred"


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of a stack, as the backend tells."""

    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (pid {self.pid}, since {self.since})"

    @property
    def here(self) -> bool:
        """On this host, so that its process can be looked at."""
        return self.host == socket.gethostname()

    @property
    def dead(self) -> bool:
        """On this host, and the process is gone, or is another one by now."""
        return self.here and b"pulumi" not in self._read("cmdline")

    def ours(self, stack: str) -> bool:
        """Started by this command, for this stack, on this host."""
        return self.here and f"{MARK}={stack}".encode() in self._read("environ").split(b"\0")

    def _read(self, name: str) -> bytes:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_bytes()
        except OSError:
            return b""


class Failed(Stop):
    """An update or a command of the engine failed; `lines` say why."""

    def __init__(self, lines: Sequence[str], code: Exit = Exit.FAILED) -> None:
        self.lines = list(lines) or ["the engine failed and did not say why"]
        super().__init__(Exit.HELD if self.refused else code, "\n".join(self.lines))

    @property
    def refused(self) -> bool:
        """A rule of the rollout forbade it."""
        return any("canary:override" in line for line in self.lines)


class Interrupted(Failed):
    """The update was cancelled by a signal that was handed on to it."""


class Locked(Failed):
    """Another update holds the stack; `holders` are empty where the backend does not tell."""

    def __init__(self, text: str) -> None:
        self.holders = [Holder(user, host, int(pid), at) for user, host, pid, at in _HOLDER.findall(text)]
        who = ", ".join(map(str, self.holders)) or "another update"
        super().__init__([f"the stack is locked by {who}"], Exit.LOCKED)


class _Command(auto.PulumiCommand):
    """The CLI in a process group of its own: a signal reaches it through us, and once."""

    live: subprocess.Popen[str] | None = None
    interrupted = False

    def run(
        self, args: list[str], cwd: str, additional_env: Mapping[str, str], on_output: Any = None, on_error: Any = None
    ) -> auto.CommandResult:
        process = subprocess.Popen(
            [self.command, "--non-interactive", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"},
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.live, self.interrupted = process, False
        try:
            out, err = process.communicate(timeout=None if args[0] in ("up", "preview") else LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise TimeoutError(f"no answer to `pulumi {' '.join(args[:2])}` within {LIMIT:g} s") from None
        finally:
            self.live = None
        result = auto.CommandResult(stdout=out, stderr=err, code=process.returncode)
        if process.returncode:
            raise auto.errors.create_command_error(result)
        return result

    def interrupt(self) -> None:
        if self.live is not None and not self.interrupted:
            self.interrupted = True
            self.live.send_signal(signal.SIGINT)


class _Workspace(auto.LocalWorkspace):
    def select_stack(self, stack_name: str, show_secrets: bool | None = None) -> None:
        """Every command names its stack; the one that the user has selected stays selected."""


class Engine:
    """One stack of the project in `project`.  Nothing is asked of the backend before a method is called."""

    def __init__(self, project: Path, stack: str) -> None:
        self.project, self.stack = project, stack

    @cached_property
    def _stack(self) -> auto.Stack:
        workspace = _Workspace(
            work_dir=str(self.project), env_vars={MARK: self.stack}, pulumi_command=_Command(skip_version_check=True)
        )
        return auto.Stack.select(self.stack, workspace)

    def up(
        self,
        message: str,
        *,
        config: Path | None = None,
        target: Sequence[str] = (),
        policy_packs: Sequence[str] = (),
    ) -> None:
        """`pulumi up` without a preview of its own.  Raises `Locked`, `Interrupted` or `Failed`."""
        told = {"message": message, "target": list(target) or None, "show_secrets": False}
        self._update("up", {**told, "policy_packs": list(policy_packs) or None}, config)

    def preview(self, *, config: Path | None = None, policy_packs: Sequence[str] = ()) -> dict[str, int]:
        """What an update would do: number of resources by operation."""
        found = self._update("preview", {"policy_packs": list(policy_packs) or None}, config)
        return {str(getattr(kind, "value", kind)): count for kind, count in found.change_summary.items()}

    def history(self, size: int) -> list[auto.UpdateSummary]:
        """The last `size` operations on the stack, newest first, whoever ran them."""
        with self._told():
            return self._stack.history(page_size=size, show_secrets=False)

    def state(self) -> list[dict[str, Any]]:
        """The resources as recorded."""
        with self._told():
            text = self._run("stack", "export").stdout
        return (json.loads(text).get("deployment") or {}).get("resources") or []

    def cancel(self) -> None:
        """Takes the lock away from whoever holds it."""
        with self._told():
            self._stack.cancel()

    def interrupt(self) -> None:
        """Hands one interrupt on to the running update; more than one would make the engine drop what it is at."""
        self._command.interrupt()

    @property
    def _command(self) -> _Command:
        command = self._stack.workspace.pulumi_command
        assert isinstance(command, _Command)
        return command

    def _run(self, *args: str) -> auto.CommandResult:
        return self._command.run([*args, "--stack", self.stack], str(self.project), {MARK: self.stack})

    def _update(self, operation: str, options: dict[str, Any], config: Path | None) -> Any:
        errors: list[str] = []

        def collect(event: auto.EngineEvent) -> None:  # what is raised here is lost
            for told in (event.diagnostic_event, event.policy_event):
                level = getattr(told, "severity", None) or getattr(told, "enforcement_level", "")
                if told is not None and level in ("error", "mandatory"):
                    errors.extend(line for line in told.message.strip().splitlines() if _NOISE not in line)

        with self._signals(), self._told(errors):
            return getattr(self._stack, operation)(
                **options,
                config_file=str(config) if config else None,
                on_event=collect,
                color="never",
                suppress_outputs=True,
                suppress_progress=True,
            )

    @contextmanager
    def _told(self, errors: Sequence[str] = ()) -> Iterator[None]:
        try:
            yield
        except auto.ConcurrentUpdateError as error:
            raise Locked(str(error)) from error
        except auto.CommandError as error:
            lines = list(dict.fromkeys(errors)) or _errors(str(error))
            raise (Interrupted if self._command.interrupted else Failed)(lines) from error
        except OSError as error:
            raise Failed([f"pulumi cannot be run: {error}"]) from error

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for one in former:
            signal.signal(one, lambda *_: self.interrupt())
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)


def _errors(text: str) -> list[str]:
    """The lines of the CLI's output that begin with `error:`."""
    found = (line.strip().partition(": ") for line in text.splitlines() if "error: " in line)
    return list(dict.fromkeys(rest for _, _, rest in found if _NOISE not in rest))


def outputs(state: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The stack's outputs, from what is recorded."""
    return next((dict(one.get("outputs") or {}) for one in state if one["type"] == "pulumi:pulumi:Stack"), {})


def records(state: Sequence[Mapping[str, Any]]) -> dict[str, record.Record]:
    """What the last updates wrote, by service, as the program reads it of itself."""
    return record.all_of((str(one["type"]), one.get("outputs") or {}) for one in state)
