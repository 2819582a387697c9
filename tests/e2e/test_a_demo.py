"""The README's first command.

First by its name: where something is deployed already the demo takes that down, which takes half a minute.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab.paths import ROOT

pytestmark = pytest.mark.lab


def test_a_whole_rollout_and_a_revert_lose_no_request_and_keep_their_shares(lab: None) -> None:
    """Its steps, doors, intervals and background load are those of the demo."""
    done = subprocess.run([sys.executable, "-m", "lab.demo"], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 lost; 0 of 36 shares outside" in done.stdout
