"""Git agrees: the stack file as deployed is committed and pushed, or offered as a pull request."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

TIMEOUT = 60
"""Seconds for one call; Git comes after the mesh, and nothing waits for it."""


class GitError(Exception):
    """Git refused; the text is its own last line."""


def _run(folder: Path, *words: str) -> str:
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")}
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"{words[0]} {words[1]}: {error}") from error
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        why = next((one for one in reversed(told) if "error" in one), told[-1] if told else "failed")
        raise GitError(f"{words[0]} {words[1]}: {why}")
    return done.stdout.strip()


def follow(folder: Path) -> None:
    """Brings the checkout up to what was pushed, where that is a mere step on."""
    _run(folder, "git", "pull", "--quiet", "--ff-only")


def agree(file: Path, message: str, say: Callable[[str], None]) -> bool:
    """Commits `file` alone and hands it on as far as possible; says what could not be done.

    False when the commit exists at most here: until it is handed on, the next merge brings the former weight back.
    """
    folder, title = file.parent, message.partition("\n")[0]
    try:
        if _run(folder, "git", "status", "--porcelain", "--", file.name):
            _run(folder, "git", "add", "--", file.name)
            _run(folder, "git", "commit", "--quiet", "--only", "-m", message, "--", file.name)
            say(f"git: committed {file.name}")
        remote = next(iter(_run(folder, "git", "remote").split()), None)
        if remote is None:
            say("git: no remote; push the commit yourself")
            return False
        branch = _run(folder, "git", "rev-parse", "--abbrev-ref", "HEAD")
        head = _run(folder, "git", "rev-parse", "HEAD")
    except GitError as error:
        say(f"git: {error}; the stack file is changed, commit and push it")
        return False
    try:
        if branch == "HEAD":
            raise GitError("no branch is checked out")
        _run(folder, "git", "push", "--quiet", remote, f"HEAD:refs/heads/{branch}")
        say(f"git: pushed to {branch}")
        return True
    except GitError as error:
        say(f"git: {branch} takes no push ({error})")
    proposal = f"rollout/{file.stem.removeprefix('Pulumi.')}-{head[:8]}"
    try:
        _run(folder, "git", "push", "--quiet", "--force", remote, f"HEAD:refs/heads/{proposal}")
        say(f"git: pushed to {proposal}")
        if shutil.which("gh") is None:
            say(f"git: no gh here; open a pull request from {proposal}, and merge it first")
            return False
        base = ["--base", branch] if branch != "HEAD" else []
        say(_run(folder, "gh", "pr", "create", "--head", proposal, *base, "--title", title, "--body", message))
        return True
    except GitError as error:
        say(f"git: {error}; hand the commit {head[:8]} on yourself")
        return False
