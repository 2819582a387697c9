"""The code of the functions: its size, and that it holds nothing that njs takes and CloudFront does not."""

from __future__ import annotations

from typing import Any

import pytest

from core import edge
from tests.edge import lint, njs
from tests.edge.conftest import Make

# Each runs under njs 0.7.9 without a word, but for those marked: these it refuses too, as CloudFront does.
BEYOND = {
    "const a = null ?? 1;": True,
    "function f(parts) { return parts.length; } f`x`;": True,
    "const a = {get b() { return 1; }};": True,
    "const a = {b() { return 1; }};": True,
    "const c = 'd'; const a = {[c]: 1};": True,
    "const a = async () => 1;": True,
    "const a = async function () { return 1; }; const b = async x => x;": True,
    "setTimeout(function () {}, 0);": True,
    "const a = typeof process.pid;": True,
    "console.log('a', 'b');": True,
    "const a = 'abc'.at(0);": False,
    "const a = Array.from('abc');": False,
    "const a = [1, [2]].flat();": False,
    "const a = 'aa'.replaceAll('a', 'b');": False,
    "const a = b?.c;": False,
    "const [a] = [1];": False,
    "const {a} = {a: 1};": False,
    "function f(a = 1) { return a; }": False,
    "const a = [...[1]];": False,
    "for (const a of [1]) { a; }": False,
    "class A {}": False,
    "const a = new Map();": False,
    "async function f(x) { return JSON.parse(await x); }": False,
    "import fs from 'fs';": False,
    "const fs = require('fs');": False,
    "const a = new Function('return 1');": False,
    "const a = eval('1');": False,
    "const r = {headers: {}}; r.headers['x'] = {}; r.headers['x'].value = 'green';": True,
}


@pytest.mark.parametrize("event", edge.FUNCTIONS)
def test_the_functions_pass(make: Make, event: str) -> None:
    settings = make(5, trustHeaders=["x-canary"])
    assert settings.edge is not None
    code = edge.code(event, settings, settings.edge)
    assert list(lint.problems(code)) == []
    assert len(code.encode()) <= edge.LONGEST_CODE
    done = njs.execute(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("line", BEYOND)
def test_what_cloudfront_does_not_have_is_found(line: str) -> None:
    assert list(lint.problems(line))


@pytest.mark.parametrize("line", [line for line, taken in BEYOND.items() if taken])
def test_for_some_of_it_njs_alone_would_not_do(line: str) -> None:
    assert njs.execute(line).returncode == 0


@pytest.mark.parametrize("line", [line for line, taken in BEYOND.items() if not taken])
def test_the_rest_njs_refuses_as_cloudfront_does(line: str) -> None:
    assert njs.execute(line).returncode != 0


def test_code_that_is_too_long_is_found() -> None:
    assert list(lint.problems("// " + "x" * 10_240))


def test_all_rules_of_one_stack_still_fit(make: Make) -> None:
    rules: list[dict[str, Any]] = [
        {"name": f"rule-{number}", "headers": {f"x-a-rather-long-name-of-a-header-{number}": "1"}}
        for number in range(80)
    ]
    settings = make(5)
    service = settings.services["web"].model_copy(update={"rules": type(settings.services["web"]).model_validate(
        {"stable": {"image": "a"}, "rules": rules}
    ).rules})  # fmt: skip
    many = settings.model_copy(update={"services": {"web": service}})
    assert many.edge is not None
    code = edge.code("viewer-request", many, many.edge)
    assert "x-a-rather-long-name-of-a-header-79" in code
    assert len(code.encode()) <= edge.LONGEST_CODE
