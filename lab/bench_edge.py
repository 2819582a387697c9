"""`python -m lab.bench_edge`, and in `make bench`: the cost of the edge's function under njs, as ratios of one run.

Not CloudFront's clock: only what is dearer than what, and by how much.  Needs no lab.  njs frees nothing before it
ends, so a program handles some requests and ends, and the same program without any is taken off.
"""

from __future__ import annotations

import ipaddress
import json
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from core import cidrs, edge
from core.checks import parse
from core.model import Settings
from lab import parts

REQUESTS = 4000
NAIVE_REQUESTS = 200
RUNS = 11

STUB = """
const state = {values: {}};
function get(key) { return Promise.resolve(state.values[key]); }
function kvs() { return {get: get}; }
function logCustomData(text) { state.logged = text; }
export default {kvs: kvs, logCustomData: logCustomData, state: state};
"""

# What most examples do: the list as people write it, taken apart in each request.
NAIVE = """
function numbersOf(ip) {
    const numbers = [];
    if (ip.indexOf(':') < 0) {
        const parts = ip.split('.');
        numbers.push(Number(parts[0]) * 256 + Number(parts[1]), Number(parts[2]) * 256 + Number(parts[3]));
        return numbers;
    }
    const halves = ip.split('::');
    const head = halves[0].split(':');
    const tail = halves.length > 1 && halves[1] ? halves[1].split(':') : [];
    for (let i = 0; i < 8; i++) {
        const part = i < head.length ? head[i] : i >= 8 - tail.length ? tail[i - 8 + tail.length] : '0';
        numbers.push(parseInt(part, 16));
    }
    return numbers;
}

function holds(list, address, state) {
    const texts = list.split(' ');
    for (let i = 0; i < texts.length; i++) {
        const parts = texts[i].split('/');
        const network = numbersOf(parts[0]);
        let left = Number(parts[1]);
        let same = network.length === address.length;
        for (let n = 0; same && left > 0; n++) {
            same = left >= 16 ? network[n] === address[n] : network[n] >> (16 - left) === address[n] >> (16 - left);
            left -= 16;
        }
        if (same) {
            return true;
        }
    }
    return false;
}
"""


def settings(blue: Sequence[str], green: Sequence[str]) -> Settings:
    """A stack with these lists."""
    track = {"image": "sample-web:1.0"}
    arn = "arn:aws:acm:us-east-1:123456789012:certificate/1"
    found, _ = parse(
        {
            "weight": 5,
            "services": {"web": {"stable": track, "canary": {"image": "sample-web:2.0"}, "hosts": ["shop.lab.test"]}},
            "edge": {
                "aliases": ["shop.lab.test"],
                "certificateArn": arn,
                "blueCidrs": list(blue),
                "greenCidrs": list(green),
            },
            "originSecret": "origin-secret-of-the-bench",
        }
    )
    return found


def networks(version: int, chance: random.Random, count: int | None = None) -> list[str]:
    """Networks far from each other: /24 and /48, `count` of them or as many as a value holds."""
    found: list[str] = []
    room = edge.LONGEST_VALUE - len(" @01234567")
    while len(found) != count:
        one = (
            str(ipaddress.ip_network((chance.randrange(0x0B0000, 0xDF0000) << 8, 24)))
            if version == 4
            else str(ipaddress.ip_network((0x2A00 << 112 | chance.getrandbits(32) << 80, 48)))
        )
        if count is None and cidrs.size([*found, one]) > room:
            break
        if one not in found:
            found.append(one)
    return found


def viewers(version: int, chance: random.Random) -> list[str]:
    """Addresses of viewers, in no list."""
    if version == 4:
        return [str(ipaddress.IPv4Address(0xE0000000 + chance.getrandbits(24))) for _ in range(50)]
    return [str(ipaddress.IPv6Address(0x2600 << 112 | chance.getrandbits(100))) for _ in range(50)]


