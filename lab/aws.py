"""AWS in the lab: how its stand-in is started, and how a test has it fail.

`python -m lab.aws FAULTS` inside the lab replaces the faults that are still to come (a JSON list, see
lab/aws_server.py) and prints those that were left.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from lab.control_plane import Command, binary
from lab.namespace import AWS_HOST, NODE_IP, LabError, python_path
from lab.paths import LAB

PORT = 4566
URL = f"http://{AWS_HOST}:{PORT}"
FAULTS = "/_lab/faults"
READY_SECONDS = 60
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": URL,
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    # No credentials: the stand-in takes any, and nobody's own are to be sent to it.
    "AWS_ACCESS_KEY_ID": "lab",
    "AWS_SECRET_ACCESS_KEY": "lab",
    "AWS_SESSION_TOKEN": "",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def command(host: str = NODE_IP, port: int = PORT, folder: Path = LAB / "aws") -> Command:
    """The stand-in, listening at that address alone; it keeps all in memory, and finds no container engine."""
    folder.mkdir(exist_ok=True)
    settings = {
        "PYTHONPATH": python_path(),
        "BIND_HOST": host,
        "GATEWAY_PORT": str(port),
        "TMPDIR": str(folder),
        "SERVICES": "cloudfront,cloudfront-keyvaluestore,logs,sts",
        "DOCKER_HOST": f"unix://{folder}/none",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }
    python = Path(binary("ministack")).with_name("python")
    return Command("aws", [str(python), "-u", "-m", "lab.aws_server"], settings)


async def wait_ready(url: str = URL) -> None:
    """Until the stand-in answers."""
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient() as client:
        while True:
            try:
                (await client.get(f"{url}{FAULTS}")).raise_for_status()
                return
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise LabError(f"AWS did not answer after {READY_SECONDS} s: see .lab/logs/aws.log") from None
                await asyncio.sleep(0.1)


def faults(*wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Has AWS fail like that from now on, and in no other way; what was left of the faults before."""
    from lab.stack import inside  # not above: what starts the lab imports this module

    argv, environment = inside([sys.executable, "-m", "lab.aws", json.dumps(wanted)])
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    answer = httpx.put(f"{URL}{FAULTS}", content=sys.argv[1])
    print(answer.text, file=sys.stdout if answer.is_success else sys.stderr)
    sys.exit(not answer.is_success)
