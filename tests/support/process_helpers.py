"""What worker processes of tests import: places of the fake engine of `worker_fakes`."""

from __future__ import annotations

import functools
import sys
from contextlib import closing
from pathlib import Path

from bench.executors._workers import WorkerOptions
from bench.executors.processes import Place, ProcessExecutor
from tests.support.sweep_helpers import OPTIONS, PROVENANCE, family, grid, study
from tests.support.worker_fakes import make

MADE: list[ProcessExecutor] = []  # a test closes them at its end: idle processes wait for more packs


def executor(scratch: Path, *, seconds: float = 0.0, **options: object) -> ProcessExecutor:
    """Return an executor of two processes of the fake engine."""
    places = [Place(name=f"place {i}", make=functools.partial(make, scratch, seconds), threads=1) for i in range(2)]
    one = ProcessExecutor(
        places=places, provenance=PROVENANCE, metric_name="accuracy", options=WorkerOptions(**options),  # type: ignore[arg-type]
        log_dir=scratch / "logs",
    )  # fmt: skip
    MADE.append(one)
    return one


def drive(results: Path, scratch: Path) -> int:
    """Sweep the grid; return the exit code."""
    from bench import sweep

    with closing(executor(scratch)) as one:
        return sweep.run(study(), grid(), results_dir=results, executor=one, options=OPTIONS, family=family).exit_code


if __name__ == "__main__":
    sys.exit(drive(Path(sys.argv[1]), Path(sys.argv[2])))
