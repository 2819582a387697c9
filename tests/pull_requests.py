"""Pull requests simulated with git in a temporary repository, and what `rollout check` says of each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from rollout.cli import main
from tests import policy_pack, program

FILE = "Pulumi.prod.yaml"
MERGED = "2026-11-23T08:30:00+00:00"
"""A Monday morning: when the base was merged, and deployed."""

LATER = "2026-11-23T10:00:00Z"
WINDOWS = """\
  canary:windows:
    raise: Mon-Thu 09:00-16:00 Europe/Berlin
    freezes: [{from: "2026-12-18", to: "2027-01-04", why: year end}]
"""


class Repository:
    """A repository with the stack file of production on `main`, in which a pull request is edited and checked."""

    def __init__(self, folder: Path, text: str | None = None, when: str = MERGED, file: str = FILE) -> None:
        self.folder = folder
        self.file = folder / file
        (folder / "Pulumi.yaml").touch()
        self.git("init", "--quiet", "--initial-branch", "main")
        self.write(text if text is not None else prod())
        self.commit("deploy", when)

    def git(self, *words: str, when: str = MERGED) -> str:
        """What git says."""
        who = {
            f"GIT_{role}_{what}": "someone@example.com"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        environment = {
            **os.environ,
            **who,
            "GIT_AUTHOR_DATE": when,
            "GIT_COMMITTER_DATE": when,
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }
        done = subprocess.run(
            ["git", *words], cwd=self.folder, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def write(self, text: str) -> None:
        """Replaces the stack file."""
        self.file.write_text(text)

    def edit(self, *changes: tuple[str, str]) -> None:
        """Replaces texts of the stack file, each of which is there once."""
        text = self.file.read_text()
        for old, new in changes:
            assert text.count(old) == 1, (old, text.count(old))
            text = text.replace(old, new)
        self.write(text)

    def commit(self, message: str, when: str = MERGED) -> None:
        """Commits all there is."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message, when=when)

    def check(self, *words: str, base: str = "main", at: str = LATER) -> tuple[int, str]:
        """(exit code, output) of `rollout check` in this repository."""
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(main, ["check", "--base", base, "--at", at, *words], catch_exceptions=False)
        return done.exit_code, done.output

    def told(self, *words: str, **more: str) -> dict[str, Any]:
        """The report on the one stack that was checked."""
        found: dict[str, Any] = json.loads(self.check("--json", *words, **more)[1])
        (report,) = found["stacks"]
        return dict(report)

    def live(self, weight: int = 5, since: str = "2026-11-23T08:32:10Z", **changes: Any) -> str:
        """The option that says what is live."""
        images = program.stack_config("prod")["canary:services"]["web"]
        web = {
            "weight": weight,
            "since": since,
            "stable": images["stable"]["image"],
            "canary": images["canary"]["image"],
        }
        told = {"weight": weight, "effectiveWeight": weight, "phase": "rolling", "since": since, "rejected": []}
        (self.folder / "live.json").write_text(json.dumps(told | {"services": {"web": web}} | changes))
        return "--live=live.json"


def prod() -> str:
    """The stack file of production at 5 %, with windows."""
    return (program.ROOT / FILE).read_text() + WINDOWS


WRONG_SUM = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "cart", "namespace": "shop"},
    "spec": {
        "hosts": ["cart.shop.svc.cluster.local"],
        "http": [
            {
                "name": "default",
                "route": [
                    {"destination": {"host": "cart.shop.svc.cluster.local", "subset": "stable"}, "weight": 90},
                    {"destination": {"host": "cart.shop.svc.cluster.local", "subset": "canary"}, "weight": 5},
                ],
                "timeout": "15s",
                "retries": {"attempts": 0},
            }
        ],
    },
}
"""A VirtualService that somebody wrote by hand."""


def policies(run: program.Run, stack: str, *manifests: dict[str, Any]) -> str:
    """What a preview says under `Policies:` when these objects are beside those of `run`.

    The words are the pack's own, run here without an engine; tests/e2e/test_pull_request.py holds a real preview to it.
    """
    extra = [
        policy_pack.resource(
            f"kubernetes:{one['apiVersion']}:{one['kind']}", f"{one['metadata']['name']}-vs", one, (), stack
        )
        for one in manifests
    ]
    said = [
        (not one.refused, one.policy, one.urn, one.text)
        for one in policy_pack.said([*policy_pack.of_run(run, stack), *extra])
    ]
    told = [
        f"    {'❌' if any(not mild for mild, *_ in said) else '⚠️' if said else '✅'} canary@v0.1.0 (local: policies)"
    ]
    for mild, name, urn, text in sorted(said):
        kind, thing = urn.split("::")[-2:]
        told.append(f"        - [{'advisory' if mild else 'mandatory'}]  {name}  ({kind}: {thing})")
        told += [f"          {line}" for line in (policy_pack.named(name).description, *text.splitlines())]
    return "\n".join(["Policies:", *told, ""])


@dataclass(frozen=True)
class Case:
    """A pull request: what it does, and what the check is expected to end with."""

    title: str
    edit: Callable[[Repository], Any]
    code: int
    at: str = LATER
    options: tuple[str, ...] = ()


WEIGHT = "canary:weight: 5\n"
CANARY = 'canary:\n        image: "registry.example.com/web:2.0.0@sha256:2c3d'


def _to(weight: int) -> Callable[[Repository], None]:
    return lambda repository: repository.edit((WEIGHT, f"canary:weight: {weight}\n"))


OVERRIDE = '  canary:override: {reason: "incident 4711", until: "2026-11-23T12:00:00Z", from: 5, to: 50}\n'

CASES = [
    Case("A good step", _to(10), 0),
    Case("A skipped rung", _to(25), 2),
    Case(
        "Another image of canary while it serves",
        lambda repository: repository.edit((CANARY, CANARY.replace("2c3d", "4e5f"))),
        2,
    ),
    Case(
        "A VirtualService by hand, whose weights do not sum to 100",
        lambda repository: (repository.folder / "preview.txt").write_text(
            policies(program.run(program.stack_config("prod")), "prod", WRONG_SUM)
        ),
        2,
        options=("--stack=prod", "--preview=preview.txt"),
    ),
    Case("A step in a freeze", _to(10), 5, at="2026-12-21T10:00:00Z"),
    Case(
        "A jump that an override lets pass",
        lambda repository: repository.edit((WEIGHT, f"canary:weight: 50\n{OVERRIDE}")),
        0,
    ),
    Case(
        "A revert with a broken canary",
        lambda repository: repository.edit(
            (WEIGHT, "canary:weight: 0\n"), (CANARY, f'canary:\n        imgae: 7\n        image: "{CANARY[-4:]} ')
        ),
        0,
        at="2026-12-21T10:00:00Z",
    ),
    Case("A value that is none", lambda repository: repository.edit((WEIGHT, "canary:weight: 5.5\n")), 2),
]


def markdown(folder: Path, case: Case) -> str:
    """What the check says of a case."""
    repository = Repository(folder)
    option = repository.live()
    case.edit(repository)
    code, text = repository.check(option, *case.options, at=case.at)
    assert code == case.code, f"{case.title}: ended with {code}:\n{text}"
    return text
