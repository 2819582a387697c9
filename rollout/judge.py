"""`rollout judge`: the verdict on canary, now or at any moment that Prometheus remembers.  Changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from core import timeline
from core.bets import Evidence, sights
from core.judge import Step, Verdict, clock, inconclusive, judge, percent
from core.model import Settings
from core.promql import Raw
from core.timeline import Update
from policies import weights
from rollout.cli import Exit, Stop, common
from rollout.metrics import NoData, Prometheus, crashes, evidence, refusal

if TYPE_CHECKING:
    import httpx

EXITS = {"advance": Exit.DONE, "hold": Exit.HELD, "rollback": Exit.ROLLED_BACK}


def verdict(
    settings: Settings,
    updates: Sequence[Update],
    at: datetime,
    *,
    source: Prometheus | None = None,
    cluster: Any = None,
    live: bool = True,
    transport: httpx.BaseTransport | None = None,
) -> Verdict:
    """The verdict at `at`, from the stack's history and what Prometheus has stored; never raises for want of data.

    `source` may be kept from look to look: it remembers.  Crashes (by `cluster`, lightkube's client, if given) and
    `gate.checks` hold an advance; they are asked only when `live`, because nobody remembers what they said.
    """
    now, gate = at.timestamp(), settings.gate
    present = timeline.at(updates, at)
    grows = any(one.canary is not None and one.canary.replicas == "auto" for one in settings.services.values())
    stays = timeline.stays(updates, at, grows=grows)
    if present is None or not stays:
        halted = present is not None and present.halted
        return Verdict("hold", "the stack is halted" if halted else "no canary is deployed: there is nothing to judge")
    if settings.strategy == "flagger":
        return Verdict("hold", "strategy is flagger: Flagger judges this canary itself")
    names = [name for name in timeline.canaries(present) if name in settings.services]
    if not names:
        return Verdict("hold", "the stack file has none of the services whose canary is deployed: is it up to date?")
    step = _step(settings, stays, now)
    source = source or Prometheus(gate.prometheus)
    source.asked.clear()
    services: dict[str, Evidence] = {}
    try:
        for name in names:
            services[name] = evidence(settings, name, stays, now, source)
    except NoData as error:
        kind, reason, over = inconclusive(str(error), gate, step)
        found = Verdict(kind, reason, inconclusive=over)
    else:
        found = judge(services, gate, step)
    if found.kind == "advance" and live:
        moment = "start" if step.weight == 0 else "promote" if step.next is None else "step"
        refused = _crashed(cluster, services, stays) or refusal(gate.checks, moment, transport)
        found = replace(found, kind="hold", reason=refused) if refused else found
    return replace(found, queries=tuple(source.asked), seconds=sum(stay.until - stay.since for stay in stays))


def _step(settings: Settings, stays: Sequence[timeline.Stay], now: float) -> Step:
    weight, began = stays[-1].weight, stays[-1].since
    onward = weights.next_rung(settings.ladder, weight) if weight < weights.HIGHEST else None
    return Step(began, now, weight, onward, weights.hold_of(settings.ladder, weight))


def _crashed(cluster: Any, services: Iterable[str], stays: Sequence[timeline.Stay]) -> str | None:
    if cluster is None:
        return None
    import httpx2
    from lightkube.core import exceptions

    try:
        return crashes(cluster, services, datetime.fromtimestamp(stays[0].since, UTC))
    except (exceptions.ApiError, httpx2.HTTPError, OSError) as error:
        return f"canary's pods cannot be read, so nobody knows whether they crash: {error}"


def outlook(settings: Settings, names: Iterable[str], at: datetime, source: Prometheus | None = None) -> Iterator[str]:
    """What each rung will notice within its hold, and a better first one, at the rate and failures of the last hour."""
    source = source or Prometheus(settings.gate.prometheus)

    def per_second(query: str) -> float:
        return sum(samples[-1][1] for _, samples in source.ask(query, at.timestamp()))

    rungs = [(rung.weight, rung.hold) for rung in settings.steps]
    for name in names:
        raw = Raw(settings, (name,), window=3600)
        try:
            stable = per_second(raw.requests("stable"))
            rate, failing = stable + per_second(raw.requests("canary")), per_second(raw.failures("stable"))
        except NoData as error:
            yield f"what the rungs will notice is not known: {error}"
            return
        if not stable:
            yield f"{name}: no requests to stable in the last hour: what the rungs will notice is not known"
            continue
        seen, better = sights(rate, failing / stable, rungs, settings.gate)
        yield f"{name}, at {rate:.3g} requests per second, {percent(failing / stable)} of stable's failing:"
        for one in seen:
            least = f"{float(f'{one.smallest:.2g}'):g} times as bad" if one.smallest else "nothing"
            tenfold = clock(one.tenfold) if math.isfinite(one.tenfold) else "never"
            yield f"  {one.weight:3} %  notices {least} within {clock(one.hold)}; 10 times as bad in {tenfold}"
        if better:
            yield f"  the first rung is blind: {better} % would see 10 times as bad within maxHold"


@click.command
@common
@click.option("--at", "moment", metavar="TIME", help="Judge as of then, such as 2026-12-18T09:00:00Z.")
def command(stack: str | None, as_json: bool, moment: str | None) -> None:
    """The verdict on canary, now or as of a moment that Prometheus remembers: advance 0, hold 5, rollback 3."""
    from rollout import history
    from rollout.site import Site, now

    try:
        at = datetime.fromisoformat(moment) if moment else now()
    except ValueError:
        raise Stop(Exit.BAD_INPUT, f"--at {moment!r}: expected a time such as 2026-12-18T09:00:00Z") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    site = Site.find(stack)
    settings = site.settings()
    found = verdict(settings, history.updates(site.engine), at, cluster=_cluster(site), live=moment is None)
    if as_json:
        click.echo(json.dumps({"at": at.isoformat(), **asdict(found)}, indent=1))
    else:
        ahead = outlook(settings, found.tallies or settings.services, at)
        lines = [f"{found.kind.upper()}: {found.reason}", *found.notes, *ahead]
        click.echo("\n".join([*lines, *(f"read: {query}" for query in found.queries)]))
    raise SystemExit(int(EXITS[found.kind]))


def _cluster(site: Any) -> Any:
    from lightkube.core.exceptions import ConfigError

    try:
        return site.client
    except (ConfigError, OSError, ValueError):
        return None
