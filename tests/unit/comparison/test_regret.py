"""Regret: what choosing by the held-out part costs on the evaluation split, worked by hand."""

from __future__ import annotations

import pytest

from bench.comparison import regret
from bench.comparison.arms import Arm, Row
from tests.support.comparisons import row
from tests.support.plot_rows import trial

ETAS = (1e-4, 4e-4, 1.6e-3)


def rows_of(
    select: dict[tuple[float, int], float | None], metric: dict[tuple[float, int], float | None]
) -> dict[str, Row]:
    found = {}
    for (eta, seed), value in metric.items():
        t = trial("lora", eta, seed)
        found[t.trial_id] = {**row(t, value), "select_metric": select[eta, seed]}
    return found


ARM = Arm(name="lora", trials=tuple(trial("lora", eta, seed) for seed in (0, 1) for eta in ETAS))


def test_the_regret_of_each_seed_is_the_best_score_less_the_chosen_one_s() -> None:
    select: dict[tuple[float, int], float | None] = dict.fromkeys(((eta, seed) for eta in ETAS for seed in (0, 1)), 0.5)
    metric = {(1e-4, 0): 0.70, (4e-4, 0): 0.80, (1.6e-3, 0): 0.83, (1e-4, 1): 0.71, (4e-4, 1): 0.84, (1.6e-3, 1): None}
    select |= {(4e-4, 0): 0.9, (4e-4, 1): 0.9, (1.6e-3, 1): None}
    found = regret.regrets([ARM], rows_of(select, metric), higher_is_better=True)
    assert [(r.seed, r.n_cells, r.chosen.eta_A, r.best.eta_A) for r in found] == [
        (0, 3, 4e-4, 1.6e-3),
        (1, 2, 4e-4, 4e-4),
    ]
    assert [r.regret for r in found] == [pytest.approx(0.03), 0.0]
    (line,) = regret.lines(found, scale=100, unit="points")
    assert line == (
        "selection: lora: the cell chosen on held-out examples is 1.50 points worse on the evaluation split than the "
        "best of 3 cells (seeds: 3.00, 0.00)"
    )


def test_of_a_loss_the_smaller_one_is_better_and_without_a_held_out_part_there_is_no_regret() -> None:
    metric: dict[tuple[float, int], float | None] = {(1e-4, 0): 2.0, (4e-4, 0): 1.0, (1.6e-3, 0): 1.5}
    select: dict[tuple[float, int], float | None] = {(1e-4, 0): 2.0, (4e-4, 0): 1.9, (1.6e-3, 0): 1.0}
    (found,) = regret.regrets([ARM], rows_of(select, metric), higher_is_better=False)
    assert (found.chosen.eta_A, found.best.eta_A, found.regret) == (1.6e-3, 4e-4, 0.5)
    assert regret.regrets([ARM], rows_of(dict.fromkeys(metric), metric), higher_is_better=False) == ()
