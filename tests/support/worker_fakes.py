"""What workers import in tests, of Ray or processes: a fake engine that may die, hang or fail by what files say."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from bench import store
from bench.core.record import Outcome
from bench.core.spec import Pack
from bench.executors.local import LocalExecutor
from tests.support.sweep_helpers import PROVENANCE, comparable, outcome

FAULTS = ("kill", "hang", "lose", "raise")
PAUSE = "pause-from-4"  # while this file is there, packs from the fourth one on wait


def make(scratch: Path, seconds: float, log_dir: Path) -> LocalExecutor[None]:
    """Return an executor whose packs take some seconds; `scratch` is where faults are ordered and work is noted."""

    def load(_: object) -> None:
        note(scratch, f"load {os.getpid()}")
        note(scratch, f"threads {os.environ.get('OMP_NUM_THREADS')}")

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
            if fault == "lose":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            raise RuntimeError(f"as ordered, on {socket.gethostname()}")


def rows(results: Path) -> list[dict[str, object]]:
    """Return the rows without the packs that they were trained in: several workers get smaller ones."""
    found = comparable(store.load(results / "s"))
    return [{name: value for name, value in row.items() if name not in ("pack_id", "pack_size")} for row in found]
