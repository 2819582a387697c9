"""One step: what the rules say of the change from what was recorded to what the settings ask for.

An update is decided by it, and so is a pull request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core import capacity, record
from core.model import Settings
from policies import weights

Pairs = Mapping[str, tuple[weights.Route | None, weights.Route]]
"""Recorded and wanted route, by service."""


@dataclass(frozen=True)
class Verdict:
    """`broken` are services whose change breaks a rule.  `refused` are the lines that end the update; `excepted` those
    that `canary:override` lets pass."""

    broken: Sequence[str] = ()
    refused: Sequence[str] = ()
    excepted: Sequence[str] = ()


def pairs(
    settings: Settings, before: Mapping[str, weights.Route]
) -> dict[str, tuple[weights.Route | None, weights.Route]]:
    """What is recorded, and what the settings want after it."""
    return {name: (before.get(name), record.wanted(name, settings, before.get(name))) for name in settings.services}


def decide(
    settings: Settings,
    pairs: Pairs,
    now: datetime,
    *,
    ready: Mapping[str, bool] | None = None,
    replicas: Mapping[str, int] | None = None,
    silent: Mapping[str, Sequence[str]] | None = None,
) -> Verdict:
    """Whether the change may be made at `now`.

    `ready` and `replicas` tell of live Deployments by name, `silent` what would keep a weight from being in force by
    service; what is not known stands in nobody's way.
    """
    lines: dict[str, list[str]] = {}
    broken: dict[str, tuple[int, int]] = {}
    override = settings.override.rule() if settings.override else None
    window = settings.windows.obstacle(now)
    for name, (old, new) in pairs.items():
        deployed = old is not None and old.canary is not None and old.canary == new.canary
        found = weights.refusals(
            old,
            new,
            now=now,
            hold=settings.hold,
            canary_ready=(ready or {}).get(f"{name}-canary") if deployed else None,
            obstacles=[
                obstacle
                for obstacle in (
                    window,
                    capacity.shortage(settings, name, (replicas or {}).get(f"{name}-stable")),
                    weights.rejection(image(settings, name), [*new.rejected, *settings.rejected]),
                    *(f"would not be in force: {line}" for line in (silent or {}).get(name, ())),
                )
                if obstacle
            ],
        )
        if found:
            broken[name], lines[name] = (0 if old is None else old.weight, new.weight), found
    if not lines:
        return Verdict()
    if override is None or not weights.covered(override, broken, now):
        texts = [weights.refusal_text(name, found, *broken[name], override, now) for name, found in lines.items()]
        return Verdict(list(broken), refused="\n".join(texts).split("\n"))
    assert settings.override is not None
    why = settings.override.reason
    excepted = [f"allowed by canary:override ({why}): {name}: {line}" for name in lines for line in lines[name]]
    return Verdict(list(broken), excepted=excepted)


def allowed_from(settings: Settings, pairs: Pairs, now: datetime) -> datetime | None:
    """The earliest time from `now` on at which the change may be made; None when time alone does not help."""
    ends = {end for old, new in pairs.values() if (end := weights.held_until(old, new)) is not None and end > now}
    opens = [settings.windows.opens(moment) for moment in {now, *ends}]
    moments = sorted({now, *ends, *(moment for moment in opens if moment is not None)})
    return next((moment for moment in moments if not decide(settings, pairs, moment).refused), None)


def image(settings: Settings, name: str) -> str | None:
    """Canary's image, if there is a canary."""
    track = settings.services[name].canary
    return track.image if track else None
