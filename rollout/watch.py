"""`rollout watch`: alerts take canary from everybody.  A webhook for Alertmanager, health, and metrics."""

from __future__ import annotations

import hmac
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core import alerts, promql, record
from core.timeline import canaries
from rollout import commits, engine, history, mesh, metrics
from rollout.cli import Exit, Stop, common
from rollout.rollback import Why, rollback
from rollout.site import Site, now

TOKEN = "ROLLOUT_WEBHOOK_TOKEN"
PORT = 9094
MOST = 256 * 1024
"""Bytes of a call that are read; Alertmanager's own are a few thousand."""

REFRESH = 30.0
"""Seconds between two looks at the state."""


@dataclass(frozen=True)
class Known:
    """What is known of the stack: `began` is when its present canary came, `prints` its templates by service."""

    weights: Mapping[str, int]
    prints: Mapping[str, str]
    began: datetime | None


class Watcher:
    """Decides what an alert means, and rolls back once."""

    def __init__(self, site: Site, git: bool = False, say: Any = click.echo) -> None:
        self.site, self.git, self.say = site, git, say
        self.known, self.failure = Known({}, {}, None), "the state was not read yet"
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        labels = ["stack", "service"]
        self.weight = Gauge(promql.WEIGHT, "Per cent that canary serves, as recorded.", labels, registry=self.registry)
        told = "Alerts that came, by what became of them."
        self.alerts = Counter("rollout_alerts", told, ["stack", "outcome"], registry=self.registry)
        told = "When the last alert came that took canary back, as Unix time."
        self.came = Gauge("rollout_last_alert_timestamp_seconds", told, ["stack"], registry=self.registry)
        took = "Seconds from an alert's arrival until nobody reaches canary."
        self.seconds = Histogram("rollout_rollback_seconds", took, ["stack"], registry=self.registry)

    def refresh(self) -> None:
        """Reads state and history; `failure` says why it could not."""
        try:
            if self.git:
                try:
                    commits.follow(self.site.project)
                except commits.GitError as error:
                    self.say(f"{error}; going on with the stack file that is here")
            entries = engine.records(self.site.engine.state())
            updates = history.updates(self.site.engine)
        except Exception as error:  # noqa: BLE001  health tells; the thread that looks must not end
            self.failure = str(error).partition("\n")[0] or type(error).__name__
            return
        carried = [one for one in updates if one.result == "succeeded"]
        began = None
        for one in reversed(carried):
            if canaries(one) != canaries(carried[-1]) or not canaries(one):
                break
            began = one.began
        prints = {name: entry.route.canary or "" for name, entry in entries.items()}
        self.known, self.failure = Known({name: one.route.weight for name, one in entries.items()}, prints, began), ""
        for name, entry in entries.items():
            self.weight.labels(self.site.stack, name).set(entry.route.weight)

    def ignored(self, alert: Mapping[str, Any], notes: Mapping[str, Mapping[str, str]] | None) -> str | None:
        """Why an alert takes nothing back; None when it does.  `notes` of the live routes: None if not known."""
        labels = alert.get("labels") or {}
        if alert.get("status") != "firing":
            return "resolved"
        if labels.get("stack") != self.site.stack:
            return "another stack"
        if labels.get("severity", "critical") != "critical":
            return "not critical"
        service = labels.get("service", "")
        if notes is None:
            return None if service in self.known.prints or not self.known.prints else "another service"
        if service not in notes:
            return "another service"
        about = notes[service]
        if not about.get(f"{record.PREFIX}canary"):
            return "no canary"
        if about.get(f"{record.PREFIX}halted") == "true":
            return "halted already"
        if about[f"{record.PREFIX}canary"] != self.known.prints.get(service):
            self.refresh()  # a canary that we have not seen yet
        began, fired = self.known.began, _moment(str(alert.get("startsAt", "")))
        age = int((now() - began).total_seconds()) if began else promql.WINDOW
        if began and age < promql.WINDOW:  # rates still look back to the one before
            counted = self._failed(service, age) if labels.get("alertname") in alerts.OF_FAILURES else None
            if (fired and fired < began) or (counted is not None and counted < 1):
                return "about an earlier canary"
        return None

    def _failed(self, service: str, seconds: int) -> float | None:
        """Requests that canary failed in the last `seconds`, which it has been there; None if nobody knows."""
        try:
            settings = self.site.settings()
            failures = promql.Raw(settings, services=(service,), window=max(1, seconds)).failures("canary")
            found = metrics.Prometheus(settings.gate.prometheus).ask(f"{failures} * {seconds}", time.time())
        except (Stop, metrics.NoData):
            return None
        return sum(samples[-1][1] for _, samples in found)

    def _notes(self) -> dict[str, Mapping[str, str]] | None:
        """Notes of the live routes; one that leads to canary is not halted, whatever its note says."""
        if self.site.strategy == "replicas":
            return None
        try:
            found = mesh.live_routes(self.site.client, self.site.access[0])
        except Exception as error:  # noqa: BLE001  an alert that cannot be checked counts
            self.say(f"the routes cannot be read: {error}")
            return None
        notes: dict[str, Mapping[str, str]] = {}
        for name, one in found.items():
            leads = not mesh.off(mesh.http_of(one))
            notes[name] = one["metadata"]["annotations"] | ({f"{record.PREFIX}halted": ""} if leads else {})
        return notes

    def handle(self, called: list[Mapping[str, Any]]) -> list[dict[str, str]]:
        """What became of each alert.  Raises `Stop` when a rollback has failed; Alertmanager comes again."""
        began, came, outcomes = time.monotonic(), time.time(), list[dict[str, str]]()
        with self._lock:
            for alert in called:
                labels = alert.get("labels") or {}
                name, service = str(labels.get("alertname", "?")), str(labels.get("service", "?"))
                outcome = self.ignored(alert, self._notes())
                if outcome is None:
                    told = (alert.get("annotations") or {}).get("description") or f"{name} of {service} fires"
                    self.say(f"alert {name} of {service}: rolling back")
                    why = Why(reason=f"{name}: {told}", by="alert", evidence=f"fires since {alert.get('startsAt')}")
                    rollback(self.site, why, self.say)
                    outcome = "rolled back"
                    self.came.labels(self.site.stack).set(came)
                    self.seconds.labels(self.site.stack).observe(time.monotonic() - began)
                    self.say(f"rolled back {time.monotonic() - began:.2f} s after the alert came")
                    threading.Thread(target=self._after, args=[why.reason]).start()
                self.alerts.labels(self.site.stack, outcome).inc()
                outcomes.append({"alert": name, "service": service, "outcome": outcome})
        return outcomes

    def _after(self, reason: str) -> None:
        if self.git:
            commits.agree(self.site.load().path, history.message("rollback", reason, by="alert"), self.say)
        self.refresh()


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def application(watcher: Watcher, token: str) -> Starlette:
    """The web application; `token` is what callers of the webhook show."""

    async def webhook(request: Request) -> Response:
        shown = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(shown, f"Bearer {token}".encode()):
            return JSONResponse({"error": "the bearer token is wrong"}, 401, {"WWW-Authenticate": "Bearer"})
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST:
                return JSONResponse({"error": f"more than {MOST} bytes"}, 413)
        try:
            called = json.loads(body)["alerts"]
            assert isinstance(called, list) and all(isinstance(one, dict) for one in called)
        except (ValueError, KeyError, TypeError, AssertionError):
            return JSONResponse({"error": "no webhook of Alertmanager: alerts is missing"}, 400)
        try:
            return JSONResponse({"alerts": await run_in_threadpool(watcher.handle, called)})
        except Stop as error:
            watcher.say(error.message)
            return JSONResponse({"error": error.message}, 500)

    async def healthz(_: Request) -> Response:
        found = {"stack": watcher.site.stack, "weights": dict(watcher.known.weights), "failure": watcher.failure}
        return JSONResponse(found, 503 if watcher.failure else 200)

    async def exported(_: Request) -> Response:
        return PlainTextResponse(generate_latest(watcher.registry), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/webhook", webhook, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/metrics", exported),
        ]
    )


@click.command
@common
@click.option("--git", is_flag=True, help="Follow the branch, and commit and push what a rollback changes.")
@click.option("--host", default="0.0.0.0", show_default=True)
@click.option("--port", default=PORT, show_default=True)
def command(stack: str | None, as_json: bool, git: bool, host: str, port: int) -> None:
    """Waits for Alertmanager and rolls back when it calls; POST /webhook, GET /healthz, GET /metrics."""
    import uvicorn

    token = os.environ.get(TOKEN, "")
    if not token:
        raise Stop(Exit.BAD_INPUT, f"{TOKEN} is not set; give it the token that Alertmanager sends")
    site = Site.find(stack)

    def say(text: str) -> None:
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        click.echo(json.dumps({"at": at, "said": text}) if as_json else f"{at} {text}")

    watcher = Watcher(site, git, say)
    watcher.refresh()
    line = mesh.line(site.settings(), site.access[1])
    say(f"watching {site.stack} on port {port}; to halt without this command: {line}")

    def follow() -> None:
        while True:
            time.sleep(REFRESH)
            watcher.refresh()

    threading.Thread(target=follow, daemon=True).start()
    uvicorn.run(application(watcher, token), host=host, port=port, log_level="warning")
