"""A whole small sweep with everything in it, as processes: this harness, and Trainer + PEFT + Optuna.

All run the same cells of the embedded demo on tiny-roberta: as many steps of as many examples, one evaluation at the
end, no part of train held out. Start-up is included: Python, imports, data, model; ours draws its figures as well. The
peers are B0, B1 and B1g: every text padded to the maximum length, Trainer's own batches, and batches grouped by length,
in training and evaluation.

Where cells are left out early, ours does it by halving, and the peer, B1g, by Optuna's MedianPruner as it comes, which
is asked after each quarter of the steps. The time is then that until the best cells are printed: the figures, which the
peer does not draw, come after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.methods import FAMILY
from bench.timing.peers.interleave import interleaved
from bench.timing.peers.rows import Row

TASK, MODEL = "demo", "tiny-roberta"
SWEEPERS = ("ours", "b0", "b1", "b1g")
ONCE = ("b0",)  # it takes minutes: in the first round only
SWEEP, EARLY = "sweep", "early"  # to the end, and with cells left out early
WHOLE = {SWEEP: SWEEPERS, EARLY: ("ours", "b1g")}  # by part, who runs it
AFTER_BEST = b"rows: "  # what ours prints below the table of the best cells


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """The sweep that all run, one seed of the demo's heatmap: LoRA (ratio 1) and LoRA+ over eta_A x lr_ratio."""

    eta_A: tuple[float, ...] = (1e-5, 4e-5, 1.6e-4, 6.4e-4, 2.56e-3, 1.024e-2, 4.096e-2)
    lr_ratio: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
    steps: int = 80
    batch_size: int = 32
    rank: int = 8
    max_length: int = 128
    device: str = "cpu"
    early: bool = False  # whether cells are left out early

    @property
    def n_trials(self) -> int:
        """How many cells there are."""
        return len(self.eta_A) * len(self.lr_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A process that has ended; `seconds` until it had done what is timed."""

    seconds: float
    peak_memory_bytes: int
    code: int
    output: str  # the end of it


def measure(
    cells: Cells, chosen: Sequence[str], parts: Sequence[str] = (SWEEP,), *, repeats: int, tell: Callable[[str], None],
    run: Callable[[Sequence[str], bytes | None], Ended] | None = None,
) -> list[Row]:  # fmt: skip
    """Return a row for each sweep, `repeats` of each of the chosen ones in each part, interleaved; of ONCE one.

    Raises:
        RuntimeError: where a sweep fails.
    """
    rows = []
    pairs = [(part, name) for part in parts for name in WHOLE[part] if name in chosen]
    for repeat, (part, name) in interleaved(pairs, repeats):
        if repeat and name in ONCE:
            continue
        with tempfile.TemporaryDirectory(prefix="lorasweep-bench-") as directory:
            some = replace(cells, early=part == EARLY)
            until = AFTER_BEST if some.early and name == "ours" else None
            ended = (run or process)(command(name, some, Path(directory)), until)
        if ended.code != 0:
            raise RuntimeError(f"the sweep of {name} ended with code {ended.code}: {ended.output}")
        tell(f"{part} {name}, round {repeat + 1}: {ended.seconds:.1f} s")
        n = cells.n_trials
        rows.append(
            Row(
                part=part,
                contender=name,
                precision="fp32",
                n_trials=n,
                rank=cells.rank,
                repeat=repeat,
                seconds=ended.seconds,
                steps=cells.steps,
                examples=n * cells.steps * cells.batch_size,
                peak_memory_bytes=ended.peak_memory_bytes,
            )
        )
    return rows


def command(name: str, cells: Cells, directory: Path) -> list[str]:
    """Return the command line of a sweep."""
    if name == "ours":
        ratios = ",".join(f"{ratio:g}" for ratio in cells.lr_ratio if ratio != 1)
        options = {
            "task": TASK, "model": MODEL, "methods": ",".join(FAMILY), "ranks": cells.rank, "seeds": 0,
            "eta-A": ",".join(f"{rate:g}" for rate in cells.eta_A), "lambda": ratios, "steps": cells.steps,
            "eval-steps": cells.steps, "batch": cells.batch_size, "max-length": cells.max_length, "n-select": 0,
            "device": cells.device, "results-dir": directory,
        }  # fmt: skip
        if cells.early:
            options |= {"sampler": "halving", "widen": "false"}  # the peer's grid does not grow either
        return [sys.executable, "-m", "bench", "sweep", *(f"--{key}={value}" for key, value in options.items())]
    return [sys.executable, "-m", "bench.timing.peers.peer_sweep", name, json.dumps(asdict(cells)), str(directory)]


def process(arguments: Sequence[str], until: bytes | None) -> Ended:
    """Run a command to its end; memory is the process's high-water mark.

    Seconds are those on the wall until it prints a line that begins so, or with None until it ends.

    Raises:
        RuntimeError: where it ends well and has printed no such line.
    """
    start, seconds, output = time.perf_counter(), None, b""
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if until is not None and line.startswith(until):
                seconds = time.perf_counter() - start
            output = (output + line)[-500:]
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if until is None or child.returncode != 0:
        seconds = time.perf_counter() - start
    if seconds is None:
        raise RuntimeError(f"{' '.join(arguments[:4])} printed no line that begins with {until!r}")
    return Ended(
        seconds=seconds, peak_memory_bytes=1024 * usage.ru_maxrss,
        code=child.returncode, output=output.decode("utf-8", errors="replace"),
    )  # fmt: skip
