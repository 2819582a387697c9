"""The public door as the program declares it, with a certificate."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lab import load
from lab.paths import LAB, ROOT
from lab.stack import Stack, inside
from tests.e2e.test_doors import PROBE
from tests.e2e.waiting import until

pytestmark = pytest.mark.lab

HOST = "shop.lab.test"


def test_with_a_certificate_the_door_speaks_tls_1_2_or_newer_redirects_the_rest_and_splits_as_before(
    stack: Stack,
) -> None:
    command = [sys.executable, "-m", "lab", "tls-secret", "shop-tls", HOST]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    trusted = LAB / "tls" / "shop-tls.crt"
    stack.service(canary={"image": "sample-web:2.0"})
    stack.edit(weight=0, gateway={"replicas": 1, "tlsSecret": "shop-tls"})
    stack.up().check()
    argv, environment = inside([sys.executable, "-c", PROBE, HOST, str(trusted)])

    def probed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    until(lambda: probed().returncode == 0, "HTTPS with a certificate of that host")
    found = json.loads(probed().stdout)
    assert found["old"] == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert found["plain"] == [301, f"https://{HOST}/x?y=1"]
    assert found["now"] in ("TLSv1.2", "TLSv1.3")
    assert load.run(f"https://{HOST}", 100, None, trusted) == load.Counts(stable=100)
    assert load.run(f"https://{HOST}", 100, {"x-canary": "true"}, trusted) == load.Counts(canary=100)
    other = LAB / "tls" / "other.crt"
    subprocess.run([*command[:-2], "other", "another.lab.test"], cwd=ROOT, check=True, capture_output=True)
    assert load.run(f"https://{HOST}", 1, None, other).lost == 1, "a client that trusts another certificate"
