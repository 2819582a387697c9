"""With a real engine: each policy that refuses stops `pulumi up` before it writes, and none stops a way down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.paths import LAB, ROOT
from lab.stack import Stack, Update, api
from tests.policy_cases import BROKEN, Declared, changed
from tests.policy_pack import MANDATORY

pytestmark = pytest.mark.lab

STATE = LAB / "pulumi-state" / ".pulumi" / "stacks" / "foreign" / "prod.json"

# What others declare, without a component of ours.
PROGRAM = """
import json, pathlib, pulumi
for name, (kind, props) in json.loads(pathlib.Path("declared.json").read_text()).items():
    if kind == "pulumi:pulumi:Stack":
        for key, value in props.items():
            pulumi.export(key, value)
    else:
        pulumi.CustomResource(kind, name, props)
"""


class Foreign(Stack):
    """Another program of its own, on the lab's cluster."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__main__.py").write_text(PROGRAM)
        options = f"{{virtualenv: {ROOT / '.venv'}}}"
        (folder / "Pulumi.yaml").write_text(f"name: foreign\nruntime: {{name: python, options: {options}}}\n")
        super().__init__(folder / "Pulumi.prod.yaml", "prod", folder)
        if self.run("stack", "output").code:
            self.run("stack", "init").check()

    def judged(self, declared: Declared) -> Update:
        """`pulumi up` with the pack: its preview comes first, as for anybody who does not skip it."""
        (self.project / "declared.json").write_text(json.dumps(declared))
        return self.run("up", "--yes", "--policy-pack", str(ROOT / "policies"))


@pytest.fixture(scope="module")
def foreign(lab: None) -> Iterator[Foreign]:
    stack = Foreign(LAB / "foreign")
    if stack.resources():
        stack.destroy().check()
    yield stack
    if stack.resources():
        stack.destroy().check()


def written() -> tuple[bool, bytes]:
    """Whether the cluster has anything of the foreign stack, and what the state has of it."""
    namespaces = [item["metadata"]["name"] for item in api("GET", "/api/v1/namespaces")["items"]]
    return "foreign" in namespaces, STATE.read_bytes()


def cut_down(declared: Declared, name: str) -> Declared:
    """What a test of one policy needs: the lab's charts where it is about those, and of the edge what the lab knows."""
    charts = {key: one for key, one in declared.items() if "chart" in one[1]}
    for _, props in charts.values():
        props["chart"] = str(LAB / "charts" / props["chart"])
    if "cache" in declared:
        del declared["cache"][1]["id"]
        for unsupported in ("orderedCacheBehaviors", "loggingConfig"):  # by the lab's stand-in
            declared["distribution"][1].pop(unsupported)
    return charts if name == "pinned-istio" else {key: one for key, one in declared.items() if key not in charts}


REFUSING = {name: found[0] for name, found in BROKEN.items() if name in MANDATORY}
REFUSING["pinned-istio"] = BROKEN["pinned-istio"][1]  # a version that the charts do not have is refused by the provider


@pytest.mark.parametrize("name", REFUSING)
def test_each_policy_alone_stops_an_update_before_anything_is_written(foreign: Foreign, name: str) -> None:
    change, says = REFUSING[name]
    before = written()
    assert not before[0]
    update = foreign.judged(cut_down(changed(change, edge=name.startswith("edge")), name))
    assert update.code != 0, update.text
    refusals = re.findall(r"- \[mandatory\]  (\S+) ", update.text)
    assert set(refusals) == {name}, update.text
    assert says in update.text
    assert "Traceback" not in update.text
    assert written() == before


PACK = ("--policy-pack", "policies", "--policy-pack-config")
ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"


def judged(stack: Stack, config: Path) -> Update:
    """`pulumi up` with the pack, and with the lab's stack taken for production."""
    return stack.run("up", "--yes", "--config-file", str(stack.file), *PACK, str(config))


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    """The lab's images have no digest, so nothing passes that can be refused."""
    found = tmp_path / "strict.json"
    found.write_text(json.dumps({"pinned-images": {"stacks": ["lab"]}}))
    return found


def live() -> dict[str, Any]:
    """The route as the cluster has it."""
    found: dict[str, Any] = api("GET", ROUTE)
    return found


def test_a_rise_is_refused_and_no_way_down_is_however_broken_canary_is(stack: Stack, strict: Path) -> None:
    before = live()["metadata"]["resourceVersion"]
    stack.service(canary={"image": "sample-web:2.0", "env": {"CRASH_IF_FILE": "/"}})
    stack.edit(weight=5)
    refused = judged(stack, strict)
    assert refused.code != 0
    assert "container web: image sample-web:2.0 has no digest" in refused.text
    assert live()["metadata"]["resourceVersion"] == before
    deployments = api("GET", "/apis/apps/v1/namespaces/shop/deployments")["items"]
    assert sorted(item["metadata"]["name"] for item in deployments) == ["waypoint", "web-stable"]

    stack.service(canary={"image": "sample-web:2.0"})
    for weight in (5, 10):
        stack.edit(weight=weight)
        stack.up().check()
    # It breaks: pods that never get ready, and images that production does not take.
    api("PATCH", "/apis/apps/v1/namespaces/shop/deployments/web-canary", {"spec": {"replicas": 0}})
    for keys in ({"weight": 5}, {"weight": 5, "halted": True}, {"weight": 0, "halted": False}):
        stack.edit(**keys)
        down = judged(stack, strict).check()
        assert "way-down-first" in down.text
        assert "image sample-web:1.0 has no digest" in down.text, "it is told"
    assert live()["spec"]["http"][-1]["route"][1]["weight"] == 0
