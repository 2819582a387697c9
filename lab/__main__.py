"""`python -m lab`: start, stop, show and use the lab. See lab/README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from lab import namespace
from lab.namespace import LabError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="A cluster and a mesh in a network namespace.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("up", help="start the lab; on a running one, start again what died")
    verbs.add_parser("down", help="stop the lab and remove what it made")
    verbs.add_parser("status", help="parts, pods, addresses, and what is not in force")
    execute = verbs.add_parser("exec", help="run a command where the lab's addresses are reachable")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    parts = verbs.add_parser("parts", help="which parts are real, and what stands in for the others")
    parts.add_argument("--json", action="store_true")
    verbs.add_parser("flagger", help="build Flagger and its load tester, and write their charts")
    secret = verbs.add_parser("tls-secret", help="make a self-signed certificate as a Secret")
    secret.add_argument("name")
    secret.add_argument("hosts", nargs="+", metavar="HOST")
    secret.add_argument("--namespace", default="istio-ingress", help="that of the gateway's pods (%(default)s)")
    load = verbs.add_parser("load", help="send requests and count who served")
    from lab.load import add_arguments  # standard library only: the other verbs do not pay for it

    add_arguments(load)
    return parser


def _exec(command: list[str]) -> int:
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        print("lab exec: no command given: python -m lab exec -- CMD", file=sys.stderr)
        return 2
    state = namespace.running()
    namespace.enter(state)
    wanted = namespace.environment(state, os.environ)
    try:
        os.execvpe(command[0], command, wanted)
    except OSError as error:
        print(f"lab exec: {command[0]}: {error.strerror}", file=sys.stderr)
        return 126 if isinstance(error, PermissionError) else 127


def _tls_secret(name: str, hosts: list[str], space: str) -> int:
    import asyncio

    from lab import pki
    from lab.kube import Api, ApiError
    from lab.paths import LAB

    certificate, key = pki.self_signed(hosts)
    labels = {"lab.canary/self-signed": "true"}
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": space, "labels": labels},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key},
    }

    async def apply() -> None:
        async with Api() as api:
            await api.apply(f"/api/v1/namespaces/{space}/secrets/{name}", manifest)

    namespace.enter(namespace.running())
    try:
        asyncio.run(apply())
    except ApiError as error:
        raise LabError(f"Secret {space}/{name}: {error}; the namespace comes with the first `pulumi up`") from error
    path = LAB / "tls" / f"{name}.crt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(certificate)
    print(f"Secret {space}/{name} for {', '.join(hosts)}, self-signed; clients trust it by {path}")
    return 0


def _parts(as_json: bool) -> int:
    from lab.parts import all_parts

    found = all_parts()
    if as_json:
        print(json.dumps([asdict(part) for part in found], indent=1))
        return 0
    for part in found:
        print(f"{part.name:<28} {'real' if part.real else '-':<5} {part.version:<24} {part.path or ''}")
        print(f"{'':<28} {part.why}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        if args.verb == "exec":
            return _exec(args.command)
        if args.verb == "parts":
            return _parts(args.json)
        if args.verb == "tls-secret":
            return _tls_secret(args.name, args.hosts, args.namespace)
        if args.verb == "load":
            from lab import load

            return load.main(args)
        if args.verb == "flagger":
            from lab import flagger_charts

            print(flagger_charts.provide())
            return 0
        from lab import lifecycle

        if args.verb == "status":
            return lifecycle.status()
        lifecycle.up() if args.verb == "up" else lifecycle.down()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
