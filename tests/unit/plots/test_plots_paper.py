"""The LoRA+ paper's other figures: speed-up, ratios, the toy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from bench.core.spec import Trial
from bench.data import toy
from plots import figures, forms, grid, heatmap, levels, style
from plots.figures import curves, ratio, speedup, steps
from plots.tidy import StudyInfo
from tests.support.plot_helpers import exact, gids, info, panel_axes
from tests.support.plot_rows import frame, trial


def glue(seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[Trial, ...]:
    """The grid of the paper's figures 3 on, whose equal cells are LoRA's."""
    etas_A, etas_B = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4), (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3)
    return tuple(
        trial("lora" if a == b else "lora+", a, s, ratio=b / a, eta_B=b, init="zero_A")
        for a in etas_A
        for b in etas_B
        for s in seeds
    )


def test_crossings_are_read_off_linearly_and_only_where_there_are_some() -> None:
    curve = np.array([[10.0, 20.0, 30.0], [0.5, 0.7, 0.6]])
    assert speedup.first_crossing(curve, 0.6, higher=True) == pytest.approx(15)
    assert speedup.first_crossing(curve, 0.4, higher=True) == 10
    assert speedup.first_crossing(curve, 0.71, higher=True) is None
    falling = np.array([[0.0, 100.0], [2.0, 1.0]])
    assert speedup.first_crossing(falling, 1.25, higher=False) == pytest.approx(75)
    slow, fast = np.array([[0.0, 100.0], [0.0, 0.8]]), np.array([[0.0, 100.0], [0.0, 1.6]])
    read = speedup.read(slow, fast, higher=True)
    assert read is not None
    assert (read.steps_standard, read.steps_plus, read.speedup) == (100, 50, 2)
    back = speedup.read(fast, slow, higher=True)
    assert back is not None
    assert back.speedup is None
    early = speedup.read(np.array([[0.0, 50.0, 100.0], [0.0, 0.9, 0.45]]), fast, higher=True)
    assert early is not None
    assert early.steps_standard == pytest.approx(25)  # its final score, which it had reached before


def test_a_speedup_to_a_score_that_is_there_at_the_first_point_is_a_bound() -> None:
    slow, fast = np.array([[10.0, 20.0], [0.1, 0.2]]), np.array([[10.0, 20.0], [0.3, 0.4]])
    bound = speedup.read(slow, fast, higher=True)
    assert bound is not None
    assert (bound.words, bound.speedup) == ("≥ 2.00", 2)
    falling = speedup.read(np.array([[10.0, 20.0], [0.3, 0.2]]), slow, higher=True)
    assert falling is not None
    assert (falling.at_once_standard, falling.words) == (True, "≤ 0.50")
    flat = np.array([[10.0, 20.0], [0.1, 0.1]])
    neither = speedup.read(flat, fast, higher=True)
    assert neither is not None
    assert (neither.speedup, neither.words) == (None, "both there at the first evaluation")


def test_nothing_is_read_off_a_lora_that_collapsed() -> None:
    trials = glue()
    df = with_slopes(frame(trials))
    df["collapsed"] = df["method"] == "lora"
    table = speedup.tidy(df, info(trials, (0, 1, 2)))
    assert not table.readings
    figure = speedup.draw(table)
    assert "No speed-up is given: LoRA collapsed" in style.figure_caption(figure)
    (said,) = (t for t in panel_axes(figure)[0].texts if t.get_gid() == "reading")
    assert "LoRA collapsed" in said.get_text()


def with_slopes(df: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with straight curves, LoRA+'s twice as steep."""
    for method, slope in (("lora", 0.002), ("lora+", 0.004)):
        df["curve"] = [
            [
                {"step": s, "train_seconds": 0.0, "train_loss": 1.0, "metric_value": 0.1 + slope * s}
                for s in (0, 50, 100)
            ]
            if m == method
            else c
            for c, m in zip(df["curve"], df["method"], strict=True)
        ]
    return df


def tuned_alike(seeds: tuple[int, ...]) -> tuple[Trial, ...]:
    """Nine cells of each method, the best of both (eta_A = 1e-3, ratio 4) inside its grid."""
    etas = tuple(1e-3 * 2.0**k for k in range(-4, 5))
    lora = tuple(trial("lora", eta, s) for eta in etas for s in seeds)
    return lora + tuple(trial("lora+", eta, s, ratio=r) for eta in (1e-4, 1e-3, 1e-2) for r in (2, 4, 8) for s in seeds)


