"""`python -m lab.request`, inside the lab: lines `[METHOD, PATH, BODY]` of JSON in, for each a line of JSON out.

That is `{"answer": …}` of the API server to its administrator, or `{"refused": MESSAGE}`.  PATCH sends a merge patch.
"""

from __future__ import annotations

import asyncio
import json
import sys

from lab import kube


async def main() -> None:
    """Answers until its input ends."""
    async with kube.Api() as api:
        for line in sys.stdin:
            method, path, body = json.loads(line)
            try:
                kind = kube.MERGE if method == "PATCH" else "application/json"
                told: kube.Json = {"answer": await api.request(method, path, body, kind)}
            except kube.ApiError as error:
                told = {"refused": str(error)}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
