"""Stored curves replayed: what leaving cells out early would have cost, worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.comparison import pruning
from bench.searches import Rungs

RUNGS = Rungs(shares=(0.5,), keep=0.5)


def row(cell: int, final: float | None, losses: tuple[float, ...], *, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row of 8 steps with a point at every second one."""
    points = [
        {"step": 2 * (i + 1), "train_seconds": 1.0, "train_loss": loss, "metric_value": 0.0}
        for i, loss in enumerate(losses)
    ]
    named: dict[str, Any] = dict.fromkeys(pruning.COLUMNS)
    named |= {
        "study": "s", "task": "t", "model": "m", "method": "lora", "max_steps": 8, "eta_A": 10.0**-cell, "seed": seed,
        "metric_name": "accuracy", "status": "ok", "metric_value": final, "metric_stderr": 0.02, "curve": points,
        "diverged_step": None, "trial_id": f"{cell}-{seed}",
    }  # fmt: skip
    return named | changes


def replay(rows: list[dict[str, Any]], n_draws: int = 5) -> pruning.Replay:
    found = pruning.replay(pruning.grids(rows), RUNGS, np.random.default_rng(0), n_draws=n_draws)
    assert found is not None
    return found


def test_the_best_cell_survives_where_its_loss_is_low_enough() -> None:
    found = replay([row(i, 0.5 + 0.1 * i, (1.0, 1.0 - 0.1 * i, 0.1, 0.1)) for i in range(4)])
    assert (found.n_grids, found.n_draws, found.n_best, found.n_near, found.worst) == (1, 1, 1, 1, 0)
    assert found.steps == pytest.approx((4 * 4 + 2 * 4) / 32)


def test_a_late_bloomer_is_lost_and_told() -> None:
    losses, finals = (0.9, 0.1, 0.2, 0.3), (0.9, 0.89, 0.6, 0.5)
    rows = [row(i, finals[i], (1.0, losses[i], 0.1, 0.1)) for i in range(4)]
    found = replay(rows)
    assert (found.n_best, found.n_near) == (0, 1), "0.89 is within one standard error of 0.9"
    assert found.worst == pytest.approx(0.01)
    rows[1] = row(1, 0.7, (1.0, 0.1, 0.1, 0.1))
    assert (replay(rows).n_near, replay(rows).worst) == (0, pytest.approx(0.2))


def test_a_diverged_cell_is_left_out_and_seeds_are_drawn_anew() -> None:
    rows = [row(i, 0.5 + 0.1 * i, (1.0, 1.0 - 0.1 * i, 0.1, 0.1), seed=seed) for i in range(4) for seed in (0, 1)]
    rows += [row(9, None, (), seed=seed, status="diverged", diverged_step=1) for seed in (0, 1)]
    found = replay(rows)
    assert (found.n_draws, found.n_best) == (5, 5)


def test_a_draw_of_some_seeds_takes_the_same_ones_in_every_cell() -> None:
    """Seed by seed the same cell is best and has the lowest loss; between seeds all that differs is a shift."""
    rows = [
        row(i, 0.5 + 0.01 * i + 0.1 * seed, (1.0, 2.0 + seed - 0.1 * i, 0.1, 0.1)) | {"seed": seed}
        for i in range(4)
        for seed in range(6)
    ]
    found = pruning.replay(pruning.grids(rows), RUNGS, np.random.default_rng(0), n_draws=20, n_seeds=2)
    assert found is not None
    assert (found.n_draws, found.n_best) == (20, 20)  # cells with seeds of their own would lose some


def test_a_grid_whose_curves_begin_too_late_is_not_replayed() -> None:
    rows = [row(i, 0.5, (1.0, 1.0, 0.1, 0.1)) for i in range(4)]
    early = Rungs(shares=(0.125,), keep=0.5)
    assert pruning.replay(pruning.grids(rows), early, np.random.default_rng(0), n_draws=1) is None
    assert pruning.grids(rows[:3]) == (), "three cells are no grid"
