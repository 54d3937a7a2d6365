"""The fault campaign in its short form; `make torture` runs all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_fault_campaign() -> None:
    command = [sys.executable, "-m", "tests.campaigns.torture", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 doubled" in done.stdout
    assert ", 0 failed" in done.stdout
