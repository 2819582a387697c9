"""A checkout of the project beside this one, with a Git remote: where an operator, or a robot, runs `rollout`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import alerts
from lab import monitoring, namespace
from lab.paths import LAB, ROOT
from lab.stack import Stack, api, inside
from tests.e2e.waiting import until

HUNG = 1000
TOKEN, PORT = "a token of this test", 9094


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def check(self, code: int) -> Done:
        """Itself; an error with what it printed where it ended in another way."""
        assert self.code == code, self.text
        return self


class Checkout(Stack):
    """A clone: `rollout` and bare `pulumi up` work on its own stack file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "Pulumi.lab.yaml", project=folder)
        for name in (".venv", ".lab"):
            if not (folder / name).exists():
                (folder / name).symlink_to(ROOT / name)

    @classmethod
    def first(cls, folder: Path, file: Path) -> Checkout:
        """A repository made of the files here, with the stack file `file`, and its remote beside it."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True, check=True
        )
        for name in listed.stdout.splitlines():
            if not name.startswith(("tests/", "lab/", "docs/", "bench/")) and (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        shutil.copy2(file, folder / "Pulumi.lab.yaml")
        remote = folder.with_name("remote.git")
        git(folder.parent, "init", "--quiet", "--bare", "-b", "main", str(remote))
        git(folder, "init", "--quiet", "-b", "main")
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "-m", "all there is")
        git(folder, "remote", "add", "origin", str(remote))
        git(folder, "push", "--quiet", "-u", "origin", "main")
        return cls(folder)

    def clone(self, name: str) -> Checkout:
        """Another checkout of the same remote, as it is now."""
        git(self.project.parent, "clone", "--quiet", str(self.project.with_name("remote.git")), name)
        return Checkout(self.project.with_name(name))

    def commit(self, text: str) -> None:
        """What an operator does after an edit."""
        git(self.project, "commit", "--quiet", "-am", text)
        git(self.project, "push", "--quiet")

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """`python -m rollout WORDS`, inside the lab."""
        return self.spawn(["python", "-m", "rollout", *words, "--stack", "lab"], environment)

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Any command in this checkout, inside the lab."""
        words = ["env", *(f"{name}={value}" for name, value in environment.items())]
        argv, outer = inside([*words, "sh", "-c", 'cd "$0" && exec "$@"', str(self.project), *command])
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**outer, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # As on a terminal, even where these tests run in the background of a script, whose jobs ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            text=True,
        )

    def rollout(self, *words: str, **environment: str) -> Done:
        """The same, waited for."""
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=HUNG)
        return Done(process.returncode, out, err)

    def status(self) -> dict[str, Any]:
        """What `rollout status --json` tells."""
        found: dict[str, Any] = json.loads(self.rollout("status", "--json").out)
        return found


def git(folder: Path, *words: str) -> str:
    """What Git says, as somebody who has a name."""
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in WHO.items()}
    done = subprocess.run(
        ["git", *words], cwd=folder, env={**os.environ, **who}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WHO = {"NAME": "Operator", "EMAIL": "operator@example.com"}
LOCKS = LAB / "pulumi-state" / ".pulumi" / "locks" / "organization" / "canary" / "lab"


@contextmanager
def watched(checkout: Checkout, folder: Path, hold: str = alerts.HOLD) -> Iterator[None]:
    """`rollout watch` as Alertmanager's receiver, by the configuration and the rules that the stack deployed.

    `hold` is how long an alert waits, where that is to be shorter than deployed.
    """
    token, rules, route = folder / "token", monitoring.RULES / "canary.yaml", LAB / "alertmanager.yml"
    token.write_text(TOKEN)
    former, deployed = route.read_text(), config_map("canary-alerts", "rules.yaml")
    assert f"for: {alerts.HOLD}" in deployed
    rules.write_text(deployed.replace(f"for: {alerts.HOLD}", f"for: {hold}"))
    route.write_text(config_map("canary-alertmanager", "alertmanager.yaml").replace(alerts.TOKEN_FILE, str(token)))
    process = checkout.start("watch", "--json", "--git", "--host", namespace.NODE_IP, ROLLOUT_WEBHOOK_TOKEN=TOKEN)
    try:
        healthz = f"http://{namespace.NODE_IP}:{PORT}/healthz"
        until(lambda: '"failure":""' in ask(healthz), "a webhook that answers", within=300)
        reload()
        yield
    finally:
        process.terminate()
        print(*process.communicate(timeout=60))
        rules.unlink()
        route.write_text(former)
        reload()


def config_map(name: str, key: str) -> str:
    return str(api("GET", f"/api/v1/namespaces/shop/configmaps/{name}")["data"][key])


def ask(url: str, method: str = "GET", body: Any = None) -> str:
    """What an address in the lab answers; empty where nobody does."""
    code = "import httpx, json, sys; print(httpx.request(*sys.argv[1:3], json=json.loads(sys.argv[3])).text)"
    argv, environment = inside(["python", "-c", code, method, url, json.dumps(body)])
    return subprocess.run(argv, cwd=ROOT, env=environment, text=True, capture_output=True, check=False).stdout


def reload() -> None:
    """Alertmanager and Prometheus read their files again; in that order, so that the first alert knows its way."""
    for url in (monitoring.ALERTMANAGER_URL, monitoring.PROMETHEUS_URL):
        ask(f"{url}/-/reload", "POST")
