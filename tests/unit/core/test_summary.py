"""The best cells: chosen on the held-out part, with every seed, and told where they lie on a border."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core import cells
from bench.core.spec import Trial
from bench.study.borders import borders
from tests.support.sweep_helpers import ETA_A, grid, run, trial


def test_the_best_cell_is_chosen_on_select_and_reported_on_the_evaluation_split(tmp_path: Path) -> None:
    done = run(tmp_path, grid(seeds=(0, 1, 2)))
    best = {cell.method: cell for cell in done.best}
    assert list(best) == ["lora", "lora+", "mora", "full"]
    cell = best["lora+"]
    assert (cell.trial.eta_A, cell.trial.eta_B, cell.chosen_by, cell.n, cell.n_diverged) == (
        1e-3, 4e-3, "select_metric", 3, 0)  # fmt: skip
    assert cell.mean == pytest.approx(1 - 0.01 - 0.001)
    assert (cell.spread, cell.spread_of) == (pytest.approx(0.001 / 3**0.5), "seeds")
    assert done.borders == ()


def one_score(one: Trial, value: float | None, select: float | None = None) -> cells.Score:
    return cells.Score(
        trial_id=one.trial_id, status="diverged" if value is None else "ok", metric_value=value, metric_stderr=0.02,
        select_metric=select, train_seconds=None, source_hash=None,
    )  # fmt: skip


def best_of(values: dict[Trial, float | None]) -> cells.BestCell:
    scores = {one.trial_id: one_score(one, value) for one, value in values.items()}
    (cell,) = cells.best_cells(values, scores, higher_is_better=True)
    return cell


def test_a_cell_with_a_diverged_seed_counts_as_the_worst_there() -> None:
    lucky = [trial(eta_A=1e-2, eta_B=4e-2, seed=s) for s in (0, 1)]
    steady = [trial(seed=s) for s in (0, 1)]
    cell = best_of({lucky[0]: 0.99, lucky[1]: None, steady[0]: 0.6, steady[1]: 0.7})
    assert cell.trial.eta_A == 1e-3
    assert (cell.mean, cell.spread, cell.spread_of) == (pytest.approx(0.65), 0.02, "examples")
    only = best_of({lucky[0]: 0.99, lucky[1]: None})
    assert (only.n, only.n_diverged, only.mean) == (2, 1, 0.99)
    none = best_of({lucky[1]: None})
    assert (none.n, none.n_diverged, none.mean, none.spread) == (1, 1, None, None)


def test_a_best_cell_on_the_border_is_told() -> None:
    trials = [
        trial(eta_A=a, eta_B=a * r, method="lora" if r == 1 else "lora+") for a in ETA_A for r in (1.0, 4.0, 16.0)
    ]
    scores = {
        t.trial_id: one_score(t, 0.9 if (t.eta_A, t.lr_ratio) in {(1e-2, 4.0), (1e-3, 1.0)} else 0.5) for t in trials
    }
    best = cells.best_cells(trials, scores, higher_is_better=True)
    assert borders(trials, best) == ("lora+: the best eta_A is the largest of the grid (1.0e-02); widen it",)
    top = {t.trial_id: one_score(t, t.eta_A * (t.lr_ratio or 1)) for t in trials}
    told = borders(trials, cells.best_cells(trials, top, higher_is_better=True))
    assert [line.split(" of ")[0] for line in told] == [
        "lora: the best eta_A is the largest",
        "lora+: the best eta_A is the largest",
        "lora+: the best lr_ratio is the largest",
    ]
