"""Two edge nodes that stand in for CloudFront: nginx with njs 0.7.9 runs the functions as published in ministack.

`edge` is as current as the last poll; `edge_late` sees writes to the store `LAB_EDGE_LAG` seconds late (60), as a real
edge location may.  `watch` copies code, settings and stores to both.  Standard library only: `lab load` asks here.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from lab.namespace import LabError
from lab.paths import LAB

FOLDER = LAB / "edge"
NODES = {"edge": 9080, "edge_late": 9081}
"""Ports, on all addresses of the lab; CloudFront's own are 80 and 443, and those are the gateway's here."""

VIEWER = "x-lab-viewer"
"""Header of the lab alone: the address that the viewer is to have.  Without it, that of the connection."""

LAG = FOLDER / "lag"
"""Seconds by which `edge_late` is late; read at each poll, so a test may change it."""

POLLED = FOLDER / "polled"
"""When the last poll that went through began, Unix time."""

_SPACE = "{http://cloudfront.amazonaws.com/doc/2020-05-31/}"


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What a node needs to know of one.  `functions` are names by event, `headers` go to the origin as they are."""

    id: str
    aliases: tuple[str, ...]
    origin: str
    port: int
    read_timeout: int
    headers: dict[str, str] = field(repr=False)  # the origin secret is among them
    cache_policy: str
    functions: dict[str, str]
    problem: str  # what a node would have to leave out and still call itself an edge


class Aws:
    """The few calls of CloudFront that a node makes, unsigned: ministack asks for no signature."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # no proxy knows the lab

    def get(self, path: str) -> bytes:
        """The answer to a GET; `OSError` where there is none, or it is an error."""
        with self._open(f"{self._endpoint}{path}", timeout=5) as answer:
            found: bytes = answer.read()
        return found

    def xml(self, path: str) -> ElementTree.Element:
        """The same below CloudFront's API version, as XML."""
        return ElementTree.fromstring(self.get(f"/2020-05-31/{path}"))

    def distributions(self) -> list[Distribution]:
        """All that are enabled."""
        listed = all_of(self.xml("distribution"), "DistributionSummary")
        return [_distribution(one) for one in listed if text(one, "Enabled") == "true"]


def _distribution(one: ElementTree.Element) -> Distribution:
    origins, behavior = all_of(one, "Origin"), one.find(f"{_SPACE}DefaultCacheBehavior")
    assert behavior is not None
    pairs = [(text(one, "EventType"), text(one, "FunctionARN")) for one in all_of(behavior, "FunctionAssociation")]
    headers = [(text(one, "HeaderName"), text(one, "HeaderValue")) for one in all_of(one, "OriginCustomHeader")]
    problem = ""
    if len(origins) != 1 or all_of(one, "CacheBehavior") or all_of(one, "CustomErrorResponse"):
        problem = "the lab's edge knows one origin, one behavior and no error pages"
    elif text(one, "OriginProtocolPolicy") != "http-only":
        problem = "the lab's edge calls origins over HTTP only"
    return Distribution(
        id=text(one, "Id"),
        aliases=tuple(one.text or "" for one in all_of(one, "CNAME")),
        origin=text(origins[0], "DomainName"),
        port=int(text(origins[0], "HTTPPort") or 80),
        read_timeout=int(text(origins[0], "OriginReadTimeout") or 30),
        headers=dict(headers),
        cache_policy=text(behavior, "CachePolicyId"),
        functions={event: arn.rpartition("/")[2] for event, arn in pairs},
        problem=problem,
    )


def all_of(node: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    """Every element of that name below `node`."""
    return list(node.iter(f"{_SPACE}{tag}"))


def text(node: ElementTree.Element, tag: str) -> str:
    """The text of the first element of that name, or nothing."""
    return next((one.text or "" for one in all_of(node, tag)), "")


def origin_headers(endpoint: str, host: str) -> dict[str, str]:
    """What the edge adds to requests for `host`, or for any other where no distribution has that alias."""
    try:
        found = Aws(endpoint).distributions()
    except OSError as error:
        raise LabError(f"{endpoint} does not say what the edge sends to the gateway: {error}") from error
    return max(found, key=lambda one: host in one.aliases).headers if found else {}


def told() -> dict[str, str]:
    """For `lab status`: what each node reads of the percentage, by node and distribution."""
    found = {}
    for name in NODES:
        for folder in sorted((FOLDER / name).glob("*/node.js")):
            store = folder.with_name("store.json")
            values = json.loads(store.read_text()) if store.exists() else {}
            found[f"{name} reads"] = values.get("green_percentage", "no store: everybody is blue")
    if found:
        found["edge_late is late"] = f"{LAG.read_text()} s"
    return found


def settle(seconds: float = 30) -> None:
    """Waits until the node `edge` has what was published and stored before the call."""
    began = time.time()
    for _ in _until(began + seconds):
        if POLLED.exists() and float(POLLED.read_text() or 0) > began:
            return
    raise LabError(f"the edge has not looked for {seconds} s: see .lab/logs/edge.log")


def set_lag(seconds: float) -> None:
    """By how much the node `edge_late` is late from now on."""
    write(LAG, str(seconds))
    settle()


def _until(deadline: float) -> Iterator[None]:
    while time.time() < deadline:
        yield
        time.sleep(0.05)


def write(path: Path, content: str) -> bool:
    """Whether it was another content; the file changes as a whole, and nobody else reads it."""
    if path.exists() and path.read_text() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    aside.touch(mode=0o600)
    aside.write_text(content)
    aside.replace(path)
    return True
