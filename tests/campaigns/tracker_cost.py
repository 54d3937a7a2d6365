"""What a tracker costs a sweep of 100 trials in CPU seconds, interleaved with no tracker, by rounds.

    python -m tests.campaigns.tracker_cost --rounds 3 --steps 8    # whole sweeps of the demo
    python -m tests.campaigns.tracker_cost --rounds 3 --alone      # a process that sends 100 stored rows, and no more

CPU seconds of the process and of children that it waited for: other work on the machine moves wall time. `--alone`
counts from when what every sweep imports is there. An empty LORASWEEP_CACHE is a machine that never reported before.
On a busy machine those of whole sweeps differ by more than trackers cost: then `--alone` tells, start-up included.
A service that a tracker leaves running is not counted. `throws` and `hangs` stand in for trackers that are down.
"""

from __future__ import annotations

import argparse
import importlib
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

from bench import cli, store, trackers
from bench.sweep.events import Started
from bench.trackers import _reporter
from bench.trackers._base import Open, Run

TRACKERS = ("", "tensorboard", "trackio", "mlflow", "wandb", "throws", "hangs")
BROKEN = ("throws", "hangs")
ROWS = Path(__file__).resolve().parents[2] / "results" / "reference" / "sst2-reference.parquet"
EVERY_SWEEP = (
    "bench.commands.sweep", "bench.engine.run", "bench.sweep.sweeper", "optuna", "plots.figures", "scipy.stats",
    "transformers.models.roberta.modeling_roberta",
)  # fmt: skip
_REAL = trackers.get
RATES = "2e-4,4e-4,8e-4,1.6e-3,3.2e-3"


def measured(command: list[str], directory: str) -> tuple[int, float, float]:
    """Run this script otherwise; return the exit code, CPU and wall seconds, user and system."""
    places = {"TRACKIO_DIR": f"{directory}/trackio", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    with (Path(directory) / "out.txt").open("w") as out:
        start = os.times().elapsed
        whole = [sys.executable, "-m", "tests.campaigns.tracker_cost", *command]
        process = subprocess.Popen(whole, stdout=out, stderr=out, env={**os.environ, **places})
        _, status, used = os.wait4(process.pid, 0)
        return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, os.times().elapsed - start


def sweep(tracker: str, steps: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of one sweep of 100 trials, user and system."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "--as-bench", "sweep", "--task", "demo", "--methods", "lora", "--rank", "8",
            "--eta-A", RATES, "--seeds", ",".join(map(str, range(20))), "--steps", str(steps),
            "--eval-steps", str(max(1, steps // 2)),
            "--results-dir", directory, *(["--report-to", tracker] if tracker else []),
        ]  # fmt: skip
        code, cpu, wall = measured(command, directory)
        rows = sum(pq.read_metadata(part).num_rows for part in Path(directory).rglob("trials/*.parquet"))
        check(tracker, directory, ok=code == 0 and rows == 100)
        return cpu, wall


def alone(tracker: str) -> tuple[float, float]:
    """Return the CPU seconds that sending 100 rows to a tracker takes, its import included, and the process's wall."""
    with tempfile.TemporaryDirectory() as directory:
        code, _, wall = measured(["--as-sender", tracker, directory], directory)
        check(tracker, directory, ok=code == 0)
        return float((Path(directory) / "cpu.txt").read_text()), wall


def check(tracker: str, directory: str, *, ok: bool) -> None:
    """End the script where a process failed or a tracker did not get every run."""
    ledgers = [*Path(directory).rglob(f"reported-{tracker}.txt")]
    sent = len(ledgers[0].read_text("utf-8").split()) if ledgers else 0
    if not ok or sent != (0 if tracker in ("", *BROKEN) else 100):
        shutil.copy(Path(directory) / "out.txt", "tracker_cost.txt")
        raise SystemExit(f"{tracker or 'no tracker'}: {sent} runs sent; see tracker_cost.txt")


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


def get(name: str, *, where: str = "--report-to") -> Open:
    """Return what opens a tracker, or a stand-in."""
    return (lambda group, directory: Broken(name)) if name in BROKEN else _REAL(name, where=where)


def as_bench(words: list[str]) -> int:
    """Run a command that knows the stand-ins beside the trackers there are."""
    trackers.get = get
    return cli.main(words)


def as_sender(name: str, directory: str) -> int:
    """Send 100 stored rows, in a process that has imported what every sweep has."""
    for module in EVERY_SWEEP:
        importlib.import_module(module)

    _reporter.LAST_SECONDS = 3600.0  # a busy machine; what is measured is CPU time
    rows = store.load_files([ROWS]).to_pylist()[:100]
    begun = sum(os.times()[:4])
    if name:
        reporter = trackers.Reporter(
            name, get(name), group="study", directory=Path(directory), finished=lambda: rows, warn=print
        )
        reporter(Started(n_trials=100, n_finished=0, n_packs=1, estimate=None))
        reporter.close()
    (Path(directory) / "cpu.txt").write_text(f"{sum(os.times()[:4]) - begun}\n")
    return 0


def main() -> None:
    """Print each sweep, and after each round the costs so far."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--trackers", nargs="+", default=TRACKERS[1:], choices=TRACKERS[1:])
    parser.add_argument("--alone", action="store_true")
    chosen = parser.parse_args()
    rounds: list[dict[str, float]] = []
    names = ("", *chosen.trackers)
    for number in range(chosen.rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        rounds.append({})
        for tracker in order:
            rounds[-1][tracker], wall = alone(tracker) if chosen.alone else sweep(tracker, chosen.steps)
            print(f"round {number + 1} {tracker or 'none'}: {rounds[-1][tracker]:.2f} CPU s, {wall:.1f} s", flush=True)
        told(rounds, chosen.trackers, shares=not chosen.alone)


def told(rounds: list[dict[str, float]], names: Sequence[str], *, shares: bool) -> None:
    """Print the cost of each tracker: medians over rounds of differences within a round, and ratios."""
    for tracker in names:
        more = [one[tracker] - one[""] for one in rounds]
        share = [one[tracker] / one[""] - 1 for one in rounds]
        ratio = f", {statistics.median(share):+.1%} ({min(share):+.1%} to {max(share):+.1%})" if shares else ""
        spread = f"{statistics.median(more):+.2f} CPU s ({min(more):+.2f} to {max(more):+.2f})"
        print(f"{tracker}: {spread}{ratio}, n = {len(rounds)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-bench"]:
        sys.exit(as_bench(sys.argv[2:]))
    if sys.argv[1:2] == ["--as-sender"]:
        sys.exit(as_sender(*sys.argv[2:]))
    main()
