"""Threads that wait give their core away soon: what the command line sets before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEE = """
import os, sys
from bench import cli
cli.main(["studies"])
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_how_long_threads_spin(given: dict[str, str], seen: str) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", SEE], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{seen} False"
