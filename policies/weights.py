"""The weight rule and the transition rules: what a rollout may do next, as functions of plain data.

Settings, components and the policy pack all decide by this module, and the pack ships its folder alone, so it imports
nothing of ours.  Nobody may catch or compare its types across that border: inside the pack it is another module object.

Words: a *rung* is one weight of the ladder (`canary:steps`), a *rise* is any change that lets more requests reach
canary, everything else is *down* and is never refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

LOWEST, HIGHEST = 0, 100
"""Bounds of a weight, in per cent of the requests that no rule and no stamp decides."""

LONGEST_OVERRIDE = timedelta(hours=24)
"""An exception that outlives a day is a new rule; write it as one."""

STAMP = "%Y-%m-%dT%H:%M:%SZ"
"""How times are written: UTC, to the second."""

REMEMBERED = 10
"""Rejected images that the record keeps, the latest."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A rung: `weight` in per cent, `hold` in seconds: the shortest stay before the next rise."""

    weight: int
    hold: int


@dataclass(frozen=True, kw_only=True)
class Route:
    """How one service's traffic is split: as last written (recorded), or as the settings want it.

    `weight` is the effective one: 0 when canary is absent or halted.  `stable`, `canary` and `former` are
    fingerprints of pod templates; `former` is what stable ran before its last change.  `opened` and `shielded` are
    the matches that send to canary, and those that keep from it.  `since` is when the present share was first written.
    `reached` is the weight that a closing `windows.serve` interrupted; `rejected` are images that were rolled back.
    """

    weight: int
    stable: str
    canary: str | None = None
    former: str | None = None
    halted: bool = False
    ports: str = ""
    steps: tuple[Step, ...] = ()
    opened: frozenset[str] = frozenset()
    shielded: frozenset[str] = frozenset()
    since: datetime | None = None
    reached: int = 0
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Override:
    """Lets exactly the change `from_weight` → `to_weight` break transition rules until `until`."""

    reason: str
    until: datetime
    from_weight: int
    to_weight: int

    def gap(self, old: int, new: int, now: datetime) -> str | None:
        """Why the change from `old` to `new` is not the one that is excepted now; None when it is."""
        if (self.from_weight, self.to_weight) != (old, new):
            return f"it is for {self.from_weight} -> {self.to_weight}, and this is {old} -> {new}"
        if self.until <= now:
            return f"it ended at {stamp(self.until)}"
        if self.until > now + LONGEST_OVERRIDE:
            return f"it may last a day at most; set until to {stamp(now + LONGEST_OVERRIDE)} or before"
        return None


def weight_problem(weight: int) -> str | None:
    """Why `weight` is no weight, or None."""
    if LOWEST <= weight <= HIGHEST:
        return None
    return f"must be {LOWEST} to {HIGHEST}"


def split(weight: int) -> tuple[int, int]:
    """(stable, canary) in per cent for canary's `weight`; always sums to 100."""
    if problem := weight_problem(weight):
        raise ValueError(f"weight {problem}, got {weight}")
    return HIGHEST - weight, weight


def sum_problem(weights: Sequence[int]) -> str | None:
    """Why the weights of one route are wrong, or None.  Istio itself accepts any sum above 0."""
    total = sum(weights)
    return None if total == HIGHEST else f"weights must sum to {HIGHEST}, got {' + '.join(map(str, weights))} = {total}"


def ladder_problem(weights: Sequence[int]) -> str | None:
    """Why `weights` is no ladder, or None."""
    if not weights:
        return "must name at least one weight"
    if any(not 1 <= weight <= HIGHEST for weight in weights):
        return f"every weight must be 1 to {HIGHEST}"
    if any(low >= high for low, high in pairwise(weights)):
        return "must rise from step to step"
    return None


def next_rung(steps: Sequence[Step], weight: int) -> int:
    """The highest weight that one rise from `weight` may reach."""
    return min((step.weight for step in steps if step.weight > weight), default=HIGHEST)


def hold_of(steps: Sequence[Step], weight: int) -> int:
    """Seconds to stay at `weight`: the hold of the rung, or of the next one above where `weight` is no rung."""
    if weight == LOWEST or not steps:
        return 0
    return min((step for step in steps if step.weight >= weight), key=lambda step: step.weight, default=steps[-1]).hold


