"""python -m tests.campaigns.scale [--rows 100000]: times what a study of that many trials costs; prints a table.

Each step runs in a process of its own, so that its peak memory is its own, at a tenth of the size and at the full size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import store
from bench.core.spec import MethodGrid, Pack, Study, Trial
from bench.schedule import planner
from tests.campaigns.scale.cluster import simulate
from tests.support import sweep_helpers as fakes

LIMIT_SECONDS, LIMIT_BYTES, LIMIT_GROWTH = 30.0, 2e9, 1.5  # growth: time at full size / (10 * time at a tenth)
N_RATES, N_RATIOS, PACK = 50, 20, 16
# A sweep compacts by itself, so what reads small parts comes first.
STEPS = ("plan", "status", "report", "plot", "compact", "plan compacted", "status compacted", "mirror", "resume")


def trials_of(n: int) -> tuple[Trial, ...]:
    """Return n LoRA+ trials: a grid of N_RATES x N_RATIOS cells, as many seeds as are needed."""

    def every() -> Iterator[Trial]:
        for seed in range(n // (N_RATES * N_RATIOS) + 1):
            for i in range(N_RATES):
                for j in range(1, N_RATIOS + 1):  # of ratio 1 they would be LoRA's
                    yield fakes.trial(seed=seed, eta_A=_rate(i), eta_B=_rate(i + j))

    return tuple(trial for trial, _ in zip(every(), range(n), strict=False))


def _rate(i: int) -> float:
    return float(f"{1e-5 * 1.2**i:.6g}")


def packs_of(trials: tuple[Trial, ...]) -> tuple[Pack, ...]:
    """Return the packs of a CPU sweep."""
    return planner.plan(trials, limits=planner.Limits(max_pack_size=PACK))


def study_of(trials: tuple[Trial, ...]) -> Study:
    """Return the study that the trials belong to."""
    axes = tuple((name, tuple(sorted({getattr(t, name) for t in trials}))) for name in ("eta_A", "eta_B"))
    seeds = tuple(sorted({t.seed for t in trials}))
    return replace(fakes.study(pack_size=PACK, seeds=seeds), grids=(MethodGrid(method="lora+", axes=axes),))


def fill(directory: Path, n: int) -> None:
    """Write the rows of n trials, a part for each pack, as a sweep would; without waiting for the disk."""
    os.fsync = lambda handle: None
    for pack in packs_of(trials_of(n)):
        store.write(directory / "s", fakes.records(pack.trials))


def plan(results: Path, n: int) -> None:
    """What bench plan does."""
    from bench import sweep

    trials = trials_of(n)
    seen = sweep.preview(study_of(trials), trials, results_dir=results, options=fakes.OPTIONS)
    assert (seen.n_trials, seen.n_finished) == (n, n)


def resume(results: Path, n: int) -> None:
    """A sweep that has nothing left to run: rows read, Optuna's studies put right."""
    engine = fakes.FakeEngine()
    trials = trials_of(n)
    done = fakes.run(results, trials, engine, of=study_of(trials))
    assert (done.n_finished, engine.packs, done.stopped) == (n, [], None), done.stopped
    assert done.exit_code == 0


def mirror(results: Path, n: int) -> None:
    """The first such sweep: every row goes into a new journal of Optuna's."""
    assert not (results / "s" / "optuna.journal").exists()
    resume(results, n)


def status(results: Path, n: int) -> None:
    """What bench status does."""
    from bench.commands import _show
    from bench.core.cells import SCORE_COLUMNS, Score, best_cells
    from bench.study.borders import borders

    trials, found = trials_of(n), store.scan(results / "s")
    rows = dict(zip(*(found.table.column(name).to_pylist() for name in ("trial_id", "status")), strict=True))
    assert str(n) in _show.progress(trials, rows, frozenset())
    scores = {row["trial_id"]: Score.of_row(row) for row in found.table.select(list(SCORE_COLUMNS)).to_pylist()}
    best = best_cells(trials, scores, higher_is_better=True)
    assert best
    borders(trials, best)


def plot(results: Path, n: int) -> None:
    """What bench plot does."""
    from bench.commands import plot as command

    trials = trials_of(n)
    info = {"name": "s", "seeds": study_of(trials).seeds, "trials": trials, "higher_is_better": True}
    assert list(command._save(store.load(results / "s"), info, results / "s" / "figures", form="full"))


