"""bench status of a search: what counts as its own, and how many trials it is to have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import store
from bench.commands import _resolve, status
from bench.core.record import to_row
from bench.study import resolve
from bench.sweep.optuna_mirror.reach import Reach
from tests.support.sweep_helpers import at_rung, records

GIVEN = {"study": "demo", "methods": "lora", "sampler": "tpe", "n_trials": "6", "rank": "2", "seeds": "0"}


@pytest.fixture(scope="module")
def resolved() -> _resolve.Resolved:
    return _resolve.resolve(resolve.load(overrides=GIVEN))


def test_rows_of_an_earlier_grid_and_of_a_growth_are_told_apart(resolved: _resolve.Resolved, tmp_path: Path) -> None:
    first, largest = resolved.trials[0], max(one.eta_A for one in resolved.trials)
    mine = [replace(first, eta_A=rate, eta_B=rate) for rate in (0.9 * largest, 0.99 * largest)]
    strays = [replace(first, eta_A=20 * largest, eta_B=20 * largest), replace(first, rank=4, eta_A=0.5 * largest)]
    store.write(tmp_path, records([*mine, *strays]))
    assert "sampler tpe: 2 of 6 trials finished, 0 failed\n" in status.look(resolved, tmp_path)[1]
    reach = Reach(resolved.study, resolved.trials, higher_is_better=True)
    scores = _resolve.scores_of(store.load(tmp_path))
    assert reach.read({row["trial_id"]: row for row in store.load(tmp_path).to_pylist()}, scores).keys() == {
        one.trial_id for one in mine
    }
    grown = reach.grow(mine, scores)
    assert grown is not None
    store.write(tmp_path, records([reach.trial({"eta_A": grown.values[0]}, seed=0)]))
    told = status.look(resolved, tmp_path)[1]
    assert "sampler tpe: 3 of 7 trials finished, 0 failed; 1 of them beyond the border\n" in told


@pytest.mark.parametrize("sampler", ["tpe", "halving"])
def test_what_pruning_saves_is_told(sampler: str, tmp_path: Path) -> None:
    """One trial ended, and two were left out after 20 of 80 steps: of 240 steps 120 were saved."""
    given = {**GIVEN, "sampler": sampler, "max_steps": "80"}
    resolved = _resolve.resolve(resolve.load(overrides=given if sampler == "tpe" else _without(given, "n_trials")))
    ended, *gone = resolved.trials[:3]
    store.write(tmp_path, records([ended]))
    rows = [to_row(replace(one, outcome=at_rung(one.trial, 20))) for one in records(gone)]
    store.write_pruned(tmp_path, [{**row, "status": "pruned"} for row in rows])
    assert "2 pruned (50% of the steps saved)" in status.look(resolved, tmp_path)[1]


def _without(given: dict[str, str], name: str) -> dict[str, str]:
    return {key: text for key, text in given.items() if key != name}
