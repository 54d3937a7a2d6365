"""What a training step takes on a GPU at RoBERTa-base's size: by torch's operations, by more kernels, recorded.

`python -m tests.campaigns.gpu_steps [--trials 64] [--chunks 2]` prints a line of JSON for each way: milliseconds of a
step, of a trial-step, of the host; useful TFLOP/s (4P a real token); GB beside the base at the peak. LoRA of rank 8 on
query and value, bf16, dropout 0.1, 32 texts of SST-2's lengths; STEPS steps are timed once, after a pass over the same
batches.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bench.engine import kernels
from bench.engine.loop import Loop
from tests.pretend import count

P, STEPS = 84.93e6, 8  # weights in matrix products
WAYS: dict[str, tuple[tuple[str, ...], bool]] = {  # which kernels, and whether chunks are recorded
    "torch": ((), False), "masks": (("masks",), False), "attention": (("masks", "attention"), False),
    "all": (kernels.NAMES, False), "torch, recorded": ((), True), "all, recorded": (kernels.NAMES, True),
}  # fmt: skip


@contextlib.contextmanager
def way(names: tuple[str, ...], recorded: bool) -> Iterator[None]:
    """Use these kernels, and record chunks or not, while inside."""
    with pytest.MonkeyPatch.context() as patch, kernels.use(*names):
        if not recorded:
            patch.setattr(Loop, "_can_record", lambda loop, least_steps: False)
        yield


def loop_of(n_trials: int, n_chunks: int) -> Loop:
    """Return the loop of a pack, on random ids."""
    case = count.Case(base="roberta-base", method="lora", n_trials=n_trials)
    loop = count.built(case, with_ids=np.random.default_rng(1))
    loop.n_chunks = n_chunks
    return loop


def measured(loop: Loop) -> dict[str, float | str]:
    """Return what STEPS steps took."""
    batches = list(loop.split.order(seed=0, batch_size=loop.budget.batch_size, max_steps=STEPS))
    for places in batches:
        loop.step(places)
    torch.cuda.synchronize()
    idle = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for places in batches:
        loop.step(places)
    host = time.perf_counter() - start
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / STEPS
    tokens = float(np.mean([loop.split.lengths[places].sum() for places in batches]))
    n_trials = loop.bank.n_trials
    return {
        "ms": 1e3 * seconds, "ms_per_trial": 1e3 * seconds / n_trials, "host_ms": 1e3 * host / STEPS,
        "tflops": 4 * P * tokens * n_trials / seconds / 1e12, "reserved_gb": torch.cuda.memory_reserved() / 1e9,
        "peak_gb": (torch.cuda.max_memory_allocated() - idle) / 1e9, "engine_path": loop.engine_path,
    }  # fmt: skip


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=2)
    chosen = parser.parse_args()
    for name, (names, recorded) in WAYS.items():
        with way(names, recorded):
            found = measured(loop_of(chosen.trials, chosen.chunks))
        print(json.dumps({"way": name, "K": chosen.trials} | found), flush=True)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
