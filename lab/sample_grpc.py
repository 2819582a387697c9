"""The process of the image `sample-grpc`: gRPC over plain HTTP/2, any unary method, as `sample-web` behaves.

The answer is JSON bytes, and metadata says `x-served-by`, `x-served-version` and `x-served-tag`; a failure is INTERNAL.
`grpc.health.v1.Health` is served too; `/healthz` and `/metrics` are HTTP, on METRICS_PORT.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import grpc

from lab.sample_app import LINGER_SECONDS, METRICS_PORT, App, until_end

_FINISH_SECONDS = 20
_HEALTHY, _UNHEALTHY = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse: SERVING, NOT_SERVING


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Requests and answers are bytes: whoever calls brings the messages."""

    def __init__(self, app: App) -> None:
        self._app = app

    def service(self, details: Any) -> Any:
        """Every method, the health check apart, is the same one."""
        health = details.method == "/grpc.health.v1.Health/Check"
        return grpc.unary_unary_rpc_method_handler(self._health if health else self._answer)

    async def _health(self, request: bytes, context: Any) -> bytes:
        return _UNHEALTHY if self._app.behaviour.unready else _HEALTHY

    async def _answer(self, request: bytes, context: Any) -> bytes:
        app, begun = self._app, time.perf_counter()
        await asyncio.sleep(app.behaviour.slow_ms / 1000)
        served = {"x-served-by": app.pod, "x-served-version": app.track, "x-served-tag": app.tag}
        await context.send_initial_metadata(tuple(served.items()))
        failed = app.fails()
        app.count(500 if failed else 200, time.perf_counter() - begun)
        if failed:
            await context.abort(grpc.StatusCode.INTERNAL, "fails, as it was asked to")
        return json.dumps({"version": app.tag, "track": app.track, "pod": app.pod, "bytes": len(request)}).encode()


async def main() -> int:
    app = App(os.environ)
    address, port = os.environ["POD_IP"], int(os.environ.get("PORT") or 3000)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handler(app),))
    server.add_insecure_port(f"{address}:{port}")
    if app.behaviour.crash_after != 0:
        await server.start()
        await asyncio.start_server(app.connection, address, METRICS_PORT)
        print(f"sample-grpc:{app.tag} ({app.track}) listens on {address}:{port}", flush=True)
    if code := await until_end(app.behaviour):
        return code
    await asyncio.sleep(LINGER_SECONDS)
    await server.stop(_FINISH_SECONDS)
    for writer in [*app.open]:
        writer.close()
    await asyncio.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
