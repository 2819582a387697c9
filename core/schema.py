"""JSON Schema of a stack file, from the settings model: for editors and for checks of pull requests."""

from __future__ import annotations

import json
from typing import Any

from core.model import Settings

PROJECT = "canary"

_SEALED = {"type": "object", "properties": {"secure": {"type": "string"}}, "required": ["secure"]}
"""A value that `pulumi config set --secret` wrote."""


def stack_schema() -> dict[str, Any]:
    """Schema of `Pulumi.<stack>.yaml`: our keys in full, other projects' keys as they are."""
    model = Settings.model_json_schema(by_alias=True, mode="validation")
    definitions = model.pop("$defs", {})
    model["properties"].pop("secretValues")
    ours = {f"{PROJECT}:{name}": what for name, what in model["properties"].items()}
    for name in (f"{PROJECT}:originSecret", f"{PROJECT}:originSecretBefore"):
        ours[name]["anyOf"].append(_SEALED)
    config = {
        "type": "object",
        "properties": ours,
        "patternProperties": {f"^(?!{PROJECT}:)": {}, f"^{PROJECT}:secret-": {}},
        "additionalProperties": False,
    }
    found = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stack of the canary project",
        "type": "object",
        "properties": {"config": config},
        "$defs": definitions,
    }
    # Bounds of a value that a function reads: pydantic leaves them in its own words.
    whole: dict[str, Any] = json.loads(json.dumps(found).replace('"ge":', '"minimum":').replace('"le":', '"maximum":'))
    return whole


def text() -> str:
    """The schema as it stands in `schema/stack.schema.json`."""
    return json.dumps(stack_schema(), indent=2, sort_keys=True) + "\n"
