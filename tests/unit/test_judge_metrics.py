"""What is asked of Prometheus, and that nothing it may answer, or not answer, is a verdict on canary."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from core import checks
from core.judge import Verdict
from core.model import Settings
from core.timeline import Update
from rollout import metrics
from rollout.judge import outlook, verdict
from rollout.metrics import Prometheus, crashes

BEGAN = datetime(2026, 11, 2, 9, tzinfo=UTC)
NOW = BEGAN + timedelta(minutes=10)
STEPS = [{"weight": 5, "hold": "5m"}, {"weight": 50, "hold": "5m"}, {"weight": 100, "hold": "5m"}]
LE = ("100.0", "250.0", "500.0", "1000.0", "2500.0", "+Inf")


def settings(gate: Mapping[str, Any] | None = None, **more: Any) -> Settings:
    web = {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}, "hosts": ["shop.example.com"]}
    raw = {"namespace": "shop", "services": {"web": web}, "steps": STEPS, "weight": 5, "gate": dict(gate or {})} | more
    return checks.parse(raw)[0]


def updates(weight: int = 5, **more: Any) -> list[Update]:
    told: dict[str, Any] = {"result": "succeeded", "halted": False, "ended": BEGAN + timedelta(seconds=5)} | more
    images = {"web": {"stable": "web:1", "canary": "web:2"}}
    return [Update(version=1, began=BEGAN, weight=weight, images=images, **told)]


class Store:
    """A Prometheus of counters that rise evenly from `BEGAN`: (labels, per second), scraped every 15 s until `end`."""

    def __init__(self, *counters: tuple[dict[str, str], float], end: datetime = NOW) -> None:
        self.counters, self.end, self.asked = counters, end, list[str]()

    def answer(self, request: httpx.Request) -> httpx.Response:
        asked = parse_qs(request.content.decode())
        query, at = asked["query"][0], float(asked["time"][0])
        self.asked.append(query)
        if query.startswith("count by (le)"):
            rows = [{"metric": {"le": le}, "value": [at, "1"]} for le in LE]
            return self.told(rows)
        selector, _, window = query.removesuffix("s]").rpartition("[")
        name, _, rest = selector.partition("{")
        begin, last = max(BEGAN.timestamp() - 60, at - float(window)), min(at, self.end.timestamp())
        times = [15.0 * n for n in range(int(begin // 15) + 1, int(last // 15) + 1)]
        rows = [
            {
                "metric": labels,
                "values": [[t, str(max(0, int((t - BEGAN.timestamp()) * rate)))] for t in times],
            }
            for labels, rate in self.counters
            if labels["__name__"] == name and (f'reporter="{labels.get("reporter")}"' in rest or "reporter" not in rest)
        ]
        return self.told([row for row in rows if row["values"]])

    @staticmethod
    def told(rows: list[Any]) -> httpx.Response:
        return httpx.Response(200, json={"status": "success", "data": {"result": rows}})

    def source(self) -> Prometheus:
        return Prometheus("http://prometheus", httpx.MockTransport(self.answer))


def requests(
    track: str, rate: float, code: int = 200, reporter: str = "source", **more: str
) -> tuple[dict[str, str], float]:
    workload = track if track == "unknown" else f"web-{track}"
    labels = {"__name__": "istio_requests_total", "reporter": reporter, "destination_workload": workload}
    return labels | {"response_code": str(code), "instance": "gateway-1"} | more, rate


def durations(track: str, rate: float, slow: float) -> Iterator[tuple[dict[str, str], float]]:
    for le in LE:
        labels, _ = requests(track, rate)
        within = rate if le == "+Inf" or float(le) > 2000 else rate * (1 - slow)
        yield labels | {"__name__": "istio_request_duration_milliseconds_bucket", "le": le}, within


HEALTHY = requests("stable", 95), requests("canary", 5)


def judged(source: Prometheus, at: datetime = NOW, history: list[Update] | None = None, **gate: Any) -> Verdict:
    return verdict(settings(gate), updates() if history is None else history, at, source=source)


def test_a_healthy_canary_advances_and_says_what_was_read() -> None:
    found = judged(Store(*HEALTHY).source())
    assert found.kind == "advance"
    assert any(query.startswith("istio_requests_total{reporter=") for query in found.queries)


def test_a_stack_file_that_has_not_the_deployed_service_holds() -> None:
    (update,) = updates()
    renamed = replace(update, images={"shop": update.images["web"]})
    found = judged(Store(*HEALTHY).source(), history=[renamed])
    assert (found.kind, "none of the services" in found.reason) == ("hold", True)


def test_the_queries_name_one_reporter_for_each_door_and_no_rate() -> None:
    store = Store(*HEALTHY)
    judged(store.source())
    assert all(sum(f'reporter="{one}"' in query for one in ("source", "waypoint")) == 1 for query in store.asked)
    assert {True} == {any(f'reporter="{one}"' in query for query in store.asked) for one in ("source", "waypoint")}
    assert not any("rate(" in query or "increase(" in query for query in store.asked)
    assert all(
        'destination_service_namespace="shop"' in query and 'response_code!="0"' in query for query in store.asked
    )


def test_a_failing_canary_is_rolled_back_at_either_door() -> None:
    for door in ("source", "waypoint"):
        bad = requests("canary", 2, 503, door)
        assert judged(Store(*HEALTHY, bad).source()).kind == "rollback", door


def test_requests_that_found_no_endpoint_count_against_canary() -> None:
    assert judged(Store(requests("stable", 95), requests("unknown", 5, 503)).source()).kind == "rollback"
    assert judged(Store(*HEALTHY, requests("unknown", 0.001, 503)).source()).kind == "advance"


def test_failed_calls_of_grpc_are_failures_though_http_says_200() -> None:
    bad = requests("canary", 3, 200, grpc_response_status="14")
    web = {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}, "protocol": "grpc"}
    source = Store(*HEALTHY, bad).source()
    assert verdict(settings(services={"web": web}), updates(), NOW, source=source).kind == "rollback"
    assert judged(Store(*HEALTHY, bad).source()).kind == "advance", "a service of HTTP has no such status"


def test_a_slow_canary_is_rolled_back_where_the_gate_has_a_p95() -> None:
    slow = [*durations("stable", 95, 0.02), *durations("canary", 5, 0.4)]
    found = judged(Store(*HEALTHY, *slow).source(), p95="500ms")
    assert (found.kind, "took longer than 500 ms" in found.reason) == ("rollback", True)
    assert judged(Store(*HEALTHY, *slow).source()).kind == "advance"
    quick = [*durations("stable", 95, 0.02), *durations("canary", 5, 0.02)]
    assert judged(Store(*HEALTHY, *quick).source(), p95="500ms").kind == "advance"
    assert judged(Store(*HEALTHY, *quick).source(), p95="9s").reason.startswith("web: no bucket of")


def test_metrics_of_the_services_themselves_are_told_apart_by_pod() -> None:
    def own(track: str, rate: float, status: str = "200", pod: str = "1") -> tuple[dict[str, str], float]:
        labels = {"__name__": "http_requests_total", "app": "web", "version": track, "status": status}
        return labels | {"instance": f"{track}-{pod}:3000"}, rate

    good = own("stable", 50), own("stable", 45, pod="2"), own("canary", 5)
    bad = (*good, own("canary", 2, "500"))
    assert judged(Store(*good).source(), metrics="app").kind == "advance"
    assert judged(Store(*bad).source(), metrics="app").kind == "rollback"
    for counters, kind in ((good, "advance"), (bad, "rollback")):  # no mesh counts there
        web = {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}}
        plain = settings(strategy="replicas", services={"web": web}, weight=0)
        assert verdict(plain, updates(), NOW, source=Store(*counters).source()).kind == kind


# Whatever happens to Prometheus holds.


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer(self)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def reply(status: int, body: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-type", "text/html" if body.startswith("<") else "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return answer


def result(*rows: Any) -> str:
    return json.dumps({"status": "success", "data": {"result": rows}})


NAN = result({"metric": requests("canary", 1)[0], "values": [[NOW.timestamp(), "NaN"]]})
ANSWERS = {
    "empty": (200, result(), "web: Prometheus at URL has no requests to it: is it scraped?"),
    "NaN": (200, NAN, "Prometheus at URL answers NaN, which is no count: istio_requests_total{"),
    "HTTP 500": (500, "{}", "Prometheus at URL answers HTTP 500"),
    "HTTP 503 with HTML": (503, "<html>", "Prometheus at URL answers HTTP 503"),
    "an error": (
        422,
        json.dumps({"status": "error", "error": "too many samples"}),
        "Prometheus at URL answers HTTP 422: too many samples",
    ),
    "no JSON": (200, "{nonsense", "Prometheus at URL cannot be read:"),
    "another form": (200, json.dumps({"status": "success", "data": 5}), "Prometheus at URL answers in a form"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_without_counts_holds_with_the_reason_in_a_line(case: str) -> None:
    status, body, reason = ANSWERS[case]
    with server(reply(status, body)) as url:
        found = judged(Prometheus(url))
        reason = reason.replace("URL", url if case != "empty" else "http://prometheus.monitoring:9090")
    assert (found.kind, found.reason.startswith(reason)) == ("hold", True), found.reason
    assert "\n" not in found.reason


def test_a_prometheus_that_refuses_or_hangs_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hanging = judged(Prometheus(f"http://127.0.0.1:{port}"))
    refused = judged(Prometheus(f"http://127.0.0.1:{port}"))
    assert (hanging.kind, hanging.reason) == (
        "hold",
        f"Prometheus at http://127.0.0.1:{port} did not answer within 0.3 s",
    )
    assert refused.kind == "hold"
    assert refused.reason.startswith(f"Prometheus at http://127.0.0.1:{port} cannot be read: ")


def test_samples_that_are_old_hold_though_they_looked_well() -> None:
    found = judged(Store(*HEALTHY, end=NOW - timedelta(minutes=4)).source())
    assert found.kind == "hold"
    assert found.reason.startswith("web: the newest sample in Prometheus")
    assert found.reason.endswith("s old")


def test_a_canary_without_traffic_holds() -> None:
    found = judged(Store(requests("stable", 95)).source())
    assert (found.kind, "no requests to canary" in found.reason) == ("hold", True)


def test_both_arms_failing_hold() -> None:
    both = requests("stable", 9.5, 500), requests("canary", 0.5, 500)
    found = judged(Store(*HEALTHY, *both).source())
    assert (found.kind, "shared dependency" in found.reason) == ("hold", True)


def test_an_outage_of_prometheus_rolls_back_only_where_that_was_chosen_for_the_end_of_max_hold() -> None:
    down = Prometheus("http://prometheus", httpx.MockTransport(lambda _: httpx.Response(500)))
    for told, kind in {"hold": "hold", "rollback": "rollback"}.items():
        assert judged(down, maxHold="5m", onInconclusive=told).kind == kind
        assert judged(down, maxHold="1h", onInconclusive=told).kind == "hold"


# Who looks, when, and how often.


def test_two_who_look_agree_and_looking_twice_changes_nothing() -> None:
    store = Store(*HEALTHY, requests("canary", 0.02, 500))
    one, other = store.source(), store.source()
    judged(one, NOW - timedelta(minutes=3))
    assert judged(one) == judged(one) == judged(other)


def test_the_past_is_judged_as_it_was_whatever_came_after() -> None:
    then = NOW - timedelta(minutes=6)
    assert judged(Store(*HEALTHY, end=then).source(), then) == judged(Store(*HEALTHY).source(), then)


def test_what_is_settled_is_not_asked_for_again() -> None:
    later = BEGAN + timedelta(hours=3)
    store = Store(*HEALTHY, end=later)
    source = store.source()
    judged(source, later)
    before = len(store.asked)
    judged(source, later)
    assert 0 < len(store.asked) - before < before


def test_without_a_canary_or_while_halted_nothing_is_asked() -> None:
    store = Store()
    assert judged(store.source(), history=[]).kind == "hold"
    assert "halted" in judged(store.source(), history=updates(0, halted=True)).reason
    assert store.asked == []


def test_the_first_rung_waits_for_metrics_too() -> None:
    assert judged(Store(requests("stable", 95)).source(), history=updates(0)).kind == "advance"
    assert judged(Store().source(), history=updates(0)).kind == "hold"


# What else may hold an advance.


def test_a_check_that_fails_holds_an_advance_and_only_at_its_moment() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(503 if "sour" in str(request.url) else 204)

    urls = {"sour/start": "start", "sweet": "step", "sour": "promote"}
    gate = {"checks": [{"url": f"http://ok/{name}", "at": moment} for name, moment in urls.items()]}
    for weight, kind in ((0, "hold"), (5, "advance"), (100, "hold")):
        arms = HEALTHY if weight < 100 else (requests("canary", 100),)
        found = verdict(
            settings(gate), updates(weight), NOW, source=Store(*arms).source(), transport=httpx.MockTransport(answer)
        )
        assert found.kind == kind, found
    assert found.reason == "check http://ok/sour answers 503; 2xx lets the rollout go on"
    assert asked == ["http://ok/sour/start", "http://ok/sweet", "http://ok/sour"]
    replay = verdict(settings(gate), updates(100), NOW, source=Store(requests("canary", 100)).source(), live=False)
    assert replay.kind == "advance", "nobody knows what a check said then"


class Pods:
    """lightkube's client, of one pod."""

    def __init__(self, ended: dict[str, Any], state: str = "lastState") -> None:
        status = {"containerStatuses": [{"restartCount": 2, state: {"terminated": ended} if ended else {}}]}
        self._pod = {"metadata": {"name": "web-canary-1"}, "status": status}

    def list(self, _kind: Any, labels: Mapping[str, str]) -> Iterator[Any]:
        assert labels == {"app": "web", "version": "canary"}
        pod = self._pod
        yield type("Pod", (), {"to_dict": lambda _: pod})()


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ({}, None),
        ({"exitCode": 1, "finishedAt": "2026-11-02T08:00:00Z"}, None),
        ({"exitCode": 0, "finishedAt": "2026-11-02T09:05:00Z"}, None),
        (
            {"exitCode": 1, "finishedAt": "2026-11-02T09:05:00Z"},
            "web: web-canary-1 restarted 2 times, last exit 1 at 2026-11-02T09:05:00Z",
        ),
        (
            {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-02T09:05:00Z"},
            "web: web-canary-1 restarted 2 times, last for its memory (OOMKilled) at 2026-11-02T09:05:00Z",
        ),
    ],
    ids=["never", "before this canary", "as it was told to", "crashed", "killed for its memory"],
)
def test_a_canary_that_crashes_does_not_advance(ended: dict[str, Any], told: str | None) -> None:
    assert crashes(Pods(ended), ["web"], BEGAN) == crashes(Pods(ended, "state"), ["web"], BEGAN) == told
    found = verdict(settings(), updates(), NOW, source=Store(*HEALTHY).source(), cluster=Pods(ended))
    assert (found.kind, found.reason == told) == (("hold", True) if told else ("advance", False))