def rises(old: Route | None, new: Route) -> bool:
    """True when `new` lets more requests reach canary than `old` did.  A revert to 0 never does that."""
    if new.canary is None or new.halted:
        return False
    if old is None:
        return new.weight > LOWEST or bool(new.opened)
    if new.weight == LOWEST < old.weight:
        return False
    if old.halted and old.canary is not None:
        return True
    exposed = old.shielded - new.shielded if new.opened or new.weight > LOWEST else ()
    return new.weight > old.weight or bool(new.opened - old.opened) or bool(exposed)


def falls(old: Route | None, new: Route) -> bool:
    """True when `new` takes requests away from canary and gives it none."""
    if old is None or old.canary is None or old.halted or rises(old, new):
        return False
    gone = new.canary is None or new.halted
    return gone or new.weight < old.weight or bool(old.opened - new.opened) or bool(new.shielded - old.shielded)


def changes_stable(old: Route | None, new: Route) -> bool:
    """True when other code will serve stable's share: it has to be ready before a route relies on it."""
    return old is None or old.stable != new.stable


def adds_canary(old: Route | None, new: Route) -> bool:
    """True when a canary appears, or may be reached again: a stamped request can meet it at once."""
    if new.canary is None or new.halted:
        return False
    return old is None or old.canary is None or old.halted


def since(old: Route | None, new: Route, now: datetime) -> datetime:
    """When the share in `new` began: carried over while it is the recorded one."""
    if old is None or old.since is None:
        return now
    same = (old.weight, old.halted, old.canary) == (new.weight, new.halted, new.canary)
    return old.since if same else now


def former(old: Route | None, new: Route) -> str | None:
    """Fingerprint of the template to which stable may return at once; none after a return: what was left is no
    haven."""
    if old is None or new.stable == old.former:
        return None
    return old.former if old.stable == new.stable else old.stable


def reach(old: Route | None, new: Route) -> int:
    """The weight that `new`'s canary had before, with nothing but a closed `windows.serve` in between."""
    if old is None or (old.canary, old.ports, old.steps) != (new.canary, new.ports, new.steps) or old.halted:
        return LOWEST
    return max(old.weight, old.reached)


def promotes(old: Route | None, new: Route) -> bool:
    """True when stable takes over what canary runs."""
    return old is not None and old.stable != new.stable == old.canary


def _goes_back(old: Route | None, new: Route) -> bool:
    """True when the former stable is one of the two tracks, and what it gave way to is the other."""
    return old is not None and old.former is not None and {new.stable, new.canary} == {old.stable, old.former}


def refusals(
    old: Route | None,
    new: Route,
    *,
    now: datetime,
    hold: str = "",
    canary_ready: bool | None = None,
    obstacles: Sequence[str] = (),
) -> list[str]:
    """Why the change from `old` to `new` is not allowed now; empty when it is.

    `hold` is the reason that stops every rise; `canary_ready` is what the cluster says of a canary that is already
    deployed (None: not known, or not deployed yet); `obstacles` are what else stops a rise now, each said so that it
    follows the words for the change.  Each line names the rule, both values and when or how it passes.
    """
    found = list(_stable_refusals(old, new, now))
    before = LOWEST if old is None else old.weight
    if old is not None and before > LOWEST and new.weight > LOWEST and new.canary is not None:
        found += _fixed_refusals(old, new)
    if not rises(old, new):
        return found
    what = _rise_text(old, new)
    found += [f"{what} {obstacle}" for obstacle in obstacles]
    if hold:
        found.append(f"{what} is stopped by canary:hold ({hold!r}); clear canary:hold to go on")
    if canary_ready is False:
        found.append(f"{what} needs a ready canary and it is not ready; repair it, or leave canary's share as it is")
    if _goes_back(old, new):
        return found
    highest = max(next_rung(new.steps, before), reach(old, new))
    if new.weight > max(before, highest):
        found.append(f"{what} skips a rung of canary:steps; set canary:weight to {highest} first")
    if wait := _held_until(old, new, now):
        found.append(f"{what} comes before the hold of {before} has passed; allowed from {wait}")
    return found


def _rise_text(old: Route | None, new: Route) -> str:
    before = LOWEST if old is None else old.weight
    if new.weight > before:
        return f"weight {before} -> {new.weight}"
    if old is not None and old.halted:
        return f"canary:halted true -> false at weight {before}"
    return f"a wider rule at weight {new.weight}"


