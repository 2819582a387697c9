"""`python -m tests.bench_live [TIMES]`: a bad version at 5 %, taken back by `run`, by an alert, by the real Flagger.

All in one lab, under the same load.  Seconds are from the first failed answer of canary to its last answer of any kind;
`hit` is the share of all requests in that time that failed.  Then what `run` says of versions that are bad in other
ways.  Writes `bench/live.json`; ends with 1 where a verdict is not the one that is right.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab import flagger_charts, load, monitoring, namespace
from lab.paths import LAB, ROOT
from lab.stack import Stack, api
from tests.e2e.checkout import PORT, Checkout, ask, git, watched
from tests.e2e.waiting import until

RATE = 100
BAD = "fail50"
DEPENDENCY = LAB / "bench" / "dependency-is-broken"
GATE = {"prometheus": monitoring.PROMETHEUS_URL, "errorRate": "1%", "p95": "250ms"}
SERVICE: dict[str, Any] = {
    "port": 80,
    "targetPort": 3000,
    "drain": "2s",
    "probe": {"path": "/healthz", "periodSeconds": 1},
}
FRESH = ("one", "two", "three")
"""Services for the alerts: their rates look back five minutes, so each is bad once; as many as TIMES may be."""

CASES = {
    # service, ending of the tag, exit codes that are right, words of the reason
    "slow by 300 ms": ("web", "slow", 3, "took longer"),
    "2 % fail": ("web", "fail2", 3, "failed"),
    "crashes after 3 s": ("web", "crash", 3, "failed"),
    "fails only under its load at 50 %": ("web", "above35", 3, "failed"),
    "breaks what both tracks depend on": ("pair", "", 5, "shared dependency"),
}
FLAGGERS: dict[str, tuple[int, str, int]] = {
    # how many times (0: TIMES), interval, threshold
    "flagger at its fastest": (0, "10s", 1),
    "flagger as its documentation sets it up": (1, "1m", 5),
}
MOST = {3: "400", 5: "60"}
"""Seconds that `run` gets, by the code that is awaited."""


def image(ending: str) -> str:
    """A version that nobody has seen before."""
    return "-".join(filter(None, [f"sample-web:6.{time.time_ns()}", ending]))


def hit(answers: Sequence[load.Answer]) -> dict[str, float]:
    """What the bad version did."""
    canary = [one for one in answers if one.version == "canary"]
    failed = [one for one in canary if one.status != 200]
    first, last = failed[0].at, max(one.at for one in canary)
    every = sum(first <= one.at <= last for one in answers)
    return {"seconds": last - first, "bad": len(failed), "hit": len(failed) / every, "last": last}


def url(service: str) -> str:
    return f"http://{'shop' if service == 'web' else service}.lab.test"


def under_load(act: Callable[[], None], service: str = "web") -> list[load.Answer]:
    """The answers while something happens, and three seconds more: canary must be gone by then."""
    with load.Steady(url(service), RATE) as steady:
        act()
        time.sleep(3)
    answers = steady.answers()
    last = max(one.at for one in answers)
    assert not [one for one in answers if one.version == "canary" and one.at > last - 1], "canary is still serving"
    return answers


def by_run(checkout: Checkout) -> dict[str, float]:
    def act() -> None:
        checkout.rollout("start", "web", image(BAD)).check(0)
        checkout.rollout("run", "--interval", "2", "--for", "300").check(3)

    return hit(under_load(act))


def cleared(checkout: Checkout, service: str) -> None:
    """Takes a canary that was rolled back away, so that another service of the train can have one."""
    checkout.service(service, canary=None)
    checkout.up().check()
    checkout.commit(f"{service} without a canary")


def halted(checkout: Checkout) -> None:
    until(lambda: checkout.outputs()["phase"] == "halted", "a rollback by alert", within=300)
    until(lambda: not git(checkout.project, "status", "--porcelain", "--untracked-files=no"), "its commit", within=300)


def by_alert(checkout: Checkout, service: str) -> dict[str, float]:
    """By the rules as deployed, Prometheus, Alertmanager and `rollout watch`."""

    def act() -> None:
        checkout.rollout("start", service, image(BAD)).check(0)
        halted(checkout)

    found = hit(under_load(act, service))
    cleared(checkout, service)
    return found


def told(checkout: Checkout, number: int) -> float:
    """Seconds from an alert that reaches `rollout watch`, by way of Alertmanager, to canary's last answer."""

    def act() -> None:
        checkout.rollout("start", "web", image("")).check(0)
        labels = {"alertname": f"CanaryBench{number}", "stack": "lab", "service": "web"}
        labels |= {"namespace": "shop", "severity": "critical"}
        at = datetime.now(UTC).isoformat()
        soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
        ask(
            f"{monitoring.ALERTMANAGER_URL}/api/v2/alerts", "POST", [{"labels": labels, "startsAt": at, "endsAt": soon}]
        )
        halted(checkout)

    answers = under_load(act)
    metrics = ask(f"http://{namespace.NODE_IP}:{PORT}/metrics")
    came = float(metrics.partition('rollout_last_alert_timestamp_seconds{stack="lab"} ')[2].split()[0])
    return max(one.at for one in answers if one.version == "canary") - came


