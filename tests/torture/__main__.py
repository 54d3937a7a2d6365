"""python -m tests.torture [--seed 0] [--rounds 3] [--short]: the fault campaign; prints its counts as it goes.

The full campaign kills at least 200 sweeps, at least 20 inside each phase and at least 40 with the real engine.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.torture.faults import FAULTS, Skipped
from tests.torture.kills import Counts, storm
from tests.torture.phases import PHASES
from tests.torture.subjects import Fake, Real, Subject

FULL = {"fake": {"inside": 16, "anywhere": 80}, "real": {"inside": 7, "anywhere": 15}}
SHORT = {"fake": {"inside": 2, "anywhere": 4}}
SHORT_SKIPS = ("a trial going nan", "data file changed between runs", "corrupt model directory")  # real engine


def main() -> int:
    """Run the campaign; return 0 if nothing was lost, doubled, unreadable or left unsaid."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault is put in, each time elsewhere")
    parser.add_argument("--only", choices=("kills", "faults"), help="only one half")
    parser.add_argument("--short", action="store_true", help="a few seconds: the fake engine, few kills, no plots")
    given = parser.parse_args()
    begin = time.monotonic()
    failures = 0
    if given.short:  # a kill takes nothing that was written, a power cut might: the full campaign waits for the disk
        os.fsync = lambda handle: None
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        if given.only != "faults":
            failures += kills(Path(place), given.seed, short=given.short)
        if given.only != "kills":
            failures += faults(Path(place), given.seed, 1 if given.short else given.rounds, short=given.short)
    print(f"{'FAILED' if failures else 'ok'}: {failures} failures, seed {given.seed}, {time.monotonic() - begin:.0f} s")
    return 1 if failures else 0


def kills(place: Path, seed: int, *, short: bool) -> int:
    """Run the storms of kills, print what they did; return how many of them failed."""
    done: list[Counts] = []
    for name, numbers in (SHORT if short else FULL).items():
        begin = time.monotonic()
        try:
            done.append(storm(_subject(name, place), place / f"storm-{name}", seed=seed, drawn=not short, **numbers))
        except AssertionError:
            traceback.print_exc()
            print(f"kills, {name} engine: FAILED")
            return 1
        print(f"kills, {name} engine: {_shown(done[-1])}; {time.monotonic() - begin:.0f} s", flush=True)
    phases: Counter[str] = sum((one.by_phase for one in done), Counter())
    killed = sum(one.killed for one in done)
    inside = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES)
    print(f"killed {killed} sweeps with SIGKILL (inside {inside}; elsewhere {phases['idle']}): 0 lost, 0 doubled")
    enough = killed >= 200 and min(phases[p] for p in PHASES) >= 20 and done[-1].killed >= 40
    return 0 if short or enough else 1


def _shown(counts: Counts) -> str:
    return f"{counts.killed} killed of {counts.sweeps} sweeps, {counts.checked_rows:,} rows read back after kills"


def _subject(name: str, place: Path) -> Subject:
    if name == "fake":
        return Fake()
    import bench.engine.run  # noqa: F401  imported here, not in each fork

    return Real(place / "home")


def faults(place: Path, seed: int, rounds: int, *, short: bool) -> int:
    """Put every fault in, `rounds` times; print what the user is told; return how many failed."""
    failed = skipped = done = 0
    for name, put in FAULTS.items():
        if short and name in SHORT_SKIPS:
            continue
        for i in range(1 if name in SHORT_SKIPS else rounds):
            root = place / f"fault-{name.replace(' ', '-')}-{i}"
            root.mkdir()
            try:
                message = put(root, random.Random(f"{seed} {name} {i}"))
                done += 1
            except Skipped as reason:
                skipped, message = skipped + 1, f"skipped: {reason}"
            except Exception:
                traceback.print_exc()
                failed, message = failed + 1, "FAILED"
            if i == 0 or message == "FAILED":
                print(f"fault, {name}: {str(message).replace(str(root), '...')}", flush=True)
    print(f"{done} faults of {len(FAULTS)} kinds put in and survived, {skipped} skipped, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
