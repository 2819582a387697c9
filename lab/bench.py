"""`make bench`: what a weight step costs, against a floor measured in the same run.

The floor is a Pulumi program that declares one VirtualService and nothing else, on the same engine, provider and
cluster. Writes `bench/results.json` and `docs/benchmarks.md`; prints ratios.  No test is decided here.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml

from lab import bench_edge, bench_judge, load, namespace
from lab.parts import all_parts
from lab.paths import LAB, ROOT
from lab.stack import Stack, api

RUNS = 7
ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"
CANARY = "/apis/apps/v1/namespaces/shop/deployments/web-canary"
RATE = 200
SIZES = (1, 5, 50)
FUNCTION = "function of the edge under njs, ratios of CPU time"
MANY = "preview by number of services"
CRASHING = "up to route written, canary crash-looping"

FLOOR = '''"""The least a program can do for a weight step."""

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

weight = pulumi.Config().require_int("weight")
host = "floor.shop.svc.cluster.local"
legs = [(track, share) for track, share in (("stable", 100 - weight), ("canary", weight))]
route = [{"destination": {"host": host, "subset": track}, "weight": share} for track, share in legs]
CustomResource(
    "floor",
    api_version="networking.istio.io/v1",
    kind="VirtualService",
    metadata={"name": "floor", "namespace": "shop"},
    spec={"hosts": [host], "http": [{"name": "default", "route": route}]},
)
'''


class Floor(Stack):
    """The floor program as a stack of its own."""

    def __init__(self) -> None:
        folder = LAB / "bench" / "floor"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__main__.py").write_text(FLOOR)
        options = f"{{virtualenv: {ROOT / '.venv'}}}"
        (folder / "Pulumi.yaml").write_text(f"name: floor\nruntime: {{name: python, options: {options}}}\n")
        super().__init__(folder / "Pulumi.lab.yaml", project=folder)
        ensure(self)

    def weigh(self, weight: int) -> None:
        """Sets the weight."""
        text = "".join(line for line in self.file.read_text().splitlines(True) if "salt" in line)
        self.file.write_text(f"{text}config: {{'floor:weight': {weight}}}\n")


def ensure(stack: Stack) -> None:
    """Makes the stack if it is not there."""
    if stack.run("stack", "output").code:
        written = stack.project / f"Pulumi.{stack.name}.yaml"
        stack.run("stack", "init").check()
        if written != stack.file:  # the CLI writes a stack file beside the project; these stacks have their own
            written.unlink(missing_ok=True)


def alternate(floor: Floor, stack: Stack) -> tuple[list[float], list[float]]:
    """(floor, ours): wall seconds of weight steps 5 → 10 → 5 …, in turns, so that both meet the same machine."""
    floors, ours = [], []
    for run in range(RUNS):
        weight = 10 if run % 2 == 0 else 5
        floor.weigh(weight)
        floors.append(floor.up().check().seconds)
        stack.edit(weight=weight)
        ours.append(stack.up().check().seconds)
        print(f"  floor {floors[-1]:.2f} s, ours {ours[-1]:.2f} s", flush=True)
    return floors, ours


def begin(stack: Stack) -> None:
    """Canary at 5 %."""
    stack.service(canary={"image": "sample-web:2.0"})
    stack.edit(weight=5)
    stack.up().check()


def to_last_answer(stack: Stack, url: str) -> tuple[list[float], int]:
    """Seconds from the start of an `up` from 50 to 0 to the last answer by canary, and requests lost meanwhile."""
    found, lost = [], 0
    for _ in range(3):
        for weight in (5, 10, 25, 50):
            stack.edit(weight=weight)
            stack.up().check()
        with load.Steady(url, RATE) as steady:
            time.sleep(1)
            stack.edit(weight=0)
            start = time.time()
            stack.up().check()
            time.sleep(1)
            last = max(answer.at for answer in steady.answers() if answer.version == "canary")
            counts = steady.counts()
        found.append(last - start)
        lost += counts.lost + counts.refused
        print(f"  last answer by canary {found[-1]:.2f} s after the start of the update", flush=True)
    return found, lost


def past_a_crash(stack: Stack) -> float:
    """Seconds from the start of an `up` to 0 to the written route, canary crash-looping and after a refresh."""
    crash = LAB / "bench" / "crash"
    crash.unlink(missing_ok=True)
    stack.service(canary={"image": "sample-web:2.0", "env": {"CRASH_IF_FILE": str(crash)}})
    stack.edit(weight=0)
    stack.up().check()
    stack.edit(weight=5)
    stack.up().check()
    crash.touch()
    while api("GET", CANARY)["status"].get("availableReplicas"):
        time.sleep(0.2)
    stack.refresh()
    stack.edit(weight=0)
    update = threading.Thread(target=stack.up)
    start = time.monotonic()
    update.start()
    while api("GET", ROUTE)["spec"]["http"][-1]["route"][1]["weight"]:
        time.sleep(0.02)
    seconds = time.monotonic() - start
    crash.unlink()
    update.join()
    return seconds


def many() -> dict[str, dict[str, float]]:
    """Preview of the first update of stacks with ever more services: median seconds, and resources, by size.

    `judged` is with the policy pack, in turns with those without, so that both meet the same machine.
    """
    (LAB / "bench").mkdir(parents=True, exist_ok=True)
    stack = Stack(LAB / "bench" / "many.yaml", "bench-many")
    found: dict[str, dict[str, float]] = {}
    for size in SIZES:
        stack.reset()
        data = yaml.safe_load(stack.file.read_text())
        web = data["config"]["canary:services"].pop("web") | {"canary": {"image": "sample-web:2.0"}}
        for number in range(size):
            data["config"]["canary:services"][f"web-{number:02}"] = web | {"hosts": [f"web-{number:02}.lab.test"]}
        stack.file.write_text(yaml.safe_dump(data, sort_keys=False))
        ensure(stack)
        previews, judged = [], []
        for _ in range(3):
            previews.append(stack.preview("--json").check())
            judged.append(stack.preview("--json", "--policy-pack", "policies").check().seconds)
        steps = json.loads(previews[0].text[previews[0].text.index("{") :])["steps"]
        plain = statistics.median(one.seconds for one in previews)
        found[str(size)] = {"seconds": plain, "resources": len(steps), "judged": statistics.median(judged)}
        found[str(size)]["checked"] = checked(stack.file)
        pack = found[str(size)]["judged"] / plain - 1
        print(f"  {size} services: {len(steps)} resources, {plain:.2f} s, policy pack {pack:+.0%}", flush=True)
        print(f"  its stack file: checked in {found[str(size)]['checked']:.2f} s", flush=True)
    return found


def checked(file: Path) -> float:
    """Median seconds of `rollout check` of a pull request that raises the weight in a stack file."""
    with tempfile.TemporaryDirectory() as folder:

        def run(*words: str) -> float:
            start = time.monotonic()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
            return time.monotonic() - start

        target = Path(folder, "Pulumi.lab.yaml")
        target.write_text(file.read_text())
        Path(folder, "Pulumi.yaml").touch()
        Path(folder, "live.json").write_text("{}")
        run("git", "init", "--quiet")
        run("git", "add", "--all")
        run("git", "-c", "user.name=bench", "-c", "user.email=bench@example.com", "commit", "--quiet", "-m", "base")
        Stack(target).edit(weight=5)
        command = (sys.executable, "-m", "rollout", "check", "--base", "HEAD", "--live", "live.json")
        return statistics.median(run(*command) for _ in range(3))


def per_service(found: dict[str, dict[str, float]], size: int) -> float:
    """Seconds of preview for each of `size` services."""
    return found[str(size)]["seconds"] / size


def main() -> int:
    """Runs everything and writes `docs/benchmarks.md`, and what it says as JSON."""
    print("bench: decisions of the judge, in simulation", flush=True)
    bench_judge.main()
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=ROOT, check=True)
    state = namespace.running()
    namespace.enter(state)
    results: dict[str, object] = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "parts": {part.name: "real" if part.real else "stand-in" for part in all_parts()},
    }
    print("bench: the edge's function under njs", flush=True)
    results[FUNCTION] = bench_edge.told()
    print("bench: preview of many services", flush=True)
    results[MANY] = many()
    floor = Floor()

    def measure(title: str, stack: Stack, goal: float) -> None:
        print(f"bench: weight step, {title}", flush=True)
        floors, ours = alternate(floor, stack)
        ratio = statistics.median(ours) / statistics.median(floors)
        results[title] = {"floor_s": floors, "ours_s": ours, "ratio": round(ratio, 3), "goal": goal}
        print(f"bench: {title}: {ratio:.2f} x the floor (goal {goal})", flush=True)

    one = Stack(LAB / "bench" / "one.yaml")
    _fresh(one)
    begin(one)
    measure("mesh and services in one stack", one, 1.7)
    print("bench: revert from 50 under load", flush=True)
    seconds, lost = to_last_answer(one, state.environment["GATEWAY_URL"])
    results["up to last canary answer"] = {"seconds": seconds, "lost": lost}
    crashing = past_a_crash(one)
    print(f"bench: canary crash-looping: route written {crashing:.2f} s after the start of the update", flush=True)
    results[CRASHING] = crashing
    for stack in (floor, one):
        stack.destroy().check()
    _apart(measure)
    floor.destroy().check()
    _write(results)
    return 0


def _apart(measure: Callable[[str, Stack, float], None]) -> None:
    """The mesh in a stack of its own, by the same program."""
    mesh, apps = (
        Stack(LAB / "bench" / "mesh.yaml", "bench-mesh"),
        Stack(LAB / "bench" / "apps.yaml", "bench-apps"),
    )
    for stack in (mesh, apps):
        stack.reset()
    mesh.edit(services=None)
    apps.edit(istio={"install": False})
    for stack in (mesh, apps):
        ensure(stack)
        stack.up().check()
    begin(apps)
    measure("mesh in a stack of its own", apps, 1.25)
    for stack in (apps, mesh):
        stack.destroy().check()


def _fresh(stack: Stack) -> None:
    stack.reset()
    if stack.resources():
        stack.destroy().check()
    stack.up().check()


def _write(results: dict[str, object]) -> None:
    folder = ROOT / "bench"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = ["# Benchmarks", "", "Written by `make bench`; the floor is measured in the same run.", ""]
    lines += [f"{results['when']}, {results['machine']}.", ""]
    lines += ["| what | floor, median s | ours, median s | ratio | goal |", "|---|---|---|---|---|"]
    for title, found in results.items():
        if isinstance(found, dict) and "ratio" in found:
            floor, ours = (statistics.median(found[key]) for key in ("floor_s", "ours_s"))
            lines.append(
                f"| weight step, {title} | {floor:.2f} | {ours:.2f} | {found['ratio']:.2f} | {found['goal']} |"
            )
    revert = results["up to last canary answer"]
    assert isinstance(revert, dict)
    worst, middle = max(revert["seconds"]), statistics.median(revert["seconds"])
    lines += [
        "",
        f"Start of `up` (50 → 0) to the last answer by canary: median {middle:.2f} s, worst {worst:.2f} s;",
    ]
    lines += [f"{revert['lost']} requests lost at {RATE} per second.", ""]
    lines += [
        f"With canary crash-looping and after a refresh, the route is written {results[CRASHING]:.2f} s after it.",
        "",
    ]
    sizes = results[MANY]
    assert isinstance(sizes, dict)
    lines += ["| services | resources | first preview, median s |", "|---|---|---|"]
    lines += [f"| {size} | {one['resources']} | {one['seconds']:.2f} |" for size, one in sizes.items()]
    dear, cheap = per_service(sizes, SIZES[2]), per_service(sizes, SIZES[1])
    lines += ["", f"A service costs {1000 * dear:.0f} ms at {SIZES[2]} services and {1000 * cheap:.0f} ms at"]
    lines += [f"{SIZES[1]}: ratio {dear / cheap:.2f} (goal 1.2).", ""]
    pack = sizes[str(SIZES[2])]["judged"] / sizes[str(SIZES[2])]["seconds"] - 1
    lines += [f"The policy pack adds {pack:.0%} to a preview of {SIZES[2]} services (goal 20 %), and"]
    lines += [f"`rollout check` takes {sizes[str(SIZES[2])]['checked']:.2f} s for their stack file (goal 1).", ""]
    function = results[FUNCTION]
    assert isinstance(function, dict)
    lines += [f"| {FUNCTION} | ratio | goal |", "|---|---|---|"]
    lines += [f"| {what} | {one['found']:.2f} | {one['goal'] or ''} |" for what, one in function.items()]
    parts = results["parts"]
    assert isinstance(parts, dict)
    lines.append("")
    lines += ["Parts: " + ", ".join(f"{name} ({what})" for name, what in parts.items()) + ".", ""]
    lines += bench_judge.tables(json.loads((folder / "judge.json").read_text()))
    Path(ROOT / "docs" / "benchmarks.md").write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
