"""The webhook: the right alert rolls back once; nothing else does anything."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rollout import watch
from rollout.cli import Exit, Stop
from rollout.site import Site, now
from rollout.watch import MOST, Known, Watcher, application

TOKEN = {"Authorization": "Bearer secret"}
PRINT = "abc"


class FakeWatcher(Watcher):
    """Knows a canary that came an hour ago; the live route is halted by a rollback."""

    def __init__(self) -> None:
        super().__init__(Site(Path("/nowhere"), "lab"), say=print)
        self.known, self.failure = Known({"web": 5}, {"web": PRINT}, now() - timedelta(hours=1)), ""
        self.live: dict[str, dict[str, str]] | None = {"web": {"canary/canary": PRINT, "canary/halted": "false"}}
        self.refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1

    def _notes(self) -> Any:
        return self.live


@pytest.fixture
def rolled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rollbacks that were made."""
    return []


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch, rolled: list[Any]) -> FakeWatcher:
    made = FakeWatcher()

    def rollback(site: Site, why: Any, say: Any) -> None:
        rolled.append(why)
        if made.live is not None:
            made.live["web"]["canary/halted"] = "true"

    monkeypatch.setattr(watch, "rollback", rollback)
    return made


def client(watcher: Watcher) -> TestClient:
    return TestClient(application(watcher, "secret"))


def alert(status: str = "firing", ago: float = 60, **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "CanaryHighErrorRate", "stack": "lab", "service": "web"} | labels,
        "annotations": {"description": "12 % of canary's requests fail."},
        "startsAt": (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(),
    }


def post(watcher: Watcher, *alerts: dict[str, Any]) -> list[str]:
    answer = client(watcher).post("/webhook", json={"alerts": list(alerts)}, headers=TOKEN)
    assert answer.status_code == 200, answer.text
    return [one["outcome"] for one in answer.json()["alerts"]]


def test_a_firing_alert_rolls_back_and_its_text_is_the_reason(watcher: FakeWatcher, rolled: list[Any]) -> None:
    assert post(watcher, alert()) == ["rolled back"]
    assert (rolled[0].by, rolled[0].reason) == ("alert", "CanaryHighErrorRate: 12 % of canary's requests fail.")


def test_duplicates_roll_back_once_in_one_call_or_in_many_at_a_time(watcher: FakeWatcher, rolled: list[Any]) -> None:
    threads = [threading.Thread(target=post, args=[watcher, alert(), alert()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rolled) == 1
    assert post(watcher, alert()) == ["halted already"]


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (alert("resolved"), "resolved"),
        (alert(stack="prod"), "another stack"),
        (alert(service="api"), "another service"),
        (alert(severity="warning"), "not critical"),
        ({}, "resolved"),
        ({"status": "firing"}, "another stack"),
    ],
)
def test_what_is_no_business_of_this_stack_is_ignored(
    watcher: FakeWatcher, rolled: list[Any], sent: dict[str, Any], outcome: str
) -> None:
    assert post(watcher, sent) == [outcome]
    assert rolled == []


def test_a_resolved_one_that_overtakes_the_firing_one_does_not_hide_it(watcher: FakeWatcher, rolled: list[Any]) -> None:
    assert post(watcher, alert("resolved"), alert()) == ["resolved", "rolled back"]
    assert len(rolled) == 1


def test_an_alert_that_is_older_than_a_young_canary_is_about_another_one(
    watcher: FakeWatcher, rolled: list[Any]
) -> None:
    watcher.known = Known({"web": 5}, {"web": PRINT}, now() - timedelta(seconds=100))
    assert post(watcher, alert(ago=200)) == ["about an earlier canary"]
    assert post(watcher, alert(ago=50)) == ["rolled back"]


@pytest.mark.parametrize(
    ("failed", "name", "outcome"),
    [
        (0.0, "CanaryHighErrorRate", "about an earlier canary"),
        (5.0, "CanaryHighErrorRate", "rolled back"),
        (None, "CanaryHighErrorRate", "rolled back"),
        (0.0, "CanaryHighLatency", "rolled back"),
    ],
)
def test_an_alert_that_begins_on_failures_of_the_canary_before_does_not_take_back_the_one_that_has_none(
    watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch, failed: float | None, name: str, outcome: str
) -> None:
    watcher.known = Known({"web": 5}, {"web": PRINT}, now() - timedelta(seconds=60))
    monkeypatch.setattr(watcher, "_failed", lambda service, seconds: failed)
    assert post(watcher, alert(ago=1, alertname=name)) == [outcome]