def peaked(t: Trial) -> float:
    return (
        0.8
        - 0.05 * abs(np.log10(t.eta_A) + 3)
        - 0.01 * abs(np.log2(t.lr_ratio or 1) - (0 if t.method == "lora" else 2))
    )


UNEQUAL = "tuning was unequal (9 cells of LoRA, 6 of LoRA+)"
UNEQUAL_TOO = "tuning was unequal (5 cells of LoRA, 9 of LoRA+)"
BORDER = "the best cell of LoRA lies on its grid's border"


@pytest.mark.parametrize(
    ("kept", "seeds", "reasons"),
    [
        (lambda t: True, (0,), ("there is one seed only",)),
        (lambda t: t.method == "lora" or t.lr_ratio > 2, (0, 1), (UNEQUAL,)),
        (lambda t: t.method == "lora+" or t.eta_A >= 1e-3, (0, 1), (UNEQUAL_TOO, BORDER)),
    ],
)  # fmt: skip
def test_no_factor_of_speed_without_equal_tuning_inside_the_grids_and_several_seeds(
    kept: Callable[[Trial], bool], seeds: tuple[int, ...], reasons: tuple[str, ...]
) -> None:
    trials = tuple(t for t in tuned_alike(seeds) if kept(t))
    df = with_slopes(frame(trials, surface=peaked))
    df["select_metric"] = [peaked(t) for t in trials]
    table = speedup.tidy(df, info(trials, seeds))
    assert not table.readings
    assert list(table.unread.values()) == [reasons]
    figure = speedup.draw(table)
    assert f"No speed-up is given: {', '.join(reasons)}" in style.figure_caption(figure)
    (said,) = (t for t in panel_axes(figure)[0].texts if t.get_gid() == "reading")
    assert all(reason in said.get_text().replace("\n", " ") for reason in reasons)
    assert "×" not in said.get_text()


def test_speedup_is_of_the_best_cells_and_seed_by_seed() -> None:
    trials = tuned_alike((0, 1, 2))
    df = with_slopes(frame(trials, surface=peaked))
    df["select_metric"] = [peaked(t) for t in trials]
    table = speedup.tidy(df, info(trials, (0, 1, 2)))
    (reading,) = table.readings.values()
    assert reading.target == pytest.approx(0.3)
    assert reading.speedup == pytest.approx(2)
    (each,) = table.of_seeds.values()
    assert [one.speedup for one in each] == [pytest.approx(2.0)] * 3
    figure = speedup.draw(table)
    assert "100 / 50 steps = 2.00; seed by seed: 2.00, 2.00, 2.00" in style.figure_caption(figure)
    (said,) = (t for t in panel_axes(figure)[0].texts if t.get_gid() == "reading")
    assert said.get_text() == "speed-up 2.00×"


def test_ratios_are_of_the_top_pairs_with_every_seed() -> None:
    trials = glue((0, 1))
    top = {(1e-5, 100.0, -1): 0.95, (1e-5, 200.0, -1): 0.94, (1e-4, 10.0, -1): 0.93, (2e-4, 5.0, -1): 0.92}
    broken = {(8e-4, 5.0, 0): float("nan"), (8e-4, 5.0, 1): 0.99}
    table = ratio.tidy(exact(trials, {**top, **broken}), info(trials))
    assert table.pairs["lr_ratio"].tolist() == [100, 200, 10, 5]
    (column,) = table.columns.itertuples()
    assert (column.n_pairs, column.n_cells) == (4, 42)
    assert column.median == pytest.approx(np.sqrt(1000))  # half way between 10 and 100
    ax = panel_axes(ratio.draw(table))[0]
    (median,) = gids(ax, "median")
    assert median.get_ydata()[0] == pytest.approx(column.median)  # type: ignore[attr-defined]


def test_ratios_of_several_tasks_stand_side_by_side() -> None:
    trials = glue((0,)) + tuple(replace(t, task="cola") for t in glue((0,)))
    df = frame(trials)
    df.loc[df["task"] == "cola", "metric_name"] = "matthews"
    drawn = figures.all_figures(df, info(trials, (0,)), form="paper")
    assert {"ratio", "sst2_minilm_speedup", "cola_minilm_paper_matthews_zero_A"} <= set(drawn)
    titles = ratio.tidy(df, info(trials, (0,))).columns["column"].tolist()
    assert titles == ["sst2", "cola"]
    one_metric = ratio.tidy(frame(trials), info(trials, (0,))).columns["column"].tolist()
    assert one_metric == ["cola", "sst2"]


