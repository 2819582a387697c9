"""What each stack declares, whole: a review sees what a change does to all of them.  `make golden` renews the files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core import schema
from tests import program

GOLDEN = program.ROOT / "tests" / "golden"


def _image(name: str, tag: str) -> str:
    return f"registry.example.com/{name}:{tag}"


def _tracks(name: str) -> dict[str, Any]:
    return {"stable": {"image": _image(name, "1.0.0")}, "canary": {"image": _image(name, "2.0.0")}}


# Nineteen pods to one: the first of the articles' ways.
REPLICAS = {
    "canary:strategy": "replicas",
    "canary:namespace": "shop",
    "canary:weight": 5,
    "canary:services": {"web-app": {**_tracks("web-app"), "replicas": 20, "probe": {"path": "/healthz"}}},
}

# Three services that move as one: public over HTTP, inside the mesh over gRPC, and one with all a track can have.
TRAIN = {
    "canary:namespace": "shop",
    "canary:weight": 5,
    "canary:secret-db-password": "not a real one",
    "canary:services": {
        "web": {**_tracks("web"), "hosts": ["shop.example.com"], "replicas": 4},
        "prices": {**_tracks("prices"), "protocol": "grpc", "replicas": 4},
        "orders": {
            **_tracks("orders"),
            "autoscale": {"min": 3, "max": 12},
            "config": {"data": {"orders.yaml": "currency: EUR"}, "mount": "/etc/orders"},
            "secrets": {"DB_PASSWORD": "db-password"},
            "pullSecrets": ["registry"],
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/orders"}},
        },
    },
}

STACKS = {name: program.stack_config(name) for name in ("dev", "prod", "lab")} | {
    "replicas": REPLICAS,
    "train": TRAIN,
}


def _dump(stack: str) -> str:
    run = program.run(STACKS[stack])
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