def by_flagger(stack: Stack, times: int, interval: str, threshold: int) -> list[dict[str, float]]:
    """The real one: a look every `interval`; after `threshold` failed ones the next rolls back."""
    stack.destroy().check()
    stack.reset()
    analysis = {"interval": interval, "threshold": threshold, "stepWeights": [5, 10]}
    web = SERVICE | {"stable": {"image": "sample-web:1.0"}, "hosts": ["shop.lab.test"], "flagger": analysis}
    charts = {"chartSource": str(flagger_charts.provide()), "timeout": "60s"}
    stack.edit(strategy="flagger", weight=None, steps=None, gate=GATE, flagger=charts, services={"web": web})
    stack.up().check()
    path = "/apis/flagger.app/v1beta1/namespaces/shop/canaries/web"

    def phase(wanted: str) -> None:
        until(lambda: api("GET", path).get("status", {}).get("phase") == wanted, f"phase {wanted}", within=900)

    def act() -> None:
        stack.service(stable={"image": image(BAD)})
        stack.up().check()
        phase("Progressing")
        phase("Failed")

    phase("Initialized")
    found = []
    for _ in range(times):
        with load.Steady("http://shop.lab.test", RATE) as steady:
            act()
            time.sleep(3)
        # Flagger's tracks are Deployments of one Service each: who failed was its canary.
        answers = steady.answers()
        failed = [one for one in answers if one.status != 200]
        every = sum(failed[0].at <= one.at <= failed[-1].at for one in answers)
        seconds = failed[-1].at - failed[0].at
        found.append({"seconds": seconds, "bad": len(failed), "hit": len(failed) / every})
    return found


def verdicts(checkout: Checkout) -> dict[str, Any]:
    """What `run` ends with for each kind of bad version, and what it says."""
    found: dict[str, Any] = {}
    for name, (service, ending, code, words) in CASES.items():
        if service != "web":
            cleared(checkout, "web")
        with load.Steady(url(service), 2 * RATE) as steady:
            done = checkout.rollout("start", service, image(ending), "--json")
            if service != "web":
                DEPENDENCY.touch()
            if done.code == 0:
                done = checkout.rollout("run", "--interval", "2", "--for", MOST[code], "--json")
            DEPENDENCY.unlink(missing_ok=True)
            answers = steady.answers()
        document = json.loads(done.out)
        said = document.get("said") or document["error"]
        right = done.code == code and any(words in one for one in said)
        found[name] = {"code": done.code, "right": right, "said": said, "weight": history(checkout)}
        canary = [one.at for one in answers if one.version == "canary"]
        found[name]["seconds"] = round(canary[-1] - canary[0], 1) if canary else 0
        print(f"  {name}: exit {done.code}, {'right' if right else 'WRONG'}: {said[-3:]}", flush=True)
        if done.code != 3:
            checkout.rollout("rollback", "--keep-image").check(0)
    return found


def history(checkout: Checkout) -> int:
    """How far the last canary came, in per cent."""
    updates = json.loads(checkout.rollout("history", "--json").out)
    last = max(number for number, one in enumerate(updates) if one["said"].get("verdict") == "start")
    return int(max(one["weight"] for one in updates[last:]))


def line(name: str, found: Sequence[dict[str, float]]) -> str:
    seconds = sorted(one["seconds"] for one in found)
    bad, share = (statistics.median(one[what] for one in found) for what in ("bad", "hit"))
    spread = f"{seconds[0]:.1f} / {statistics.median(seconds):.1f} / {seconds[-1]:.1f} s"
    return f"{name}: {spread} from the first bad answer to the last; {bad:.0f} bad, {share:.1%} of all requests"


def keep(results: dict[str, Any]) -> None:
    (ROOT / "bench" / "live.json").write_text(json.dumps(results, indent=1) + "\n")


def main(times: int = 3) -> int:
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=ROOT, check=True)
    namespace.enter(namespace.running())
    stack, results = Stack(LAB / "bench" / "live.yaml"), dict[str, Any]()
    stack.file.parent.mkdir(exist_ok=True)
    stack.reset()
    if stack.resources():
        stack.destroy().check()
    for name in (*FRESH[:times], "pair"):
        broken = {"env": {"FAIL_IF_FILE": str(DEPENDENCY)}} if name == "pair" else {}
        stack.service(name, **SERVICE, stable={"image": "sample-web:1.0"}, hosts=[f"{name}.lab.test"], **broken)
    stack.edit(gate=GATE, alerts={"webhook": f"http://{namespace.NODE_IP}:{PORT}/webhook"})
    with tempfile.TemporaryDirectory() as folder:
        operator = Path(folder, "operator")
        operator.mkdir()
        checkout = Checkout.first(operator, stack.file)
        checkout.up().check()
        results["run"] = [by_run(checkout) for _ in range(times)]
        print(line("run", results["run"]), flush=True)
        keep(results)
        cleared(checkout, "web")
        with watched(checkout, Path(folder)):
            results["alert"] = [by_alert(checkout, service) for service in FRESH[:times]]
            print(line("alert", results["alert"]), flush=True)
            results["told"] = [told(checkout, number) for number in range(2 * times)]
            middle, worst = statistics.median(results["told"]), max(results["told"])
            print(f"alert received to canary's last answer: median {middle:.2f} s, worst {worst:.2f} s", flush=True)
            keep(results)
        results["verdicts"] = verdicts(checkout)
        keep(results)
    ours = statistics.median(one["seconds"] for one in results["run"])
    for name, (number, interval, threshold) in FLAGGERS.items():
        found = results[name] = by_flagger(stack, number or times, interval, threshold)
        theirs = statistics.median(one["seconds"] for one in found)
        print(f"{line(name, found)}; run is {theirs / ours:.1f} x as fast", flush=True)
    stack.destroy().check()
    keep(results)
    wrong = [name for name, one in results["verdicts"].items() if not one["right"]]
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
