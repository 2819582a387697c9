"""The workflows of a pull request: what they may do, what they run, and that the same runs elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import parts
from tests import program
from tests.pull_requests import WEIGHT, Repository

GITHUB = program.ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONLINT = parts.find("actionlint")


def _jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            yield f"{path.stem}.{name}", job


def _steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in _jobs():
        yield from ((name, step) for step in job["steps"])
    for path in GITHUB.glob("actions/*/action.yml"):
        yield from ((path.parent.name, step) for step in yaml.safe_load(path.read_text())["runs"]["steps"])


@pytest.mark.skipif(ACTIONLINT is None, reason="there is no actionlint; `make setup` builds it")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run([str(ACTIONLINT)], cwd=program.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(ACTIONLINT is None, reason="there is no actionlint; `make setup` builds it")
def test_actionlint_would_find_something(tmp_path: Path) -> None:
    (path := tmp_path / "w.yml").write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:"))
    done = subprocess.run([str(ACTIONLINT), str(path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_the_four_workflows_are_there() -> None:
    assert [path.stem for path in WORKFLOWS] == ["advance", "deploy", "pull-request", "windows"]


def test_every_action_is_pinned_by_commit_and_says_which_version_that_is() -> None:
    text = "".join(path.read_text() for path in GITHUB.rglob("*.yml"))
    used = re.findall(r"uses: (\S+)(.*)", text)
    foreign = [(action, comment) for action, comment in used if not action.startswith("./")]
    assert len(foreign) >= 7
    for action, comment in foreign:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.match(r" # v\d+\.\d+\.\d+", comment), action


def test_nothing_is_permitted_but_what_a_job_asks_for_and_only_the_comment_writes_to_a_pull_request() -> None:
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {}, path.name
    writes = {name: {key for key, value in job["permissions"].items() if value == "write"} for name, job in _jobs()}
    assert writes == {
        "advance.advance": {"contents", "pull-requests", "id-token"},
        "deploy.up": {"id-token"},
        "pull-request.check": {"id-token"},
        "pull-request.comment": {"pull-requests"},
        "windows.up": {"id-token"},
    }


def test_what_may_write_the_comment_runs_nothing_of_the_pull_request() -> None:
    (job,) = [job for name, job in _jobs() if name == "pull-request.comment"]
    assert [step for step in job["steps"] if "uses" in step] == []


def test_whatever_changes_a_stack_waits_in_its_group_and_is_not_dropped() -> None:
    groups = {name: job["concurrency"] for name, job in _jobs() if not name.startswith("pull-request.")}
    waiting = {"cancel-in-progress": False, "queue": "max"}
    assert groups == {
        "advance.advance": {"group": "stack-prod", **waiting},
        "deploy.up": {"group": "stack-${{ matrix.stack }}", **waiting},
        "windows.up": {"group": "stack-prod", **waiting},
    }


def test_no_value_is_pasted_into_a_script_and_secrets_go_by_the_environment() -> None:
    scripts = [step["run"] for _, step in _steps() if "run" in step]
    assert len(scripts) >= 6
    assert [script for script in scripts if "${{" in script] == []


def test_policies_refuse_before_anything_is_written_and_their_packages_are_there() -> None:
    scripts = [step["run"] for _, step in _steps() if "run" in step]
    updates = [script for script in scripts if "pulumi up" in script]
    assert len(updates) == 2
    assert [script for script in updates if "--policy-pack" not in script or "--skip-preview" in script] == []
    assert any("ln -s ../.venv policies/.venv" in script for script in scripts)


def test_only_production_is_owned_by_those_who_may_raise_it() -> None:
    owners = dict(
        line.split(maxsplit=1)
        for line in (GITHUB / "CODEOWNERS").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert owners["/Pulumi.prod.yaml"] == "@example/release-managers"
    assert all((program.ROOT / name.lstrip("/")).exists() for name in owners)


def test_any_ci_can_run_the_checks(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    (cli := tmp_path / "bin" / "pulumi").parent.mkdir()
    asked = "preview --stack prod --policy-pack policies --color never --non-interactive"
    cli.write_text(f"""#!/bin/sh
case "$*" in
"{asked}") printf 'Policies:\\n    ✅ canary@v0.1.0 (local: policies)\\n'; exit 1 ;;
*) echo 'error: no backend' >&2; exit 1 ;;
esac
""")
    cli.chmod(0o755)
    environment = {**os.environ, "PATH": f"{cli.parent}:{os.environ['PATH']}", "PYTHONPATH": str(program.ROOT)}
    environment.pop("STACKS", None)

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [program.ROOT / ".ci" / "pull-request", "main"],
            cwd=tmp_path,
            env={**environment, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, text = run()
    assert (code, "No stack file differs" in text) == (0, True)
    repository.edit((WEIGHT, "canary:weight: 50\n"))
    code, text = run()
    assert code == 2, text
    assert "skips a rung" in text
    assert "✅ canary@v0.1.0" in text, "a preview that fails is told all the same"
    assert "could not be read (error: no backend)" in text