def script(code: str, store: Mapping[str, str], ips: Sequence[str], requests: int) -> str:
    """A module that handles so many requests."""
    return f"""import stub from 'cloudfront';
{code}
stub.state.values = {json.dumps(store)};
const IPS = {json.dumps(list(ips))};
async function all() {{
    for (let i = 0; i < {requests}; i++) {{
        await handler({{viewer: {{ip: IPS[i % IPS.length]}}, request: {{headers: {{}}, cookies: {{}}}}}});
    }}
}}
all();
"""


def seconds(njs: Path, folder: Path, text: str) -> float:
    """CPU time of one run.  How much of it is the kernel's is a matter of sampling; the sum is exact."""
    (folder / "main.js").write_text(text)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([njs, "-s", "-u", "-p", folder, folder / "main.js"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cases() -> dict[str, tuple[str, dict[str, str], list[str]]]:
    """(code, store, viewers) by name."""
    chance = random.Random(1)
    found = {}
    for version in (4, 6):
        who = viewers(version, chance)
        for size, count in (("10", 10), ("full", None)):
            lists = networks(version, chance, count), networks(version, chance, count)
            made = settings(*lists)
            assert made.edge is not None
            code, store = edge.code("viewer-request", made, made.edge), edge.values(made, made.edge)
            found[f"IPv{version}, lists of {size} CIDRs"] = code, store, who
            naive = code.replace("function holds(", "function compiledHolds(").replace("hashOf(address)", "hashOf(hex)")
            naive = naive.replace("const address = hexOf(ip);", "const address = numbersOf(ip), hex = hexOf(ip);")
            texts = {"blue_cidrs": " ".join(lists[0]), "green_cidrs": " ".join(lists[1])}
            if count is None:
                found[f"IPv{version}, the same taken apart in each request"] = naive + NAIVE, store | texts, who
    return found


def measure() -> dict[str, float]:
    """Microseconds of CPU for one request.  Of many runs in turns the least counts, since others only add to it."""
    njs = parts.find("njs")
    if njs is None:
        raise SystemExit("bench: njs is not here: run python3 -m lab.setup")
    known = cases()
    busy, idle = ({name: float("inf") for name in known} for _ in range(2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cloudfront").write_text(STUB)
        for _ in range(RUNS):
            for case, (code, store, ips) in known.items():
                busy[case] = min(busy[case], seconds(njs, folder, script(code, store, ips, requests(code))))
                idle[case] = min(idle[case], seconds(njs, folder, script(code, store, ips, 0)))
    return {case: 1e6 * (busy[case] - idle[case]) / requests(code) for case, (code, *_) in known.items()}


def requests(code: str) -> int:
    """How many a run handles."""
    return NAIVE_REQUESTS if NAIVE in code else REQUESTS


def ratios(found: Mapping[str, float]) -> dict[str, tuple[float, float | None]]:
    """(ratio, goal) by what is compared."""
    four, six = found["IPv4, lists of full CIDRs"], found["IPv6, lists of full CIDRs"]
    return {
        "full lists to 10 CIDRs, IPv4": (four / found["IPv4, lists of 10 CIDRs"], 1.3),
        "full lists to 10 CIDRs, IPv6": (six / found["IPv6, lists of 10 CIDRs"], 1.3),
        "IPv6 to IPv4, full lists": (six / four, 1.3),
        "taken apart in each request to ours, IPv4": (found["IPv4, the same taken apart in each request"] / four, None),
        "taken apart in each request to ours, IPv6": (found["IPv6, the same taken apart in each request"] / six, None),
    }


def told() -> dict[str, dict[str, float | None]]:
    """Prints costs and ratios; what is compared, with ratio and goal."""
    found = measure()
    for case, cost in found.items():
        print(f"  {case}: {cost:.1f} us")
    compared = ratios(found)
    for what, (ratio, goal) in compared.items():
        print(f"bench: {what}: {ratio:.2f}" + (f" (goal {goal} at the most)" if goal else ""), flush=True)
    return {what: {"found": round(ratio, 3), "goal": goal} for what, (ratio, goal) in compared.items()}


def main() -> int:
    """The same; 1 if a goal is missed."""
    return int(any(one["goal"] and (one["found"] or 0) > one["goal"] for one in told().values()))


if __name__ == "__main__":
    sys.exit(main())
