"""python -m tests.fuzz [--n 10000] [--seed 0] [--target NAME]: fuzz every reader of user input; prints counts."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings

from bench import cli
from tests.fuzz.outcome import Ends
from tests.fuzz.targets import Target, targets

BATCH = 2000  # examples of one run of hypothesis: it keeps what it has seen


def main() -> int:
    """Fuzz; return 1 if any input ended in anything but a result or one line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="only this one")
    chosen = parser.parse_args()
    failed = 0
    os.fsync = lambda handle: None  # what is on disk is read by this process alone
    built = typer.main.get_command(cli.app())  # once: building it takes longer than most command lines
    cli.app = lambda: built
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        for name, target in targets(Path(home)).items():
            if chosen.target in (None, name):
                failed += not fuzz(name, target, chosen.n, chosen.seed)
    print("FAILED" if failed else "ok", f"seed {chosen.seed}")
    return 1 if failed else 0


def fuzz(name: str, target: Target, n: int, first_seed: int) -> bool:
    """Give a target n inputs; print how they ended; return whether all ended well."""
    ends, begin, fine, batch = Ends(), time.monotonic(), True, 0
    while fine and ends.counts.total() < n and batch < 10 + 2 * n // BATCH:
        left = min(BATCH, n - ends.counts.total())
        fine = _batch(target, ends, left, seed_of=f"{first_seed} {name} {batch}")
        batch += 1
    counts = ", ".join(f"{ends.counts[key]:,} {key}" for key in ("accepted", "refused"))
    told = f"{ends.counts.total():,} inputs: {counts}; no traceback, no hang" if fine else "FAILED, see above"
    print(f"fuzz {name}: {told}; {time.monotonic() - begin:.0f} s", flush=True)
    return fine


def _batch(target: Target, ends: Ends, n: int, *, seed_of: str) -> bool:
    @seed(seed_of)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @given(value=target.values)
    def one(value: object) -> None:
        target.run(value, ends)

    try:
        one()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
