"""Strategy `replicas`: without a mesh, one Service over both tracks, and the numbers of pods are the share."""

from __future__ import annotations

from policies import weights

TOLERANCE = 1.0
"""Percentage points by which the real share may miss the weight."""


def counts(weight: int, total: int) -> tuple[int, int]:
    """(stable, canary) pods of `total` by largest remainder; a tie goes to stable."""
    canary, rest = divmod(total * weight, weights.HIGHEST)
    if 2 * rest > weights.HIGHEST:
        canary += 1
    return total - canary, canary


def share(stable: int, canary: int) -> float:
    """Per cent of the requests that canary gets when every pod gets as many."""
    return weights.HIGHEST * canary / (stable + canary)


def told(weight: int, total: int) -> dict[str, float]:
    """What a weight comes to: pods of each track, the share they make, and the smallest step between two shares."""
    stable, canary = counts(weight, total)
    given = {"share": round(share(stable, canary), 2), "resolution": round(resolution(total), 2)}
    return {"stable": stable, "canary": canary, **given}


def resolution(total: int) -> float:
    """Percentage points between two shares that `total` pods can give."""
    return weights.HIGHEST / total


def problem(weight: int, total: int) -> str | None:
    """Why `total` pods cannot give `weight` within the tolerance, with the nearest that they can; or None."""
    given = share(*counts(weight, total))
    if abs(given - weight) <= TOLERANCE:
        return None
    near = sorted(
        (
            possible
            for possible in range(weights.HIGHEST + 1)
            if abs(share(*counts(possible, total)) - possible) <= TOLERANCE
        ),
        key=lambda possible: (abs(possible - weight), possible),
    )
    needed = next(number for number in range(total, 101) if abs(share(*counts(weight, number)) - weight) <= TOLERANCE)
    return (
        f"cannot be met by {total} pods, which share in steps of {resolution(total):.3g} points; "
        f"the nearest is {near[0]}, or set replicas to {needed}"
    )
