"""Best cells: chosen on held-out examples, reported on the evaluation split, never silently over fewer seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.best import Best, best_cells
from bench.spec import TrainBudget, Trial

BUDGET = TrainBudget(max_steps=10, eval_steps=10)


def trial(eta_A: float, seed: int = 0, ratio: float = 1, **settings: Any) -> Trial:
    return Trial(
        task="t", model="m", data_hash="d", model_hash="h", method="lora", seed=seed, eta_A=eta_A,
        eta_B=eta_A * ratio, budget=BUDGET, **{"rank": 8, **settings},
    )  # fmt: skip


def row(trial: Trial, value: float | None, select: float | None = None, status: str = "ok") -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id, "status": status, "metric_name": "accuracy", "metric_value": value,
        "metric_stderr": 0.03, "select_metric": select,
    }  # fmt: skip


def best(trials: list[Trial], rows: list[dict[str, Any]], *, higher: bool = True) -> tuple[Best, ...]:
    return best_cells({"lora": trials}, rows, higher_is_better=higher)


def test_the_held_out_examples_choose_and_the_evaluation_split_reports() -> None:
    a, b = trial(1e-4), trial(1e-3)
    (chosen,) = best([a, b], [row(a, 0.9, 0.6), row(b, 0.8, 0.7)])
    assert (chosen.eta_A, chosen.mean, chosen.chosen_by) == (1e-3, 0.8, "select_metric")
    (chosen,) = best([a, b], [row(a, 0.9), row(b, 0.8)])
    assert (chosen.eta_A, chosen.mean, chosen.chosen_by) == (1e-4, 0.9, "metric_value")
    (chosen,) = best([a, b], [row(a, 0.9), row(b, 0.8)], higher=False)
    assert chosen.eta_A == 1e-3


def test_a_cell_that_lost_a_seed_is_passed_over() -> None:
    a, b = [trial(1e-4, s) for s in (0, 1)], [trial(1e-3, s) for s in (0, 1)]
    rows = [row(a[0], 0.99), row(a[1], None, status="diverged"), row(b[0], 0.8), row(b[1], 0.7)]
    (chosen,) = best([*a, *b], rows)
    assert (chosen.eta_A, chosen.n, chosen.n_planned, chosen.mean) == (1e-3, 2, 2, 0.75)
    (chosen,) = best(a, rows)
    assert (chosen.n, chosen.n_planned, chosen.mean) == (1, 2, 0.99)


def test_the_spread_is_over_three_seeds_else_over_examples() -> None:
    cell = [trial(1e-4, seed) for seed in range(3)]
    (three,) = best(cell, [row(t, v) for t, v in zip(cell, (0.7, 0.8, 0.9), strict=True)])
    assert three.stderr == pytest.approx(0.1 / math.sqrt(3))
    assert three.stderr_of == "seeds"
    (two,) = best(cell[:2], [row(t, 0.8) for t in cell[:2]])
    assert (two.stderr, two.stderr_of) == (pytest.approx(0.03), "examples")


def test_borders() -> None:
    rates, ratios = (1e-4, 1e-3, 1e-2), (1, 4, 16)
    cells = {(eta, ratio): trial(eta, ratio=ratio) for eta in rates for ratio in ratios}

    def borders(eta: float, ratio: float) -> tuple[str, ...]:
        rows = [row(t, 0.9 if at == (eta, ratio) else 0.5) for at, t in cells.items()]
        return best(list(cells.values()), rows)[0].borders

    assert borders(1e-3, 4) == ()
    assert borders(1e-2, 4) == ("eta_A",)
    assert borders(1e-4, 16) == ("eta_A", "lr_ratio")
    assert borders(1e-3, 1) == (), "below 1 there is no LoRA+"


def test_each_rank_has_a_best_cell_and_no_rows_have_none() -> None:
    a, b = trial(1e-4, rank=2), trial(1e-4, rank=8)
    assert [b.rank for b in best([a, b], [row(a, 0.5), row(b, 0.6)])] == [2, 8]
    assert best([a], []) == ()
