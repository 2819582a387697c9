"""Pull requests from end to end: edited, previewed with policies, checked, merged and deployed, or refused."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from lab.paths import ROOT
from lab.stack import Stack, Update, api
from tests import program, pull_requests
from tests.pull_requests import Repository

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"
CANARY = '      canary: {image: "sample-web:2.0", probe: {path: /healthz, periodSeconds: 1}}\n'

BY_HAND = f"""

from pulumi_kubernetes.apiextensions import CustomResource

cart = {pull_requests.WRONG_SUM!r}
one = {{"api_version": cart["apiVersion"], "kind": cart["kind"], "metadata": cart["metadata"], "spec": cart["spec"]}}
CustomResource("cart-vs", **one)
"""


class Project(Repository):
    """A clone of the project with a stack file and a program of its own; the rest leads to the checkout."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        for one in ROOT.iterdir():
            if one.name not in (".git", ".gitignore", "__main__.py", "Pulumi.lab.yaml", "__pycache__"):
                (folder / one.name).symlink_to(one)
        shutil.copy(ROOT / "__main__.py", folder)
        (folder / ".gitignore").write_text("*\n!Pulumi.lab.yaml\n!__main__.py\n")
        text = (ROOT / "Pulumi.lab.yaml").read_text()
        now = datetime.now(UTC).isoformat()
        super().__init__(folder, text.replace("      hosts:", f"{CANARY}      hosts:"), now, "Pulumi.lab.yaml")
        self.edit(("canary:weight: 0\n", "canary:weight: 5\n"))
        self.commit("start", now)
        self.stack = Stack(self.file, stack.name, folder)

    def review(self) -> tuple[int, str]:
        """What the check ends with and says, with what is live and a preview with policies."""
        (self.folder / "live.json").write_text(json.dumps(self.stack.outputs()))
        preview = self.stack.preview("--policy-pack", "policies")
        (self.folder / "preview.txt").write_text(preview.text)
        now = datetime.now(UTC).isoformat()
        return self.check("--stack=lab", "--live=live.json", "--preview=preview.txt", at=now)

    def deploy(self) -> Update:
        """What follows a merge: an update whose preview the policies may refuse."""
        return self.stack.run("up", "--yes", "--config-file", str(self.file), "--policy-pack", "policies")

    def drop(self) -> None:
        """Closes the pull request: the work tree is as `main` again."""
        self.git("checkout", "--quiet", ".")

    def weight(self) -> object:
        """What is deployed, and what the cluster's route says of it."""
        legs = api("GET", ROUTE)["spec"]["http"][-1]["route"]
        share = sum(leg.get("weight", 100) for leg in legs if leg["destination"]["subset"] == "canary")
        return self.stack.outputs()["weight"], share


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Project:
    """At 5 %, deployed."""
    found = Project(tmp_path, stack)
    found.stack.up().check()
    stack.touched = True  # type: ignore[attr-defined]
    return found


def test_pull_requests_are_checked_as_the_update_decides(project: Project) -> None:
    # A good step: allowed, nothing to object; merged and deployed.
    project.edit(("canary:weight: 5\n", "canary:weight: 10\n"))
    code, text = project.review()
    assert code == 0, text
    assert "| `web` | step up | 5 % → 10 % | 2 of 5, held 0s | 5 of 100 viewers |" in text
    assert "- Expected to change: `web-vs`, `edge-keys`\n" in text
    assert "⚠️ canary@v" in text, "the policies were asked"
    assert set(re.findall(r"- \[(\w+)\]  (\S+)", text)) == {("advisory", "edge-log")}, "the lab's edge keeps no log"
    project.commit("step")
    project.deploy().check()
    assert project.weight() == (10, 10)

    # A skipped rung, and another image while canary serves: refused here and there in the same words.
    for old, new in (("canary:weight: 10\n", "canary:weight: 50\n"), ("sample-web:2.0", "sample-web:3.0")):
        project.edit((old, new))
        code, text = project.review()
        assert code == 2, text
        refusal = next(line[2:] for line in text.splitlines() if line.startswith("- web: "))
        update = project.stack.up()
        assert update.code
        assert refusal in " ".join(update.text.split()), update.text
        assert project.weight() == (10, 10)
        project.drop()

    # A VirtualService that somebody wrote by hand, whose weights do not sum to 100: the policies refuse it.
    with (project.folder / "__main__.py").open("a") as main:
        main.write(BY_HAND)
    code, text = project.review()
    assert code == 2, text
    said = re.search(r"^Policies:\n((?: .*\n)+)", (project.folder / "preview.txt").read_text(), re.MULTILINE)
    assert said is not None
    config = yaml.safe_load(project.file.read_text())["config"]
    config |= {"canary:weight": 5, "canary:originSecret": program.ORIGIN_SECRET}
    without_engine = pull_requests.policies(program.run(config), "lab", pull_requests.WRONG_SUM)
    objections = [[line for line in one.splitlines() if "[mandatory]" in line] for one in (said[0], without_engine)]
    assert objections[0] == objections[1] != [], "the examples of the documentation are made without an engine"
    assert "90 + 5 = 95" in said[1]
    assert said[1] in text
    assert project.deploy().code
    with pytest.raises(RuntimeError, match="not found"):
        api("GET", ROUTE.replace("/web", "/cart"))
    project.drop()

    # The way back, though what is written of canary cannot even be read.
    project.edit(("canary:weight: 10\n", "canary:weight: 0\n"), ('{image: "sample-web:2.0", ', "{imgae: 7, "))
    code, text = project.review()
    assert code == 0, text
    project.commit("revert")
    project.deploy().check()
    assert project.weight() == (0, 0)