def report(results: Path, n: int) -> None:
    """What bench report does."""
    from bench.report import contents
    from bench.report.page import document as page
    from plots.tidy import StudyInfo

    trials = trials_of(n)
    rows, attempts = store.load(results / "s").to_pandas(), store.load_attempts(results / "s").to_pandas()
    info = StudyInfo.of(study_of(trials), trials, higher_is_better=True)
    source = contents.Source(command="", study_file="", toml="", borders=())
    found = contents.build(rows, attempts, study_of(trials), info, source=source, comparison=None)
    assert page.page(found)


def compact(results: Path, n: int) -> None:
    """Put all parts together."""
    before = len(list((results / "s" / store.TRIALS).iterdir()))
    store.compact(results / "s")
    after = len(list((results / "s" / store.TRIALS).iterdir()))
    assert after <= max(1, before // 10), (before, after)
    assert len(store.finished_ids(results / "s")) == n


def run_step(step: str, results: Path, n: int) -> None:
    """Run one step in this process; print its seconds and its peak memory as JSON."""
    calls: dict[str, Callable[[Path, int], None]] = {
        "plan": plan, "mirror": mirror, "resume": resume, "status": status, "plot": plot, "report": report,
        "compact": compact,
    }  # fmt: skip
    begin = time.monotonic()
    calls[step.split()[0]](results, n)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.monotonic() - begin, "cpu": time.process_time(), "bytes": peak}))


def measure(step: str, results: Path, n: int) -> dict[str, float]:
    """Run one step in a process of its own; return its seconds, CPU seconds with all imports, and bytes."""
    command = [
        sys.executable,
        "-m",
        "tests.campaigns.scale",
        "--step",
        step,
        "--results",
        str(results),
        "--rows",
        str(n),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step} with {n:,} trials failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(n: int, steps: tuple[str, ...], place: Path) -> bool:
    """Print what every step takes at a tenth of n trials and at n; return whether all keep within the limits."""
    fine = True
    sizes = (n // 10, n)
    for size in sizes:
        if not (place / str(size)).exists():
            fill(place / f"{size}.part", size)
            (place / f"{size}.part").rename(place / str(size))
    print(f"{'step':<18}{sizes[0]:>12,}{n:>12,}{'growth':>8}{'CPU':>10}{'memory':>9}")
    for step in steps:
        small, large = (measure(step, place / str(size), size) for size in sizes)
        seconds, peak = large["seconds"], large["bytes"]
        growth = seconds / small["seconds"] / 10
        good = seconds <= LIMIT_SECONDS and peak <= LIMIT_BYTES and (growth <= LIMIT_GROWTH or seconds < 2)
        fine &= good
        print(f"{step:<18}{small['seconds']:>10.1f} s{seconds:>10.1f} s{growth:>8.2f}{large['cpu']:>8.1f} s"
              f"{peak / 1e9:>6.2f} GB{'' if good else '  beyond the limit'}", flush=True)  # fmt: skip
    return fine


def cluster(n: int, n_devices: int) -> bool:
    """Print how far a simulated sweep ends from its lower bound."""
    trials = trials_of(n)
    packs = planner.spread(packs_of(trials), n_devices)
    done = simulate(packs, n_devices=n_devices, seed=0)
    assert set(done.runs.values()) == {1}
    assert len(done.runs) == n
    ratio = done.makespan / done.lower_bound
    print(f"{n_devices:,} virtual devices, {n:,} trials in {done.n_packs:,} packs, {done.n_lost} lost and run again:")
    print(f"makespan {done.makespan:,.0f} s, lower bound {done.lower_bound:,.0f} s, ratio {ratio:.3f}")
    return ratio <= 1.10


def main() -> int:
    """Print the tables; return 1 where a limit is passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=("table", "cluster", "storage"))
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--place", type=Path, help="rows are kept here, and not written again [default: nowhere]")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--storage", action="append", default=[], help="storage URLs beside journal and SQLite")
    parser.add_argument("--postgresql", action="store_true", help="time a PostgreSQL server of its own too")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        run_step(given.step, given.results, given.rows)
        return 0
    fine = True
    if given.only in (None, "table"):
        with tempfile.TemporaryDirectory(prefix="scale-") as own:
            fine &= table(given.rows, tuple(filter(None, given.steps.split(","))), given.place or Path(own))
    if given.only in (None, "cluster"):
        fine &= cluster(given.rows, given.devices)
    if given.only in (None, "storage"):
        from tests.campaigns.scale.storages import throughput

        throughput(given.storage, max(200, given.rows // 100), own_server=given.postgresql)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