def test_an_alert_that_never_ceased_is_about_the_next_canary_after_a_while(
    watcher: FakeWatcher, rolled: list[Any]
) -> None:
    watcher.known = Known({"web": 5}, {"web": PRINT}, now() - timedelta(seconds=400))
    assert post(watcher, alert(ago=500)) == ["rolled back"]


def test_a_canary_that_was_not_seen_yet_is_looked_up_first(watcher: FakeWatcher) -> None:
    assert watcher.live is not None
    watcher.live["web"]["canary/canary"] = "new"
    assert post(watcher, alert()) == ["rolled back"]
    assert watcher.refreshed >= 1


def test_a_service_without_a_canary_has_nothing_to_take_back(watcher: FakeWatcher, rolled: list[Any]) -> None:
    assert watcher.live is not None
    watcher.live["web"]["canary/canary"] = ""
    assert post(watcher, alert()) == ["no canary"]


def test_routes_that_cannot_be_read_stop_no_rollback(watcher: FakeWatcher, rolled: list[Any]) -> None:
    watcher.live = None
    assert post(watcher, alert(), alert(service="api")) == ["rolled back", "another service"]


def test_a_rollback_that_fails_is_answered_so_that_alertmanager_comes_again(
    watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise Stop(Exit.FAILED, "no route to host")

    monkeypatch.setattr(watch, "rollback", fails)
    answer = client(watcher).post("/webhook", json={"alerts": [alert()]}, headers=TOKEN)
    assert (answer.status_code, answer.json()) == (500, {"error": "no route to host"})


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}])
def test_without_the_token_nothing_is_read(watcher: FakeWatcher, rolled: list[Any], headers: dict[str, str]) -> None:
    assert client(watcher).post("/webhook", json={"alerts": [alert()]}, headers=headers).status_code == 401
    assert rolled == []


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", 400), (b"[]", 400), (b'{"alerts": [1]}', 400), (b"x" * (MOST + 1), 413)]
)
def test_what_is_no_call_of_alertmanager_is_refused(
    watcher: FakeWatcher, rolled: list[Any], body: bytes, code: int
) -> None:
    assert client(watcher).post("/webhook", content=body, headers=TOKEN).status_code == code
    assert rolled == []


def test_only_posts_reach_the_webhook(watcher: FakeWatcher) -> None:
    assert client(watcher).get("/webhook", headers=TOKEN).status_code == 405


def test_health_says_what_could_not_be_read(watcher: FakeWatcher) -> None:
    assert client(watcher).get("/healthz").json()["weights"] == {"web": 5}
    watcher.failure = "no such bucket"
    answer = client(watcher).get("/healthz")
    assert (answer.status_code, answer.json()["failure"]) == (503, "no such bucket")


def test_metrics_tell_the_weight_by_stack_and_service(watcher: FakeWatcher) -> None:
    watcher.weight.labels("lab", "web").set(5)
    post(watcher, alert())
    text = client(watcher).get("/metrics").text
    assert 'canary_weight{service="web",stack="lab"} 5.0' in text
    assert 'rollout_alerts_total{outcome="rolled back",stack="lab"} 1.0' in text


def looked(monkeypatch: pytest.MonkeyPatch, http: list[dict[str, Any]], strategy: str = "istio") -> str | None:
    """What becomes of an alert when the live route, whose note says halted, is `http`."""
    notes = {"canary/stable": "abc", "canary/canary": PRINT, "canary/halted": "true"}
    live = {} if strategy == "replicas" else {"web": {"metadata": {"annotations": notes}, "spec": {"http": http}}}
    monkeypatch.setattr("rollout.mesh.live_routes", lambda *_: live)
    monkeypatch.setattr(Site, "strategy", strategy)
    monkeypatch.setattr(Site, "access", ("shop", None, None))
    monkeypatch.setattr(Site, "client", None)
    watcher = Watcher(Site(Path("/nowhere"), "lab"), say=print)
    watcher.known = Known({"web": 5}, {"web": PRINT}, now() - timedelta(hours=1))
    return watcher.ignored(alert(), watcher._notes())


def test_a_halted_route_that_a_hand_has_opened_is_not_halted(monkeypatch: pytest.MonkeyPatch) -> None:
    stable = {"destination": {"subset": "stable"}, "weight": 95}
    canary = {"destination": {"subset": "canary"}, "weight": 5}
    assert looked(monkeypatch, [{"route": [stable]}]) == "halted already"
    assert looked(monkeypatch, [{"route": [stable, canary]}]) is None


def test_where_pods_are_the_share_no_route_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(monkeypatch, [], strategy="replicas") is None
