"""What happened to a stack, update by update, as plain data: the judge and the history page read one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