def test_before_the_start_each_rung_says_what_it_will_notice_from_what_stable_serves() -> None:
    def told(rate: float, failing: float) -> list[str]:
        def answer(request: httpx.Request) -> httpx.Response:
            query = parse_qs(request.content.decode())["query"][0]
            value = 0.0 if "canary" in query else failing if "5.." in query else rate
            return Store.told([{"metric": {"service": "web"}, "value": [0, str(value)]}] if rate else [])

        source = Prometheus("http://prometheus", httpx.MockTransport(answer))
        return list(outlook(settings({"maxHold": "1h"}), ["web"], NOW, source))

    lines = told(100, 0.1)
    assert lines[0] == "web, at 100 requests per second, 0.1 % of stable's failing:"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["5", "%", "notices"],
        ["50", "%", "notices"],
        ["100", "%", "notices"],
    ]
    blind = told(2, 0.002)
    assert blind[1].startswith("    5 %  notices 120 times as bad within 5:00; 10 times as bad in 1:47:")
    assert blind[-1].startswith("  the first rung is blind: ")
    assert told(0, 0) == ["web: no requests to stable in the last hour: what the rungs will notice is not known"]
    down = Prometheus("http://prometheus", httpx.MockTransport(lambda _: httpx.Response(500)))
    (line,) = outlook(settings(), ["web"], NOW, down)
    assert (
        line == "what the rungs will notice is not known: Prometheus at http://prometheus answers HTTP 500: no result"
    )
