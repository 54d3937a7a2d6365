"""Signals in the middle of a sweep, and a second sweep beside it."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from bench.core.errors import BadInput
from bench.core.spec import Pack
from tests.campaigns.torture.faults.checks import TRIALS, fakes_table, fault, resumed, says, whole
from tests.campaigns.torture.kills import read_everything
from tests.support import sweep_helpers as fakes


def _signalled(root: Path, how: int, times: int, gap: float, at: float) -> tuple[int, int]:
    """Start a sweep of slow packs, send it signals; return its exit code and how many packs it began after the last."""
    begun = root / "begun"
    begun.touch()
    child = os.fork()
    if child == 0:
        code = 99

        def begin(pack: Pack) -> None:
            with open(begun, "a") as stream:
                stream.write(".")
            time.sleep(0.05)

        try:
            code = fakes.run(root, TRIALS, fakes.FakeEngine(before=begin)).exit_code
        except KeyboardInterrupt:
            code = 130  # as bench.cli has it
        finally:
            os._exit(code)
    time.sleep(at)
    for n in range(times):
        if n:
            time.sleep(gap)
        os.kill(child, how)
    before = begun.stat().st_size
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), begun.stat().st_size - before


def _after_signals(root: Path, how: int, times: int, chance: random.Random) -> str:
    code, n_more = _signalled(root, how, times, chance.uniform(0.0, 0.02), chance.uniform(0.25, 0.6))
    assert code in (130, -how, 0), f"exit code {code}"
    assert n_more <= 1, f"it began {n_more} packs after the last signal"
    read_everything(root / "s", expected_by_id())
    resumed(root)
    return f"exit code {code}; the rest ran after it"


def expected_by_id() -> dict[str, dict[str, Any]]:
    """Return what rows must be, each with the pack that it was trained in."""
    from bench.schedule import planner
    from tests.campaigns.torture.subjects import TIMES

    packs = planner.plan(TRIALS, limits=planner.limits_for(fakes.study(), planner.Limits()), family=fakes.family)
    rows = [row for pack in packs for row in fakes_table(pack.trials).to_pylist()]
    return {row["trial_id"]: {k: v for k, v in row.items() if k not in TIMES} for row in rows}


@fault
def sigterm_once(root: Path, chance: random.Random) -> str:
    """As a scheduler stops a job."""
    return _after_signals(root, signal.SIGTERM, 1, chance)


@fault
def sigterm_twice(root: Path, chance: random.Random) -> str:
    """The second one comes while the first is being handled."""
    return _after_signals(root, signal.SIGTERM, 2, chance)


@fault
def ctrl_c_twice(root: Path, chance: random.Random) -> str:
    """An impatient user."""
    return _after_signals(root, signal.SIGINT, 2, chance)


@fault
def two_sweeps_at_once(root: Path, chance: random.Random) -> str:
    """Four sweeps of one study started together: one works, the others are refused by name."""
    reader, writer = os.pipe()
    waits, opens = os.pipe()  # the one that works waits until the others have been refused
    children = [_contender(root, writer, waits, opens) for _ in range(4)]
    os.close(writer)
    with os.fdopen(reader) as stream:
        refusals = [stream.readline().rstrip("\n") for _ in range(3)]
    os.close(opens)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(waits)
    assert sorted(codes) == [0, 2, 2, 2], codes
    whole(root)
    return says(refusals[0], "one sweep at a time", "process", "wait for it, stop it")


def _contender(root: Path, writer: int, waits: int, opens: int) -> int:
    child = os.fork()
    if child == 0:
        os.close(opens)
        code = 99
        try:
            code = fakes.run(root, TRIALS, fakes.FakeEngine(before=lambda pack: os.read(waits, 1))).exit_code
        except BadInput as error:
            os.write(writer, f"{error}\n".encode())
            code = 2
        finally:
            os._exit(code)
    return child
