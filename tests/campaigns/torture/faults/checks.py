"""What must hold after every fault, and the registry of faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench import store
from bench.core.errors import BadInput
from tests.campaigns.torture.kills import check_optuna
from tests.support import sweep_helpers as fakes

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
TRIALS = fakes.grid()
IDS = {trial.trial_id for trial in TRIALS}
Fault = Callable[[Path, random.Random], str]  # directory to work in, chance -> the message that the user saw
FAULTS: dict[str, Fault] = {}


class Skipped(Exception):
    """This machine cannot make the fault; says why."""


def fault(check: Fault) -> Fault:
    """Register a fault by its function's name."""
    FAULTS[check.__name__.replace("_", " ")] = check
    return check


def fakes_table(trials: Any) -> pa.Table:
    """Return the fake engine's rows of these trials as a table."""
    from bench.core.record import to_table

    return to_table(fakes.records(trials))


def half(root: Path, n_packs: int = 7) -> frozenset[str]:
    """Run a sweep that is interrupted in pack n_packs; return what is finished."""
    assert fakes.run(root, TRIALS, fakes.interrupt_at(n_packs)).interrupted
    finished = store.finished_ids(root / "s")
    assert 0 < len(finished) < len(TRIALS)
    return finished


def resumed(root: Path, may_run_again: frozenset[str] = frozenset(), already: frozenset[str] | None = None) -> str:
    """Run the rest; nothing finished may be trained but what the fault destroyed. Return the warnings."""
    before = store.finished_ids(root / "s") if already is None else already
    engine = fakes.FakeEngine()
    done = fakes.run(root, TRIALS, engine)
    again = set(engine.trained) & (before - may_run_again)
    assert not again, f"trained again: {again}"
    whole(root)
    assert done.exit_code == 0, done
    return " / ".join(done.warnings)


def whole(root: Path) -> None:
    """Each trial must be there once, each row be as expected, Optuna agree."""
    found = store.load(root / "s")
    assert sorted(found.column("trial_id").to_pylist()) == sorted(IDS)
    value = {row["trial_id"]: row["metric_value"] for row in found.to_pylist()}
    assert value == {trial.trial_id: fakes.outcome(trial).metric_value for trial in TRIALS}
    check_optuna(root / "s", IDS)


def says(message: str, *words: str) -> str:
    """Return the message, which must hold every one of these words and lie on one line."""
    assert "\n" not in message, message
    missing = [word for word in words if word not in message]
    assert not missing, f"the message lacks {missing}: {message!r}"
    return message


def refused(root: Path, *words: str) -> str:
    """Return the one line with which a sweep is refused before it trains."""
    engine = fakes.FakeEngine()
    try:
        fakes.run(root, TRIALS, engine)
    except BadInput as error:
        assert not engine.packs, "it trained before it refused"
        return says(str(error), *words)
    raise AssertionError("the sweep was not refused")
