"""What happened to a stack, update by update, as plain data: the judge and the history page read one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Update:
    """One `pulumi up`, whoever ran it.  `weight` is the effective one; times are UTC.

    `images` are those of the tracks by service: {"web": {"stable": ..., "canary": ...}}, canary absent when there was
    none.  `result` is the engine's word: `succeeded`, `failed`, `in-progress`.  `said` holds what a rollout left with
    it: verdict, reason, evidence.
    """

    version: int
    began: datetime
    ended: datetime | None
    result: str
    weight: int
    halted: bool
    images: Mapping[str, Mapping[str, str]]
    message: str = ""
    author: str = ""
    commit: str = ""
    said: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stay:
    """Canary had `weight` from `since` to `until` (Unix seconds).  `fresh`: it came with new pods of canary."""

    since: float
    until: float
    weight: int
    fresh: bool


def canaries(update: Update) -> dict[str, str]:
    """Canary's image by service."""
    return {name: images["canary"] for name, images in update.images.items() if images.get("canary")}


def at(updates: Sequence[Update], when: datetime) -> Update | None:
    """The last update that had ended at `when`."""
    return max(_done(updates, when), key=lambda one: one.version, default=None)


def _done(updates: Sequence[Update], when: datetime) -> list[Update]:
    return [one for one in updates if one.result != "in-progress" and (one.ended or one.began) <= when]


def stays(updates: Sequence[Update], when: datetime, *, grows: bool = False) -> list[Stay]:
    """How long the canary of `when` has had which weight, earlier tries of the same images included.

    A second try does not start with a clean record: else it were tried until it passes.  The first one begins with its
    update, because requests arrive before that ends.  `grows`: a higher weight comes with more pods.
    """
    present, found = at(updates, when), list[Stay]()
    if present is None:
        return found
    open_ = False
    for update in sorted(_done(updates, when), key=lambda one: one.version):
        moment = (update.ended or update.began).timestamp()
        if open_:
            found[-1] = replace(found[-1], until=moment)
        before, open_ = open_, canaries(update) == canaries(present) != {} and not update.halted
        if open_ and before and found[-1].weight == update.weight:
            found[-1] = replace(found[-1], until=when.timestamp())
        elif open_:
            fresh = not before or (grows and update.weight > found[-1].weight)
            begin = moment if before else update.began.timestamp()
            found.append(Stay(begin, when.timestamp(), update.weight, fresh))
    return found if open_ else []
