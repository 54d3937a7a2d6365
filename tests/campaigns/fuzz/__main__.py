"""python -m tests.campaigns.fuzz [--n 10000] [--seed 0] [--target NAME]: fuzz every reader of user input.

Half of the inputs that are bytes come from strategies, half by mutation guided by the lines that they reach. With
--notes FILE a campaign that is stopped goes on from its last whole portion; --minutes M stops it by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings

from bench import cli
from tests.campaigns.fuzz import guided
from tests.campaigns.fuzz.outcome import Ends
from tests.campaigns.fuzz.targets import Target, targets
from tests.support.portions import Portions

BATCH = 2000  # inputs of one portion


def main() -> int:
    """Fuzz; return 1 if any input ended in anything but a result or one line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--notes", type=Path, help="what is done is noted here, and not done again")
    parser.add_argument("--minutes", type=float, help="start no portion after so many")
    chosen = parser.parse_args()
    failed, portions = 0, Portions(chosen.notes, minutes=chosen.minutes)
    os.fsync = lambda handle: None  # what is on disk is read by this process alone
    built = typer.main.get_command(cli.app())  # once: building it takes longer than most command lines
    cli.typer.main.get_command = lambda app: built
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        for name, target in targets(Path(home)).items():
            if chosen.target in (None, name):
                failed += not fuzz(name, target, chosen.n, chosen.seed, portions)
    if portions.n_left and not failed:
        print(f"{portions.n_left} targets are not done: the same command goes on; {portions.told()}")
        return portions.exit_code
    print("FAILED" if failed else "ok", f"seed {chosen.seed}; {portions.told()}")
    return 1 if failed else 0


def fuzz(name: str, target: Target, n: int, first_seed: int, portions: Portions) -> bool:
    """Give a target n inputs; print how they ended; return whether all that were given ended well."""
    n_guided = n // 2 if target.starts else 0
    ends, lines = Counter[str](), 0
    for kind, wanted, give in (("drawn", n - n_guided, _drawn), ("guided", n_guided, _guided)):
        of_kind, batch = Counter[str](), 0
        while of_kind.total() < wanted and batch < 10 + 2 * wanted // BATCH:
            size = min(BATCH, wanted - of_kind.total())
            key = f"{first_seed} {name} {kind} {batch}"
            n_left = portions.n_left
            found = portions.run(f"{key}, {size}", _call(give, target, size, key))
            if found is None:
                fine = portions.n_left > n_left
                print(f"fuzz {name}: {'not done yet' if fine else 'FAILED, see above'}", flush=True)
                return fine
            of_kind.update(found["ends"])
            lines = max(lines, found.get("lines", 0))
            batch += 1
        ends.update(of_kind)
    counts = ", ".join(f"{ends[key]:,} {key}" for key in ("accepted", "refused"))
    guided_by = f"; {n_guided:,} of them guided, through {lines:,} lines" if n_guided else ""
    print(f"fuzz {name}: {ends.total():,} inputs: {counts}; no traceback, no hang{guided_by}", flush=True)
    return True


def _call(give: Callable[..., dict[str, Any]], *args: object) -> Callable[[], dict[str, Any] | None]:
    def call() -> dict[str, Any] | None:
        try:
            return give(*args)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc()
            return None

    return call


def _drawn(target: Target, n: int, seed_of: str) -> dict[str, Any]:
    ends = Ends()

    @seed(seed_of)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @given(value=target.values)
    def one(value: object) -> None:
        target.run(value, ends)

    one()
    return {"ends": dict(ends.counts)}


def _guided(target: Target, n: int, seed_of: str) -> dict[str, Any]:
    ends = Ends()
    lines = guided.search(target.starts, lambda content: target.run(content, ends), n=n, seed=seed_of)
    return {"ends": dict(ends.counts), "lines": lines}


if __name__ == "__main__":
    sys.exit(main())
