"""python -m tests.campaigns.torture [--seed 0] [--rounds 3] [--short]: the fault campaign; prints its counts.

The full campaign kills at least 200 sweeps, at least 20 inside each phase and at least 40 with the real engine. With
--notes FILE a campaign that is stopped goes on from its last whole portion; --minutes M stops it by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.campaigns.torture.faults import FAULTS, Skipped
from tests.campaigns.torture.kills import Counts, storm
from tests.campaigns.torture.phases import PHASES
from tests.campaigns.torture.subjects import STOPPING, Fake, Real, Stopping, Subject
from tests.support.portions import Portions

ANYWHERE = "anywhere"
# By engine: kills inside each phase, kills at random moments, in how many portions the latter come.
FULL = {"fake": (16, 80, 4), **dict.fromkeys(STOPPING, (4, 8, 1)), "real": (7, 15, 3), "real-halving": (2, 8, 1)}
SHORT = {"fake": (2, 4, 1), "halving": (1, 1, 1), "median": (1, 1, 1)}
SHORT_SKIPS = ("a trial going nan", "data file changed between runs", "corrupt model directory")  # real engine


def main() -> int:
    """Run the campaign; return 0 if nothing was lost, doubled, unreadable or left unsaid."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault is put in, each time elsewhere")
    parser.add_argument("--only", choices=("kills", "faults"), help="only one half")
    parser.add_argument("--short", action="store_true", help="a few seconds: the fake engine, few kills, no plots")
    parser.add_argument("--notes", type=Path, help="what is done is noted here, and not done again")
    parser.add_argument("--minutes", type=float, help="start no portion after so many")
    given = parser.parse_args()
    failures, portions = 0, Portions(given.notes, minutes=given.minutes)
    if given.short:  # a kill takes nothing that was written, a power cut might: the full campaign waits for the disk
        os.fsync = lambda handle: None
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        if given.only != "faults":
            failures += kills(Path(place), portions, given.seed, short=given.short)
        if given.only != "kills":
            rounds = 1 if given.short else given.rounds
            failures += faults(Path(place), portions, given.seed, rounds, short=given.short)
    if portions.n_left and not failures:
        print(f"{portions.n_left} portions are left: the same command goes on; {portions.told()}")
        return portions.exit_code
    print(f"{'FAILED' if failures else 'ok'}: {failures} failures, seed {given.seed}, {portions.told()}")
    return 1 if failures else 0


def kills(place: Path, portions: Portions, seed: int, *, short: bool) -> int:
    """Run the storms of kills, print what they did; return how many of them failed."""
    done, failures, n_left = Counts(), 0, portions.n_left
    for name, (inside, anywhere, n_parts) in (SHORT if short else FULL).items():
        phases = PHASES if name in ("fake", "real") and not short else PHASES[:-1]
        aims = [(phase, inside) for phase in phases] + [(ANYWHERE, anywhere // n_parts)] * n_parts
        for i, (where, n) in enumerate(aims):
            title = f"kills, {name} engine, {where} ({i})"
            root = place / f"storm-{name}-{i}"
            found = portions.run(
                f"{title}, {n}, seed {seed}",
                lambda name=name, root=root, where=where, n=n, i=i: _storm(name, root, f"{seed} {i}", where, n, short),  # type: ignore[misc]
            )
            if found is not None:
                done = done.plus(Counts.of(found))
                print(f"{title}: {_shown(Counts.of(found))}", flush=True)
            elif portions.n_left == n_left:
                failures += 1
                print(f"{title}: FAILED", flush=True)
    inside_phases = ", ".join(f"{phase} {done.by_phase[phase]}" for phase in PHASES)
    real = sum(n for name, n in done.by_engine.items() if name.startswith("real"))
    print(f"killed {done.killed} sweeps with SIGKILL, {real} of them with the real engine (inside {inside_phases}; "
          f"elsewhere {done.by_phase['idle']}); {done.checked_rows:,} rows read back")  # fmt: skip
    if not failures and portions.n_left == n_left:
        print("0 lost, 0 doubled")
    enough = done.killed >= 200 and min(done.by_phase[p] for p in PHASES) >= 20 and real >= 40
    return failures + (not (short or enough or portions.n_left))


def _storm(name: str, root: Path, seed: str, where: str, n: int, short: bool) -> dict[str, Any] | None:
    """Kill n sweeps in one phase or anywhere; return the counts, None where something did not hold."""
    inside, anywhere = ({}, n) if where == ANYWHERE else ({where: n}, 0)
    try:
        counts = storm(_subject(name, root), root, seed=seed, inside=inside, anywhere=anywhere, drawn=not short)
    except AssertionError:
        traceback.print_exc()
        return None
    return counts.as_json()


def _shown(counts: Counts) -> str:
    return f"{counts.killed} killed of {counts.sweeps} sweeps, {counts.checked_rows:,} rows read back after kills"


def _subject(name: str, root: Path) -> Subject:
    if name in STOPPING:
        import bench.engine.state  # imported here, not in each fork

        return Stopping(name, STOPPING[name])
    if name == "fake":
        return Fake()
    import bench.engine.run  # noqa: F401  imported here, not in each fork

    return Real(root / "home", sampler=name.partition("-")[2] or "grid")


def faults(place: Path, portions: Portions, seed: int, rounds: int, *, short: bool) -> int:
    """Put every fault in, `rounds` times; print what the user is told; return how many failed."""
    counts: Counter[str] = Counter()
    for name in FAULTS:
        if short and name in SHORT_SKIPS:
            continue
        n, n_left = 1 if name in SHORT_SKIPS else rounds, portions.n_left
        found = portions.run(
            f"fault, {name}, {n} times, seed {seed}", lambda name=name, n=n: _put(name, place, seed, n)  # type: ignore[misc]
        )  # fmt: skip
        if found is not None:
            counts.update({key: found[key] for key in ("done", "skipped")})
            print(f"fault, {name}: {found['message']}", flush=True)
        elif portions.n_left == n_left:
            counts["failed"] += 1
            print(f"fault, {name}: FAILED", flush=True)
    print(f"{counts['done']} faults of {len(FAULTS)} kinds put in and survived, {counts['skipped']} skipped, "
          f"{counts['failed']} failed")  # fmt: skip
    return counts["failed"]


def _put(name: str, place: Path, seed: int, rounds: int) -> dict[str, Any] | None:
    """Put one fault in so many times; return what was seen, None where something did not hold."""
    done = skipped = 0
    first = ""
    for i in range(rounds):
        root = place / f"fault-{name.replace(' ', '-')}-{i}"
        root.mkdir()
        try:
            message = FAULTS[name](root, random.Random(f"{seed} {name} {i}"))
            done += 1
        except Skipped as reason:
            skipped, message = skipped + 1, f"skipped: {reason}"
        except Exception:
            traceback.print_exc()
            return None
        first = first or message.replace(str(root), "...")
    return {"done": done, "skipped": skipped, "message": first}


if __name__ == "__main__":
    sys.exit(main())
