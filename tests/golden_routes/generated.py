"""Generated requests through a real Envoy that the translation configures for a thousand generated routes at once.

`python -m tests.golden_routes.generated WORKDIR` runs alone in a private network namespace and writes
WORKDIR/results.json: what differs from the evaluator, and what was asked.  Each response names its route.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from core import routes
from core.evaluate import Request, decide
from core.model import Settings
from lab.mesh.model import ProxyConfig, World
from lab.mesh.translate import gateway_config, waypoint_config
from lab.mesh.xds import static_bootstrap
from lab.proxy import start
from tests import generate
from tests.golden_routes import world
from tests.golden_routes.replay import Client, loopback_up, run_pods

Json = dict[str, Any]
STARTED = 60
"""Seconds after which Envoy is taken for hung."""

IN_MESH = 150
"""Configurations that are asked at a waypoint too; there each is a Service with an address of its own."""

REQUESTS, DRAWS = 8, 400
"""Different requests for each configuration; repetitions of one whose weight decides, for some."""


def alone(number: int, settings: Settings, name: str) -> Settings:
    """The generated settings of one service under a name of our own, so that a thousand fit into one cluster."""
    (service, *_) = settings.services.values()
    own = service.model_copy(update={"hosts": [f"r{number}.test"], "port": 80})
    return settings.model_copy(update={"namespace": "shop", "services": {name: own}, "route_header": True})


def objects(name: str, title: str, settings: Settings) -> list[Json]:
    meta = {"name": title, "namespace": "shop"}
    return [
        {"kind": "VirtualService", "metadata": meta, "spec": routes.virtual_service_spec(name, settings)},
        {"kind": "DestinationRule", "metadata": meta, "spec": routes.destination_rule_spec(name, "shop")},
    ]


def public(trains: list[Settings]) -> ProxyConfig:
    """All routes at one gateway, each under its host, all to the one Service there is."""
    made = [one for number, train in enumerate(trains) for one in objects("web", f"r{number}", train)[:1]]
    rule = objects("web", "web", trains[0])[1]
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["shop/*.test"]}]
    door = {
        "kind": "Gateway",
        "metadata": {"name": "public", "namespace": world.GATEWAY_NAMESPACE},
        "spec": {"selector": world.GATEWAY_LABELS, "servers": servers},
    }
    whole = world.recorded_world([*made, rule, door])
    config, problems = gateway_config(whole, world.GATEWAY_NAMESPACE, world.GATEWAY_LABELS, "access.jsonl")
    if problems:
        raise SystemExit(f"not translated: {problems}")
    return config


def address(number: int) -> str:
    return f"127.0.{10 + number // 200}.{number % 200 + 1}"


def inside(trains: list[Settings]) -> ProxyConfig:
    """Each route at the waypoint, for a Service of its own."""
    whole = world.recorded_world([])
    (pods, slices) = whole.all("Pod"), whole.all("EndpointSlice")
    made: list[Json] = [*pods]
    for number, train in enumerate(trains):
        (name,) = train.services
        labels = {"kubernetes.io/service-name": name}
        spec = {**whole.services["web.shop.svc.cluster.local"]["spec"], "clusterIP": address(number)}
        made.append({"kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        made.append({**slices[0], "metadata": {"name": name, "namespace": "shop", "labels": labels}})
        made += objects(name, name, train)
    snapshot = World(made)
    return waypoint_config(snapshot, world.waypoint_gateway(), list(snapshot.services.values()), "access.jsonl")


def ask(client: Client, request: Request, host: str, times: int) -> tuple[Counter[str], str | None]:
    """(who answered, the route that the first response names)."""
    query = "&".join(f"{name}={value}" for name, value in request.query.items())
    path = f"{request.uri}?{query}" if query else request.uri
    probe = {"method": request.method, "path": path, "headers": request.sent()}
    answer = client.ask(probe, request.host or host, times)
    return answer["served_by"], answer["response"].get(routes.ROUTE_HEADER)


def opened(where: str) -> Client:
    """A client, as soon as Envoy listens."""
    client, deadline = Client(where), time.monotonic() + STARTED
    while True:
        try:
            client.open()
            return client
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise SystemExit(f"Envoy does not listen after {STARTED} s; see envoy.log") from None
            time.sleep(0.05)


def main(work: Path) -> None:
    loopback_up()
    run_pods()
    accepted = list(generate.accepted())
    seeds = [seed for seed, _ in accepted]
    trains = [alone(number, settings, "web") for number, (_, settings) in enumerate(accepted)]
    meshed = [alone(number, train, f"w{number}") for number, train in enumerate(trains[:IN_MESH])]
    config, other = public(trains), inside(meshed)
    config.clusters += other.clusters
    config.endpoints |= other.endpoints
    config.listeners += other.listeners
    config.routes += other.routes
    # Not from files that Envoy watches: it takes one inotify instance for each, and a user has 128 of them.
    (work / "bootstrap.json").write_text(json.dumps(static_bootstrap(config)))
    envoy = start(work / "bootstrap.json", work, "--log-path", str(work / "envoy.log"))
    client = opened(world.GATEWAY_ADDRESS)
    differ: list[str] = []
    layers: Counter[str] = Counter()
    draws: list[Json] = []
    began = time.monotonic()
    doors: list[tuple[Literal["gateway", "mesh"], int, Settings]]
    doors = [("gateway", number, train) for number, train in enumerate(trains)]
    doors += [("mesh", number, train) for number, train in enumerate(meshed)]
    for door, number, train in doors:
        (name,), host = train.services, f"r{number}.test"
        rng = Random(f"{seeds[number]}-{door}")
        if door == "mesh":
            client.close()
            client = opened(address(number))
        some = [replace(generate.request(rng, train, name), door=door) for _ in range(REQUESTS)]
        plain = Request(door=door)
        for one in [*some, replace(plain, host="no.such.test")]:
            wanted = decide(name, train, one)
            answered, told = ask(client, one, host, 1)
            (who,) = answered
            layers[f"{door} {wanted.layer}"] += 1
            if (told != f"{wanted.route}/{who}" or who not in wanted.shares) if wanted.shares else who != "404":
                differ.append(f"{seeds[number]} at {door}: {one}: evaluator {wanted}, Envoy {who} by {told}")
        shares = decide(name, train, plain).shares
        if len(shares) > 1 and number % 25 == 0:
            answered, _ = ask(client, plain, host, DRAWS)
            draws.append({"canary": answered["canary"], "share": shares["canary"]})
    seconds = time.monotonic() - began
    envoy.kill()
    found = {"differ": differ, "layers": layers, "draws": draws, "seconds": seconds, "configurations": len(trains)}
    (work / "results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
