"""Runs the edge's functions as they are published, under njs 0.7.9: the nearest to CloudFront's runtime there is.

Node would take much that CloudFront does not.  `-s` and `-u` close the file system and `new Function`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from core import edge
from core.model import Settings
from lab import parts

VERSION = "0.7.9"

# The store as AWS documents it: an absent key rejects, no value is above 1 KB, and one string goes to the access log.
STUB = """
const state = {values: {}, logged: [], broken: ''};
function get(key) {
    return new Promise((resolve, reject) => {
        const value = state.values[key];
        if (typeof value !== 'string' || value.length > 1024) {
            reject(new Error('KeyNotFound'));
        } else {
            resolve(value);
        }
    });
}
function kvs() {
    if (state.broken === 'store') {
        throw new Error('no store');
    }
    return {get: get};
}
function logCustomData(text) {
    if (arguments.length !== 1 || typeof text !== 'string' || state.broken === 'log') {
        throw new Error('one string');
    }
    state.logged = [text];
}
export default {kvs: kvs, logCustomData: logCustomData, state: state};
"""

# A line has 2,047 bytes at the most, and the rest of a longer one is dropped.
TELL = """
function tell(value) {
    const text = JSON.stringify(value);
    for (let at = 0; at < text.length; at += 1000) {
        console.log('>' + text.slice(at, at + 1000));
    }
}
"""


def njs() -> Path:
    """The interpreter; the tests that need it are skipped, and say so, where set-up could not get it."""
    found = parts.find("njs")
    if found is None:
        pytest.skip("njs is not here: run python3 -m lab.setup")
    told = subprocess.run([found, "-v"], capture_output=True, text=True, check=True).stdout.strip()
    assert told == VERSION, f"newer ones take more than CloudFront does; this is {told}"
    return found


def execute(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a module that may import `cloudfront`."""
    program = njs()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cloudfront").write_text(STUB)
        Path(folder, "main.js").write_text(script)
        command = [str(program), "-s", "-u", "-p", folder, str(Path(folder, "main.js"))]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def result(script: str) -> Any:
    """What the script hands to `tell`."""
    done = execute(f"{script}\n{TELL}")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads("".join(line[1:] for line in done.stdout.splitlines() if line.startswith(">")))


def request(ip: str, headers: Mapping[str, Any] | None = None, cookies: Mapping[str, str] | None = None) -> Any:
    """A viewer request; a header is a text, or texts where it was sent more than once."""
    sent = {}
    for name, value in (headers or {}).items():
        texts = [value] if isinstance(value, str) else value
        more = {"multiValue": [{"value": text} for text in texts]} if len(texts) > 1 else {}
        sent[name] = {"value": texts[0], **more}
    crumbs = {name: {"value": value} for name, value in (cookies or {}).items()}
    return {
        "version": "1.0",
        "context": {"eventType": "viewer-request"},
        "viewer": {"ip": ip},
        "request": {"method": "GET", "uri": "/", "querystring": {}, "headers": sent, "cookies": crumbs},
    }


def on_requests(
    settings: Settings,
    events: Sequence[Any],
    *,
    store: Mapping[str, str] | None = None,
    broken: str = "",
    event: str = "viewer-request",
    pick: str = "{answer: answer, log: stub.state.logged.join()}",
) -> list[Any]:
    """What the function makes of each event: `{"answer", "log"}`.  By default the store holds what the settings ask."""
    assert settings.edge is not None
    values = edge.values(settings, settings.edge) if store is None else store
    lines = [
        "import stub from 'cloudfront';",
        edge.code(event, settings, settings.edge),
        f"stub.state.values = {json.dumps(values)};",
        f"stub.state.broken = {json.dumps(broken)};",
        f"function pick(answer) {{ return {pick}; }}",
        f"const EVENTS = {json.dumps(list(events))};",
        """async function all() {
    const found = [];
    for (let i = 0; i < EVENTS.length; i++) {
        stub.state.logged = [];
        const answer = await handler(EVENTS[i]);
        found.push(pick(answer));
    }
    tell(found);
}
all();""",
    ]
    found: list[Any] = result("\n".join(lines))
    return found


def stamps(settings: Settings, viewers: Sequence[tuple[str, str | None]], **more: Any) -> list[tuple[str, str]]:
    """(arm, reason) of requests by (address, bucket in the cookie)."""
    events = [request(ip, cookies=None if bucket is None else {edge.COOKIE: bucket}) for ip, bucket in viewers]
    pick = "[answer.headers['x-deployment'].value, answer.headers['x-deployment-reason'].value]"
    return [(arm, reason) for arm, reason in on_requests(settings, events, pick=pick, **more)]


def stamp(found: Any) -> tuple[str, str]:
    """(arm, reason) on an answered request."""
    headers = found["answer"]["headers"]
    return headers["x-deployment"]["value"], headers["x-deployment-reason"]["value"]
