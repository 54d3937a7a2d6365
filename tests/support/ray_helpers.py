"""What workers of a Ray cluster import in tests: a fake engine that may die, hang or fail by what files say."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.core.record import Outcome
from bench.core.spec import Pack
from bench.executors.local import LocalExecutor
from bench.executors.ray import RayExecutor, RayOptions
from tests.support.sweep_helpers import OPTIONS, PROVENANCE, family, grid, outcome, study

FAULTS = ("kill", "hang", "raise")
PAUSE = "pause-from-4"  # while this file is there, packs from the fourth one on wait


def make(scratch: Path, seconds: float, log_dir: Path) -> LocalExecutor[None]:
    """Return an executor whose packs take some seconds; `scratch` is where faults are ordered and work is noted."""

    def load(_: object) -> None:
        note(scratch, f"load {os.getpid()}")

    def train(pack: Pack, _: None) -> Sequence[Outcome]:
        note(scratch, f"train {os.getpid()} {pack.pack_id}")
        while (scratch / PAUSE).exists() and len(notes(scratch, "train")) >= 4:
            time.sleep(0.05)
        obey(scratch)
        time.sleep(seconds)
        return [outcome(trial) for trial in pack.trials]

    return LocalExecutor(load=load, train=train, provenance=PROVENANCE, metric_name="accuracy", log_dir=log_dir)


def note(scratch: Path, line: str) -> None:
    """Append a line to the notes: short appends are whole."""
    with open(scratch / "notes", "a", encoding="ascii") as stream:
        stream.write(line + "\n")


def notes(scratch: Path, kind: str) -> list[list[str]]:
    """Return the words after `kind` of the notes of that kind."""
    path = scratch / "notes"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [line.split()[1:] for line in lines if line.split()[0] == kind]


def obey(scratch: Path) -> None:
    """Do what one order says, once: the worker that takes its file away is the one that is meant."""
    for fault in FAULTS:
        for order in sorted(scratch.glob(f"{fault}-*")):
            try:
                order.unlink()
            except FileNotFoundError:
                continue
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hang":
                time.sleep(6000)
            raise RuntimeError(f"as ordered, on {socket.gethostname()}")


def executor(scratch: Path, *, seconds: float = 0.0, **options: object) -> RayExecutor:
    """Return a Ray executor of the fake engine."""
    import functools

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
