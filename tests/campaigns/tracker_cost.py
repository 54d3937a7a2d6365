"""What a tracker costs a sweep: CPU seconds of sweeps of 100 demo trials with and without each tracker, interleaved.

    python -m tests.campaigns.tracker_cost --rounds 3 --steps 8

CPU seconds of the process and of children that it waited for (wait4): other work on the machine moves wall time.
A service that a tracker leaves running is not counted. `throws` and `hangs` stand in for trackers that are down.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from bench import cli, trackers
from bench.trackers._base import Open, Run

TRACKERS = ("", "tensorboard", "trackio", "mlflow", "wandb", "throws", "hangs")
BROKEN = ("throws", "hangs")
RATES = "2e-4,4e-4,8e-4,1.6e-3,3.2e-3"


def sweep(tracker: str, steps: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of one sweep of 100 trials, user and system."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, "-m", "tests.campaigns.tracker_cost", "--as-bench",
            "sweep", "--task", "demo", "--methods", "lora", "--rank", "8",
            "--eta-A", RATES, "--seeds", ",".join(map(str, range(20))), "--steps", str(steps),
            "--eval-steps", str(max(1, steps // 2)),
            "--results-dir", directory, *(["--report-to", tracker] if tracker else []),
        ]  # fmt: skip
        places = {"TRACKIO_DIR": f"{directory}/trackio", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        with (Path(directory) / "out.txt").open("w") as out:
            start = os.times().elapsed
            process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **places})
            _, status, used = os.wait4(process.pid, 0)
            wall = os.times().elapsed - start
        expected = tracker and tracker not in BROKEN
        (ledger,) = [*Path(directory).rglob(f"reported-{tracker}.txt")] if expected else [None]
        sent = 100 if ledger is None else len(ledger.read_text("utf-8").split())
        rows = sum(pq.read_metadata(part).num_rows for part in Path(directory).rglob("trials/*.parquet"))
        if os.waitstatus_to_exitcode(status) != 0 or (sent, rows) != (100, 100):
            shutil.copy(Path(directory) / "out.txt", "tracker_cost.txt")
            raise SystemExit(f"{tracker or 'no tracker'}: {rows} rows, {sent} runs sent; see tracker_cost.txt")
        return used.ru_utime + used.ru_stime, wall


class Broken:
    """A tracker that hangs or throws at its first run."""

    def __init__(self, name: str) -> None:
        self._name = name

    def send(self, run: Run) -> None:
        """Never come back, or throw."""
        while self._name == "hangs":
            time.sleep(60)
        raise ConnectionError("down")

    def close(self) -> None:
        """Nothing was opened."""


def as_bench(words: list[str]) -> int:
    """Run a command that knows the stand-ins beside the trackers there are."""
    real = trackers.get

    def get(name: str, *, where: str = "--report-to") -> Open:
        return (lambda group, directory: Broken(name)) if name in BROKEN else real(name, where=where)

    trackers.get = get  # type: ignore[assignment]
    return cli.main(words)


def main() -> None:
    """Print each sweep, and after each round the costs so far."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--trackers", nargs="+", default=TRACKERS[1:], choices=TRACKERS[1:])
    chosen = parser.parse_args()
    rounds: list[dict[str, float]] = []
    names = ("", *chosen.trackers)
    for number in range(chosen.rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        rounds.append({})
        for tracker in order:
            rounds[-1][tracker], wall = sweep(tracker, chosen.steps)
            print(f"round {number + 1} {tracker or 'none'}: {rounds[-1][tracker]:.2f} CPU s, {wall:.1f} s", flush=True)
        told(rounds, chosen.trackers)


def told(rounds: list[dict[str, float]], names: Sequence[str]) -> None:
    """Print the cost of each tracker: medians over rounds of the difference and the ratio within a round."""
    for tracker in names:
        more = [one[tracker] - one[""] for one in rounds]
        share = [one[tracker] / one[""] - 1 for one in rounds]
        print(
            f"{tracker}: {statistics.median(more):+.2f} CPU s ({min(more):+.2f} to {max(more):+.2f}), "
            f"{statistics.median(share):+.1%} ({min(share):+.1%} to {max(share):+.1%}), n = {len(rounds)}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-bench"]:
        sys.exit(as_bench(sys.argv[2:]))
    main()
