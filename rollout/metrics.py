"""What is asked of the world before a verdict: Prometheus for raw samples, the cluster for crashes, URLs for a yes.

Whatever goes wrong on the way is `NoData` with one line, and no data is no verdict on canary: it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from core import promql
from core.bets import Evidence
from core.evidence import Series, interval, newest, ticks
from core.model import Check, Settings
from core.timeline import Stay

TIMEOUT = 5.0
"""Seconds that one answer may take."""

LEAD, LAG = 300, 5
"""Seconds that are read before a canary comes, for what its counters stood at; seconds until a scrape is stored."""

STALE = 60
"""Seconds after which the newest sample is too old, or three scrapes if those take longer."""

HORIZON = 3 * 24 * 3600
"""Seconds of evidence that are remembered at the most."""

_CHUNK = 3600
_NEIGHBOURS = 2  # bounds on either side of the one that stands for `gate.p95`

Found = list[tuple[dict[str, str], list[tuple[float, float]]]]


class NoData(Exception):
    """Nothing can be said; why, in one line."""


class Prometheus:
    """Stored samples.  What is older than a while does not change any more and is kept."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._url, self._kept = url, dict[tuple[str, float, float], Found]()
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT, transport=transport)
        self.asked: list[str] = []

    def ask(self, query: str, at: float) -> Found:
        """The series of an instant query, or the samples of one with a range."""
        where = f"Prometheus at {self._url}"
        try:
            answer = self._client.post("/api/v1/query", data={"query": query, "time": f"{at:.3f}"})
            # Who stands before it answers errors in forms of its own.
            told = answer.json() if answer.is_success or "json" in answer.headers.get("content-type", "") else {}
        except httpx.TimeoutException:
            raise NoData(f"{where} did not answer within {TIMEOUT:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise NoData(f"{where} cannot be read: {error or type(error).__name__}") from None
        if answer.status_code != 200 or told.get("status") != "success":
            raise NoData(f"{where} answers HTTP {answer.status_code}: {str(told.get('error', 'no result'))[:200]}")
        try:
            rows = told["data"]["result"]
            found = [(row["metric"], row["values"] if "values" in row else [row["value"]]) for row in rows]
            read = [(labels, [(float(when), float(value)) for when, value in values]) for labels, values in found]
        except (KeyError, TypeError, ValueError):
            raise NoData(f"{where} answers in a form that is not its own") from None
        if not all(math.isfinite(value) for _, values in read for _, value in values):
            raise NoData(f"{where} answers NaN, which is no count: {query}")
        return read

    def samples(self, selector: str, stays: Sequence[Stay], at: float) -> Found:
        """All samples while canary was there, by series; asked for by the hour, on the hour."""
        found: dict[tuple[tuple[str, str], ...], tuple[dict[str, str], list[tuple[float, float]]]] = {}
        self.asked.append(selector)
        for begin, end in _hours(stays, at):
            key = selector, begin, end
            rows = self._kept.get(key) or self.ask(f"{selector}[{end - begin:.0f}s]", end)
            if end < at - LEAD:
                self._kept[key] = rows
            for labels, values in rows:
                found.setdefault(tuple(sorted(labels.items())), (labels, []))[1].extend(values)
        return list(found.values())


def _hours(stays: Sequence[Stay], at: float) -> list[tuple[float, float]]:
    found: set[tuple[float, float]] = set()
    for stay in stays:
        begin, last = max(stay.since - LEAD, at - HORIZON), min(stay.until, at - LAG)
        for hour in range(int(begin // _CHUNK), int(last // _CHUNK) + 1):
            found.add((hour * _CHUNK, min((hour + 1) * _CHUNK, math.floor(at - LAG))))
    return sorted((begin, end) for begin, end in found if begin < end)


def evidence(settings: Settings, service: str, stays: Sequence[Stay], at: float, source: Prometheus) -> Evidence:
    """What is stored of one service up to a moment before `at`; NoData where it is nothing, or too old."""
    app, gate = promql.uses_app(settings), settings.gate
    grpc = settings.services[service].protocol == "grpc"
    tracks, condition = ("stable|canary", "") if app else ("stable|canary|unknown", 'response_code!="0"')
    found: list[Series] = []

    def read(metric: str, *more: str) -> Iterable[tuple[dict[str, str], list[tuple[float, float]], str, str, str]]:
        for door in (None,) if app else ("gateway", "waypoint"):
            of = promql.Raw(settings, (service,), door)
            for selector in of.selectors(metric, [",".join(filter(None, (condition, *more)))], tracks):
                for labels, samples in source.samples(selector, stays, at):
                    track = labels["version"] if app else labels["destination_workload"].rpartition("-")[2]
                    target = "/".join(labels.get(name, "") for name in ("job", "instance", "pod", "source_workload"))
                    yield labels, samples, door or "", target, track

    total = "http_requests_total" if app else "istio_requests_total"
    for labels, samples, door, target, track in read(total):
        code = labels.get("status" if app else "response_code", "")
        failed = code.startswith("5") or (grpc and labels.get("grpc_response_status") in promql.GRPC_FAILURES)
        found.append(Series(door, target, track, failed, None, samples))
    if (last := newest(found)) < 0:
        raise NoData(f"{service}: Prometheus at {gate.prometheus} has no requests to it: is it scraped?")
    if (age := at - last) > max(STALE, 3 * interval(found)) + LAG:
        raise NoData(f"{service}: the newest sample in Prometheus at {gate.prometheus} is {age:.0f} s old")
    if gate.p95 is None:
        return Evidence(ticks(found, stays), window=2 * interval(found))
    scale = 1000 if app else 1
    name = "http_request_duration_seconds_bucket" if app else "istio_request_duration_milliseconds_bucket"
    (selector, *_) = promql.Raw(settings, (service,), None if app else "gateway").selectors(name, [condition], tracks)
    selectors = promql.Raw(settings, (service,)).selectors(name, [condition], tracks)
    texts = {labels["le"] for one in selectors for labels, _ in source.ask(f"count by (le) ({one})", last)}
    finite = sorted({float(text) * scale: text for text in texts if math.isfinite(float(text))}.items())
    place = next((index for index, (bound, _) in enumerate(finite) if bound >= gate.p95 - 1e-9), None)
    if place is None:
        raise NoData(f"{service}: no bucket of {selector} ends at gate.p95, {gate.p95:g} ms, or above it")
    chosen = finite[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS + 1]
    wanted = "|".join(text.replace(".", "[.]").replace("+", "[+]") for text in [*(text for _, text in chosen), "+Inf"])
    for labels, samples, door, target, track in read(name, f'le=~"{wanted}"'):
        found.append(Series(door, target, track, False, float(labels["le"]) * scale, samples))
    bounds = tuple(bound for bound, _ in chosen)
    return Evidence(ticks(found, stays, bounds), bounds, bounds.index(finite[place][0]), 2 * interval(found))


def crashes(client: Any, services: Iterable[str], since: datetime) -> str | None:
    """A container of canary that ended by itself since then, as the cluster tells; None where none did.

    `client` is lightkube's.
    """
    from lightkube.resources.core_v1 import Pod

    for service in services:
        for pod in client.list(Pod, labels={"app": service, "version": "canary"}):
            if told := _crash(pod.to_dict(), since):
                return f"{service}: {told}"
    return None


def _crash(pod: Mapping[str, Any], since: datetime) -> str | None:
    known = pod.get("status", {}).get("containerStatuses") or []
    for one, ended in ((one, (one.get(at) or {}).get("terminated")) for one in known for at in ("state", "lastState")):
        if not ended:
            continue
        finished = ended.get("finishedAt")
        moment = datetime.fromisoformat(str(finished).replace("Z", "+00:00")) if finished else None
        if moment and moment >= since and (ended.get("exitCode") or ended.get("reason") == "OOMKilled"):
            why = "for its memory (OOMKilled)" if ended.get("reason") == "OOMKilled" else f"exit {ended['exitCode']}"
            return f"{pod['metadata']['name']} restarted {one.get('restartCount', 1)} times, last {why} at {finished}"
    return None


def refusal(checks: Sequence[Check], at: str, transport: httpx.BaseTransport | None = None) -> str | None:
    """The first URL of `gate.checks` that does not answer 2xx at `start`, `step` or `promote`; None if all do."""
    for check in checks:
        if check.at == at:
            try:
                with httpx.Client(timeout=TIMEOUT, transport=transport) as client:
                    status = client.get(check.url).status_code
            except httpx.TimeoutException:
                return f"check {check.url} did not answer within {TIMEOUT:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                return f"check {check.url} cannot be asked: {error or type(error).__name__}"
            if not 200 <= status < 300:
                return f"check {check.url} answers {status}; 2xx lets the rollout go on"
    return None