def held_until(old: Route | None, new: Route) -> datetime | None:
    """When the hold of the recorded weight ends; None when it is not known since when it holds."""
    if old is None or old.since is None:
        return None
    return old.since + timedelta(seconds=hold_of(old.steps or new.steps, old.weight))


def _held_until(old: Route | None, new: Route, now: datetime) -> str | None:
    earliest = held_until(old, new)
    return stamp(earliest) if earliest is not None and now < earliest else None


def _stable_refusals(old: Route | None, new: Route, now: datetime) -> Sequence[str]:
    if old is None or old.stable == new.stable or new.stable == old.former:
        return ()
    change = f"stable's template changes from {old.stable} to {new.stable}"
    if not promotes(old, new):
        fix = "ship it as canary first, or go back to the former stable"
        return (f"{change} without having served as canary; {fix}",)
    if old.weight == HIGHEST:
        wait = _held_until(old, new, now)
        return (f"{change} before the bake (the hold of {HIGHEST}) is over; allowed from {wait}",) if wait else ()
    fix = "promote inside canary:windows.serve" if old.reached == HIGHEST else "raise canary:weight first"
    return (f"{change}, which as canary carries {old.weight} %, and promotion needs {HIGHEST}; {fix}",)


def _fixed_refusals(old: Route, new: Route) -> Sequence[str]:
    found = []
    for name, was, wanted in (
        ("canary's template", old.canary, new.canary),
        ("ports", old.ports, new.ports),
        ("canary:steps", ladder_text(old.steps), ladder_text(new.steps)),
    ):
        if was != wanted:
            found.append(
                f"{name} changes from {was} to {wanted} while canary serves {old.weight} %; set canary:weight to 0"
            )
    return found


def ladder_text(steps: Sequence[Step]) -> str:
    """The ladder in one word, `5:300,10:300`: weight and hold in seconds."""
    return ",".join(f"{step.weight}:{step.hold}" for step in steps)


def ladder_from_text(text: str) -> tuple[Step, ...]:
    """Inverse of `ladder_text`."""
    pairs = (item.split(":") for item in text.split(",") if item)
    return tuple(Step(weight=int(weight), hold=int(hold)) for weight, hold in pairs)


def stamp(moment: datetime) -> str:
    """UTC time with seconds, as written to annotations and messages."""
    return moment.strftime(STAMP)


def phase(*, canary: bool, weight: int, halted: bool) -> str:
    """`stable` no canary · `halted` · `qa` canary at 0 · `rolling` · `baking` at 100."""
    if not canary:
        return "stable"
    if halted:
        return "halted"
    return {LOWEST: "qa", HIGHEST: "baking"}.get(weight, "rolling")


def same_image(one: str, other: str) -> bool:
    """True when both name the same build: by digest where both have one, else by name and tag."""
    (name, _, digest), (other_name, _, other_digest) = one.partition("@"), other.partition("@")
    return digest == other_digest if digest and other_digest else name == other_name


def repository(image: str) -> str:
    """Name of an image without tag and digest."""
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(":")[0]


def remembered(known: Sequence[str], listed: Sequence[str]) -> tuple[str, ...]:
    """Rejected images to keep on the record: those `known` there and those `listed` in the settings, the latest."""
    return tuple(dict.fromkeys([*(image for image in known if image not in listed), *listed]))[-REMEMBERED:]


def rejection(image: str | None, rejected: Sequence[str]) -> str | None:
    """The obstacle that `image` was rolled back before; None when it was not."""
    if image is None or not any(same_image(image, one) for one in rejected):
        return None
    return f"brings back {image}, which was rolled back (canary:rejected, and the record of the route); ship another"


def refusal_text(
    service: str, lines: Sequence[str], old: int, new: int, override: Override | None, now: datetime
) -> str:
    """One line per refusal, with the way round it that leaves a trace, or why the one stated leads nowhere."""
    gap = override.gap(old, new, now) if override else None
    way_round = f"or state canary:override {{reason, until, from: {old}, to: {new}}}"
    return "\n".join(
        f"{service}: {line}; {f'canary:override does not cover it: {gap}' if gap else way_round}" for line in lines
    )


def covered(override: Override | None, pairs: Mapping[str, tuple[int, int]], now: datetime) -> bool:
    """True when `override` is in force for every (recorded, wanted) weight in `pairs`."""
    return override is not None and not any(override.gap(old, new, now) for old, new in pairs.values())
