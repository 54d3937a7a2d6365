"""Commands that only look start quickly: no torch, and few seconds of the processor with a whole demo study on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sweep_helpers as helpers

from bench import planner, store, study
from bench.commands import _resolve

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "datasets", "optuna"}
# Modules and seconds of processor time, user and system, which other work on the machine does not lengthen much.
CODE = (
    "import resource, sys; from bench import cli; code = cli.main(sys.argv[1:]); "
    "used = resource.getrusage(resource.RUSAGE_SELF); "
    "print(used.ru_utime + used.ru_stime, *sys.modules, file=sys.stderr); sys.exit(code)"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of every trial of the demo study."""
    directory = tmp_path_factory.mktemp("results")
    resolved = _resolve.resolve(study.load("demo", profile="quick"))
    for pack in planner.plan(resolved.trials):
        store.write(directory / resolved.study.name, helpers.records(pack.trials))
    return directory


@pytest.mark.parametrize(
    ("command", "allowed", "limit"),
    [("plan", set(), 2.0), ("status", set(), 2.0), ("plot", {"matplotlib"}, 5.0)],
)
def test_looking_is_quick_and_imports_no_torch(command: str, allowed: set[str], limit: float, results: Path) -> None:
    arguments = [sys.executable, "-c", CODE, command, "--profile", "quick", "--results-dir", str(results)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=one_thread, check=True)
    seconds, *modules = done.stderr.split()[-len(done.stderr.splitlines()[-1].split()) :]
    assert (HEAVY | {"matplotlib"}) & set(modules) == allowed
    assert float(seconds) < limit
    assert "100 trials" in done.stdout or command != "plan"
