"""Plots: cells from rows, and that no mean is silently over fewer seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.core.errors import BadInput
from bench.core.record import SCHEMA
from plots import grid, heatmap, settings, style
from plots import tidy as cells_of
from plots.tidy import SETTINGS, StudyInfo, choose
from tests.support.plot_helpers import ETAS, RATIOS, exact, info
from tests.support.plot_rows import frame, lora_grid, trial


def test_settings_are_columns_and_spelled_as_in_rows() -> None:
    trials = (trial("lora+", 1e-4, ratio=4, layers_to_transform=(0, 2), head_policy=1e-3), trial("full", 1e-5))
    assert set(SETTINGS) <= set(SCHEMA.names)
    rows = frame(trials).set_index("trial_id")
    planned, _ = cells_of.rows_of_study(frame(trials), info(trials))
    for _, row in planned.iterrows():
        for name in SETTINGS:
            stored, made = rows.loc[row["trial_id"], name], row[name]
            assert (pd.isna(stored) and pd.isna(made)) or stored == made, name


@pytest.mark.parametrize(("n", "kind"), [(1, "examples"), (2, "examples"), (3, "seeds"), (4, "seeds")])
def test_stderr_is_over_seeds_from_three_on_else_over_examples(n: int, kind: str) -> None:
    trials = lora_grid((1e-3,), (1,), range(n))
    values = {(1e-3, 1.0, s): 0.8 + 0.02 * s for s in range(n)}
    cell = cells_of.tidy(exact(trials, values), info(trials, tuple(range(n)))).cells.iloc[0]
    scores = list(values.values())
    # two seeds are scored on the same examples: the binomial error is not divided by sqrt(2)
    expected = np.std(scores, ddof=1) / np.sqrt(n) if kind == "seeds" else 0.01
    assert cell["stderr_kind"] == kind
    assert cell["stderr"] == pytest.approx(expected)
    assert cell["mean"] == pytest.approx(np.mean(scores))


def test_cells_count_diverged_collapsed_and_missing_seeds() -> None:
    trials = lora_grid(ETAS, (1,), (0, 1))
    values = {(1e-3, 1.0, 0): 0.9, (1e-3, 1.0, 1): float("nan"), (1e-2, 1.0, -1): float("nan"), (1e-4, 1.0, 0): 0.52}
    df = exact(trials, values, drop=lambda t: t.eta_A == 1e-4 and t.seed == 1)
    df.loc[df["metric_value"] == 0.52, "collapsed"] = True
    cells = cells_of.tidy(df, info(trials)).cells.set_index("eta_A")
    counts = cells[["n_expected", "n_ok", "n_diverged", "n_collapsed", "n_missing"]]
    assert counts.loc[1e-4].tolist() == [2, 1, 0, 1, 1]
    assert counts.loc[1e-3].tolist() == [2, 1, 1, 0, 0]
    assert counts.loc[1e-2].tolist() == [2, 0, 2, 0, 0]
    assert cells.loc[1e-3, "mean"] == 0.9
    assert np.isnan(cells.loc[1e-2, "mean"])


def test_without_trials_a_cell_owes_the_seeds_of_the_study() -> None:
    trials = lora_grid(ETAS, (1,), (0, 1))
    df = frame(trials, drop=lambda t: t.eta_A == 1e-4 and t.seed == 1)
    cells = cells_of.tidy(df).cells.set_index("eta_A")
    assert cells["n_expected"].tolist() == [2, 2, 2]
    assert cells.loc[1e-4, "n_missing"] == 1
    assert set(cells_of.tidy(df, StudyInfo(seeds=(0, 1, 2))).cells["n_expected"]) == {3}


def test_a_mean_over_survivors_is_never_the_best_beside_a_complete_cell() -> None:
    trials = lora_grid(ETAS, (1,), (0, 1))
    values = {(1e-3, 1.0, 0): 0.95, (1e-3, 1.0, 1): float("nan"), (1e-4, 1.0, -1): 0.8}
    table = heatmap.tidy(exact(trials, values), info(trials))
    best = choose(table)
    assert best is not None
    assert best["eta_A"] == 1e-4
    drawn = grid.grid_of(table, "eta_B")
    assert not drawn.within_percent[drawn.diverged].any()
    only = choose(table.where(table.cells["eta_A"] == 1e-3))
    assert only is not None
    assert only["eta_A"] == 1e-3


def test_rows_of_other_trials_are_counted_and_not_drawn() -> None:
    trials = lora_grid(ETAS, RATIOS, (0, 1))
    table = heatmap.tidy(frame(trials), info(trials[:-4]))
    assert len(table.cells) == 7
    assert "4 other rows in the directory" in style.figure_caption(heatmap.draw(table))
    assert "other row" not in style.figure_caption(heatmap.draw(heatmap.tidy(frame(trials), info(trials))))


def test_a_trial_twice_and_two_metrics_are_bad_input() -> None:
    trials = lora_grid(ETAS, (1,), (0,))
    df = frame(trials)
    with pytest.raises(BadInput, match="a trial must occur once"):
        cells_of.tidy(pd.concat([df, df]))
    with pytest.raises(BadInput, match="two of one seed"):
        cells_of.tidy(frame((*trials, replace(trials[0], budget=replace(trials[0].budget, eval_steps=10)))))
    df.loc[0, "metric_name"] = "matthews"
    with pytest.raises(BadInput, match="one metric"):
        cells_of.tidy(df)


def test_lora_lies_in_lora_plus_grid_though_it_has_no_embedding_rate() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    table = heatmap.tidy(frame(trials), info(trials, (0,)))
    assert len(settings.split(table)) == 1
    assert set(table.cells["method"]) == {"lora", "lora+"}
    twin = replace(trials[0], method="lora+", loraplus_lr_embedding=1e-6)
    both = heatmap.tidy(frame((*trials, twin)), info((*trials, twin), (0,)))
    assert len(both.cells) == 9
    assert both.cells.loc[both.cells["lr_ratio"] == 1, "method"].tolist().count("lora+") == 1


def test_panels_are_the_settings_that_vary_and_do_not_follow_from_others() -> None:
    trials = sum((lora_grid(ETAS, RATIOS, (0,), rank=r) for r in (16, 2)), ())
    trials += (trial("full", 1e-5), trial("full", 1e-4))
    table = cells_of.tidy(frame(trials), info(trials, (0,)))
    panels = settings.split(table)
    assert [title for title, _ in panels] == ["rank 2", "rank 16"]  # lora_alpha = rank
    assert all((panel.cells["method"] == "full").sum() == 2 for _, panel in panels)
    other = tuple(replace(t, lora_alpha=32.0) for t in lora_grid(ETAS, (1,), (0,), rank=2))
    titles = [t for t, _ in settings.split(cells_of.tidy(frame((*trials, *other)), info((*trials, *other), (0,))))]
    assert titles[:2] == ["rank 2, lora_alpha 2", "rank 2, lora_alpha 32"]


def test_ratios_that_differ_by_rounding_are_one_row() -> None:
    etas = tuple(10 ** (-4 + k / 9) for k in range(19))
    trials = tuple(trial("lora+", a, ratio=b / a) for a in etas for b in etas)
    ratios = cells_of.tidy(frame(trials, surface=lambda t: 0.8), info(trials, (0,))).cells["lr_ratio"]
    assert len({t.lr_ratio for t in trials}) > 37  # the trap
    assert ratios.nunique() == 37
    assert ratios.eq(1.0).sum() == 19
