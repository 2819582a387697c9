"""`python -m lab.request METHOD PATH [JSON]`: one request to the lab's API server as its administrator.

Runs inside the lab (`python -m lab exec -- …`); the lab has no kubectl.  PATCH sends a merge patch.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from lab import kube


async def request(method: str, path: str, body: Any = None) -> Any:
    """The answer's JSON; `kube.ApiError` on anything but 2xx."""
    async with kube.Api() as api:
        return await api.request(method, path, body, kube.MERGE if method == "PATCH" else "application/json")


def main() -> int:
    """Prints the answer; exit code 1 and the API server's message on a refusal."""
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    method, path, *rest = sys.argv[1:]
    try:
        print(json.dumps(asyncio.run(request(method, path, json.loads(rest[0]) if rest else None)), indent=1))
    except kube.ApiError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