def test_the_paper_s_form_of_a_study_clips_the_metric_only() -> None:
    trials = glue((0,))
    drawn = figures.all_figures(frame(trials), info(trials, (0,)), form="paper", clip=0.8)
    names = ["paper_accuracy_zero_A", "paper_eval-loss_zero_A", "paper_train-loss_zero_A", "speedup", "ratio"]
    assert list(drawn) == names
    assert "Colours end at 80.0" in style.figure_caption(drawn["paper_accuracy_zero_A"])
    assert "Colours end at 0.8" not in style.figure_caption(drawn["paper_eval-loss_zero_A"])


@cache
def toy_rows() -> tuple[pd.DataFrame, StudyInfo]:
    """A fine grid of the toy whose largest rates diverge: early, late, and for one seed only."""
    etas = tuple(10 ** (-4 + k / 4) for k in range(20))
    trials = tuple(
        trial("lora" if a == b else "lora+", a, s, ratio=b / a, eta_B=b, init="nonzero", task="toy", model="mlp")
        for a in etas
        for b in etas
        for s in (0, 1)
    )
    df = frame(trials, surface=lambda t: float("nan") if t.eta_A > 1e-1 else 0.5)
    df["metric_name"] = "eval_loss"
    df.loc[(df["eta_A"] > 1) & (df["eta_A"] < 2), "curve"] = None  # gone before its first point
    return df, info(trials)


def test_steps_show_a_trial_up_to_where_it_diverged() -> None:
    df, study = toy_rows()
    table = steps.tidy(df, study)
    assert [title for title, _ in table.panels] == [
        "test loss, t = 50", "test loss, t = 300", "train loss, t = 50", "train loss, t = 300",
    ]  # fmt: skip
    early, late = (cells.cells.set_index(["eta_A", "eta_B"]) for _, cells in table.panels[:2])
    assert late["n_diverged"].sum() > early["n_diverged"].sum() > 0
    assert early.loc[early["n_diverged"] == 0, "n_ok"].eq(2).all()
    stored = df[(df["eta_A"] == 1e-4) & (df["eta_B"] == 1e-4)]
    expected = np.mean([curve[0]["metric_value"] for curve in stored["curve"]])
    assert early.loc[(1e-4, 1e-4), "mean"] == pytest.approx(expected)
    assert not any(cells.higher_is_better for _, cells in table.panels)


def test_the_toy_has_the_trivial_predictor_s_loss_on_bars_curves_and_in_captions() -> None:
    df, study = toy_rows()
    expected = np.mean([toy.trivial_loss(seed, "eval") for seed in (0, 1)])
    table = steps.tidy(df, study)
    assert table.trivial is not None
    assert table.trivial.eval == pytest.approx(expected)
    figure = steps.draw(table)
    assert f"predicting 0 everywhere gives {expected:.3f} (test)" in style.figure_caption(figure).lower()
    trained = curves.draw(curves.tidy(df, study))
    (line,) = gids(panel_axes(trained)[0], "trivial")
    assert line.get_ydata()[0] == pytest.approx(expected)  # type: ignore[attr-defined]
    assert levels.trivial(frame(glue((0,)))) is None
    made = figures.all_figures(df, study)
    panels = {f"steps_{part}-loss-t{step}" for part in ("test", "train") for step in (50, 300)}
    assert {"heatmap_eta_B_nonzero", *panels} == {name for name in made if name[:5] in ("heatm", "steps")}
    assert all(len(panel_axes(made[name])) == 1 for name in panels), "one panel a file"


def test_neighbours_that_diverged_share_a_patch_in_a_fine_grid_only() -> None:
    df, study = toy_rows()
    table = heatmap.tidy(df, study)
    drawn = grid.grid_of(table, "eta_B")
    patches = [p for p in panel_axes(heatmap.draw(table, form=forms.PAPER_TOY))[0].patches if p.get_hatch()]
    assert sum(p.get_width() for p in patches) == drawn.diverged.sum() > len(patches)  # type: ignore[attr-defined]
