"""What each stack declares, whole: a review sees what a change does to all of them.  `make golden` renews the files."""

from __future__ import annotations

import json

import pytest

from core import schema
from tests import program

GOLDEN = program.ROOT / "tests" / "golden"


STACKS = ("dev", "prod", "lab", "train", "replicas", "flagger-web-app", "flagger-payment-service")


def _dump(stack: str) -> str:
    run = program.run(program.stack_config(stack))
    resources = [
        {
            "type": one.type,
            "name": one.name,
            "parent": one.parent,
            "dependsOn": one.depends_on,
            "inputs": one.inputs,
        }
        for one in sorted(run.resources, key=lambda one: (one.type, one.name))
    ]
    text = json.dumps({"resources": resources, "outputs": run.outputs}, indent=1, sort_keys=True) + "\n"
    return program.without_times(text)


@pytest.mark.parametrize("stack", STACKS)
def test_the_stack_declares_what_its_golden_file_says(stack: str, update_golden: bool) -> None:
    path = GOLDEN / f"{stack}.json"
    found = _dump(stack)
    if update_golden:
        path.write_text(found)
    assert path.read_text() == found, "if the difference is meant: make golden"


def test_the_json_schema_is_the_one_of_the_settings_model(update_golden: bool) -> None:
    path = program.ROOT / "schema" / "stack.schema.json"
    if update_golden:
        path.write_text(schema.text())
    assert path.read_text() == schema.text(), "if the difference is meant: make golden"
