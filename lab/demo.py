"""`make demo`: a rollout from 0 to 100 and its promotion, then a bad version and its revert, by one `pulumi up` each.

After each step real requests are counted: at the edge as so many viewers, at the gateway and inside the mesh as
requests that nobody stamped.  200 a second run through the edge all the time: none may be lost.  Ends with exit code 0
only if every share lies where its weight says and nothing was lost.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core import split
from lab import edge, load, namespace
from lab.paths import ROOT
from lab.stack import Stack

REQUESTS = 2000
"""At each door after each step; at the edge each from another viewer."""

FAMILY_ERROR = 0.001
"""Chance that a demo without a fault fails for its shares: each of k checks gets its k-th part."""

RATE = 200
"""Requests per second that run all the time."""

LADDER = (0, 5, 10, 25, 50, 100)
SECOND, THIRD = "sample-web:2.0", "sample-web:3.0"


@dataclass(frozen=True)
class Step:
    """What is edited, and the share of canary that it must lead to."""

    title: str
    weight: int
    edit: Callable[[Stack], None]


def _weight(weight: int) -> Callable[[Stack], None]:
    return lambda stack: stack.edit(weight=weight)


def _start(image: str) -> Callable[[Stack], None]:
    def edit(stack: Stack) -> None:
        stack.service(canary={"image": image})
        stack.edit(weight=0)

    return edit


def _promote(image: str) -> Callable[[Stack], None]:
    def edit(stack: Stack) -> None:
        stack.service(stable={"image": image}, canary=None)
        stack.edit(weight=0)

    return edit


STEPS = [
    Step("1.0 alone", 0, lambda stack: None),
    Step("2.0 as canary", 0, _start(SECOND)),
    *(Step(f"2.0 to {weight} %", weight, _weight(weight)) for weight in LADDER[1:]),
    Step("2.0 promoted", 0, _promote(SECOND)),
    Step("3.0 as canary", 0, _start(THIRD)),
    Step("3.0 to 5 %", 5, _weight(5)),
    Step("3.0 to 10 %", 10, _weight(10)),
    Step("3.0 reverted", 0, _weight(0)),
]


def _there(door: str, doors: Mapping[str, str]) -> str:
    """The address of a door; of the edge, once it has what the last update stored."""
    if door == "edge":
        edge.settle()
    return doors[door]


def _viewers(door: str) -> int:
    """Who asks there, by address: only the edge tells viewers apart."""
    return REQUESTS if door == "edge" else 0


def main() -> int:
    """The whole demo; 0 when everything was as configured."""
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=ROOT, check=True)
    state = namespace.running()
    namespace.enter(state)
    stack = Stack()
    stack.reset(edge=True)
    if stack.resources():
        print("demo: takes down what an earlier run left", flush=True)
        stack.destroy().check()
    places = {"edge": "EDGE_URL", "gateway": "GATEWAY_URL", "inside mesh": "MESH_URL"}
    doors = {door: url for door, name in places.items() if (url := state.environment[name])}
    checks = len(STEPS) * len(doors)
    print(f"demo: {REQUESTS} requests at each door after each step, {RATE} per second all the time", flush=True)
    heads = "  ".join(f"{f'{door} (99 %)':>24}" for door in doors)
    print(f"{'step':<16}{'weight':>7}  {heads}  {'lost':>5}  {'up s':>6}", flush=True)
    began = time.monotonic()
    print("  (first: Istio, namespace, workload, edge)", flush=True)
    first = stack.up().check()
    wrong, public = 0, next(iter(doors))
    with load.Steady(_there(public, doors), RATE, viewers=_viewers(public)) as steady:
        for index, step in enumerate(STEPS):
            step.edit(stack)
            update = first if index == 0 else stack.up().check()
            counts = {door: load.run(_there(door, doors), REQUESTS, viewers=_viewers(door)) for door in doors}
            cells = []
            for found in counts.values():
                served = found.stable + found.canary
                low, high = split.interval(found.canary, served)
                inside = split.accepts(found.canary, served, step.weight / 100, FAMILY_ERROR / checks)
                wrong += not inside
                share = 100 * found.canary / served if served else 0
                cells.append(f"{share:6.2f} [{100 * low:5.2f}, {100 * high:6.2f}]{' ' if inside else '!'}")
            lost = sum(found.lost + found.refused for found in counts.values()) + steady.counts().lost
            line = "  ".join(f"{cell:>24}" for cell in cells)
            print(f"{step.title:<16}{step.weight:>6} %  {line}  {lost:>5}  {update.seconds:>6.1f}", flush=True)
        total = steady.counts()
    lost = total.lost + total.refused
    print(
        f"demo: {total.stable + total.canary + lost} background requests, {lost} lost; {wrong} of {checks} shares"
        f" outside their interval; {time.monotonic() - began:.0f} s"
    )
    for why, times in steady.lost().items():
        print(f"  lost {times}: {why}")
    print(
        "The lab is still running.  Look around:\n"
        "  source .lab/env\n"
        "  python -m lab status\n"
        "  python -m lab exec -- pulumi stack output --stack lab\n"
        '  python -m lab load --url "$EDGE_URL" --requests 1000 --viewers 1000\n'
        '  python -m lab load --url "$GATEWAY_URL" --requests 1000\n'
        "  make lab-down"
    )
    return 0 if not wrong and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
