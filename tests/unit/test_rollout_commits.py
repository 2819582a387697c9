"""Git agrees: what is committed, where it is pushed to, and what is left to people."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollout import commits
from tests.e2e.checkout import WHO, git

REFUSING = '#!/bin/sh\n[ "$1" != refs/heads/main ]\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stack file in a checkout that has a remote."""
    for role in ("AUTHOR", "COMMITTER"):
        for key, value in WHO.items():
            monkeypatch.setenv(f"GIT_{role}_{key}", value)
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(tmp_path, "init", "--quiet", "--bare", "-b", "main", "remote.git")
    git(folder, "init", "--quiet", "-b", "main")
    git(folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    for name in ("Pulumi.lab.yaml", "other"):
        (folder / name).write_text("5\n")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "all")
    git(folder, "push", "--quiet", "-u", "origin", "main")
    return folder / "Pulumi.lab.yaml"


def agreed(file: Path) -> tuple[bool, list[str]]:
    said: list[str] = []
    return commits.agree(file, "rollout: rollback: it fails\n\nRollout-Verdict: rollback", said.append), said


def test_the_stack_file_alone_is_committed_and_pushed(file: Path) -> None:
    file.write_text("0\n")
    file.with_name("other").write_text("of somebody who is not done\n")
    git(file.parent, "add", "other")
    assert agreed(file) == (True, ["git: committed Pulumi.lab.yaml", "git: pushed to main"])
    remote = file.parent.with_name("remote.git")
    assert git(remote, "show", "main:Pulumi.lab.yaml") == "0"
    assert git(remote, "log", "-1", "--name-only", "--format=%s", "main").split("\n\n") == [
        "rollout: rollback: it fails",
        "Pulumi.lab.yaml",
    ]


def test_where_the_branch_takes_no_push_a_pull_request_is_opened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, gh = file.parent.with_name("remote.git"), file.parent.with_name("gh")
    (remote / "hooks" / "update").write_text(REFUSING)
    (remote / "hooks" / "update").chmod(0o755)
    gh.write_text(f'#!/bin/sh\necho "$@" > {gh}.told\necho https://example.com/pull/1\n')
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gh.parent}:{os.environ['PATH']}")
    file.write_text("0\n")
    done, said = agreed(file)
    (branch,) = [one for one in git(remote, "branch", "--format=%(refname:short)").split() if one != "main"]
    assert done and said[-1] == "https://example.com/pull/1"
    assert git(remote, "show", f"{branch}:Pulumi.lab.yaml") == "0"
    told = Path(f"{gh}.told").read_text()
    assert told.startswith(f"pr create --head {branch} --base main --title rollout: rollback: it fails --body")


def test_a_remote_that_is_away_leaves_the_commit_and_says_so(file: Path) -> None:
    file.parent.with_name("remote.git").rename(file.parent.with_name("gone.git"))
    file.write_text("0\n")
    done, said = agreed(file)
    assert not done and "hand the commit" in said[-1]
    assert git(file.parent, "status", "--porcelain") == "", "it is committed all the same"


def test_outside_of_git_it_says_what_people_have_to_do(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.lab.yaml"
    file.write_text("0\n")
    done, said = agreed(file)
    assert not done and said[-1].endswith("the stack file is changed, commit and push it")
