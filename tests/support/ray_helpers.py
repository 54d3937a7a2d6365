"""A Ray executor of the fake engine, and a driver of its own process."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from bench.executors.ray import RayExecutor, RayOptions
from tests.support.sweep_helpers import OPTIONS, PROVENANCE, family, grid, study
from tests.support.worker_fakes import make


def executor(scratch: Path, *, seconds: float = 0.0, **options: object) -> RayExecutor:
    """Return a Ray executor of the fake engine."""
    settings: dict[str, object] = {"start_seconds": 1200.0, **options}
    return RayExecutor(
        make=functools.partial(make, scratch, seconds), provenance=PROVENANCE, metric_name="accuracy",
        options=RayOptions(**settings), log_dir=scratch / "logs",  # type: ignore[arg-type]
    )  # fmt: skip


def drive(address: str, results: Path, scratch: Path, seconds: float) -> int:
    """Sweep the grid on the cluster at `address`; return the exit code."""
    from bench import sweep
    from bench.executors import cluster

    cluster.connect(address)
    done = sweep.run(
        study(), grid(), results_dir=results, executor=executor(scratch, seconds=seconds), options=OPTIONS,
        family=family,
    )  # fmt: skip
    return done.exit_code


if __name__ == "__main__":
    sys.exit(drive(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
