"""Sweeps with a fake engine, killed at random moments and started again, until one ends: python kill_storm.py DIR SEED.

Each sweep is a process of its own, forked from this one so that its imports cost nothing. Prints what was killed where.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from bench import store
from bench.core.spec import Pack
from bench.sweep import sweeper  # noqa: F401  imported here, not in each fork
from bench.sweep.optuna_mirror import mirror  # noqa: F401  imported here, not in each fork
from tests.support.sweep_helpers import FakeEngine, grid, run

SECONDS_PER_PACK = 0.004
AGAIN = "ran-again"


def main(directory: Path, seed: int, n_kills: int) -> int:
    """Kill n_kills sweeps, let the next one end; print a JSON line with what happened."""
    chance = random.Random(seed)
    killed = finished = 0
    while killed < n_kills:
        child = start(directory)
        time.sleep(chance.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        finished += os.WIFEXITED(status)
        if finished and killed < n_kills:  # the sweep is done before all kills are: its rows go, in part
            finished = 0
            for part in sorted((directory / "s" / "trials").glob("*.parquet"))[::2]:
                part.unlink()
    _, status = os.waitpid(start(directory), 0)
    again = (directory / AGAIN).exists()
    print(json.dumps({"killed": killed, "exit": os.waitstatus_to_exitcode(status), "ran_again": again}))
    return 0


def start(directory: Path) -> int:
    """Fork a sweep; it leaves a mark if it trains a trial that was finished when it began."""
    finished = store.finished_ids(directory / "s")
    child = os.fork()
    if child == 0:

        def train(pack: Pack) -> None:
            if finished & {trial.trial_id for trial in pack.trials}:
                (directory / AGAIN).touch()
            time.sleep(SECONDS_PER_PACK)

        engine = FakeEngine(before=train)
        os._exit(run(directory, grid(), engine).exit_code)
    return child


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
