"""Plots: cells from rows, what is drawn where, and that no mean is silently over fewer seeds."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from plot_rows import frame, lora_grid, score, trial

import plots
from bench import toy
from bench.errors import BadInput
from bench.record import SCHEMA
from bench.spec import Trial
from plots import curves, figures, grid, heatmap, levels, marks, rank, rates, ratio, settings, speedup, steps, style
from plots import tidy as cells_of
from plots.tidy import SETTINGS, CellTable, StudyInfo, choose

ETAS, RATIOS = (1e-4, 1e-3, 1e-2), (1, 10, 100)


def info(trials: tuple[Trial, ...], seeds: tuple[int, ...] = (0, 1), **more: object) -> StudyInfo:
    return StudyInfo(name="sst2-minilm", seeds=seeds, trials=trials, **more)  # type: ignore[arg-type]


def valued(values: dict[tuple[float, float, int], float]) -> object:
    """A surface with these values by (eta_A, lambda, seed), 0.6 elsewhere; nan diverges."""
    return lambda t: values.get((t.eta_A, t.lr_ratio, t.seed), values.get((t.eta_A, t.lr_ratio, -1), 0.6))


def exact(trials: tuple[Trial, ...], values: dict[tuple[float, float, int], float], **more: object) -> pd.DataFrame:
    """Rows whose metric_value is exactly that of `values` (see `valued`)."""
    surface = valued(values)
    df = frame(trials, surface=surface, **more)  # type: ignore[arg-type]
    true = {t.trial_id: surface(t) for t in trials}  # type: ignore[operator]
    ok = df["status"] == "ok"
    df.loc[ok, "metric_value"] = [true[i] for i in df.loc[ok, "trial_id"]]
    df.loc[ok, "select_metric"] = df.loc[ok, "metric_value"]
    df.loc[ok, "metric_stderr"] = 0.01
    return df


def gids(ax: Axes, gid: str) -> list[object]:
    return [a for a in (*ax.patches, *ax.lines, *ax.texts, *ax.collections) if a.get_gid() == gid]


def places(ax: Axes, gid: str) -> set[tuple[int, int]]:
    """(row, column) of the cells that hold a mark."""
    found: set[tuple[int, int]] = set()
    for artist in gids(ax, gid):
        if isinstance(artist, Rectangle):
            found.add((int(artist.get_y()), int(artist.get_x())))
        elif isinstance(artist, Line2D):
            found |= {(int(y), int(x)) for x, y in zip(*artist.get_data(), strict=True)}
        else:
            x, y = artist.get_position()  # type: ignore[attr-defined]
            found.add((int(y), int(x)))
    return found


def panel_axes(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_title(loc="left") or ax.get_xlabel()]


# --- cells -----------------------------------------------------------------------------------------------------------


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
    assert [title for title, _ in panels] == ["rank 2, init zero_B", "rank 16, init zero_B"]  # lora_alpha = rank
    assert all((panel.cells["method"] == "full").sum() == 2 for _, panel in panels)
    other = tuple(replace(t, lora_alpha=32.0) for t in lora_grid(ETAS, (1,), (0,), rank=2))
    titles = [t for t, _ in settings.split(cells_of.tidy(frame((*trials, *other)), info((*trials, *other), (0,))))]
    assert titles[:2] == ["rank 2, init zero_B, lora_alpha 2", "rank 2, init zero_B, lora_alpha 32"]


def test_ratios_that_differ_by_rounding_are_one_row() -> None:
    etas = tuple(10 ** (-4 + k / 9) for k in range(19))
    trials = tuple(trial("lora+", a, ratio=b / a) for a in etas for b in etas)
    ratios = cells_of.tidy(frame(trials, surface=lambda t: 0.8), info(trials, (0,))).cells["lr_ratio"]
    assert len({t.lr_ratio for t in trials}) > 37  # the trap
    assert ratios.nunique() == 37
    assert ratios.eq(1.0).sum() == 19


# --- heatmap ---------------------------------------------------------------------------------------------------------


def test_both_views_put_large_values_on_top_and_small_eta_A_left() -> None:
    trials = lora_grid(ETAS, RATIOS, (0, 1))
    values = {(a, float(r), -1): 0.5 + 0.1 * i + 0.01 * j for i, a in enumerate(ETAS) for j, r in enumerate(RATIOS)}
    table = heatmap.tidy(exact(trials, values), info(trials))
    by_ratio = grid.grid_of(table, "lr_ratio")
    assert by_ratio.xs == ETAS
    assert by_ratio.ys == (100, 10, 1)
    np.testing.assert_allclose(by_ratio.mean, [[0.52, 0.62, 0.72], [0.51, 0.61, 0.71], [0.5, 0.6, 0.7]])
    sheared = grid.grid_of(table, "eta_B")
    assert sheared.ys == (1.0, 0.1, 0.01, 0.001, 0.0001)
    nan = float("nan")
    expected = [[nan, nan, 0.72], [nan, 0.62, 0.71], [0.52, 0.61, 0.7], [0.51, 0.6, nan], [0.5, nan, nan]]
    np.testing.assert_allclose(sheared.mean, expected)


def test_the_drawn_array_and_labels_are_the_grids() -> None:
    trials = lora_grid(ETAS, RATIOS, (0, 1))
    table = heatmap.tidy(frame(trials), info(trials))
    rates_B = ["1.0e+00", "1.0e-01", "1.0e-02", "1.0e-03", "1.0e-04"]
    for view, labels in (("eta_B", rates_B), ("lr_ratio", ["100", "10", "1"])):
        figure = heatmap.draw(table, view=view)  # type: ignore[arg-type]
        ax = panel_axes(figure)[0]
        drawn = grid.grid_of(table, view)  # type: ignore[arg-type]
        (mesh,) = gids(ax, "cells")
        array = mesh.get_array()  # type: ignore[attr-defined]
        np.testing.assert_array_equal(array.filled(np.nan).reshape(drawn.mean.shape), drawn.mean)
        assert [t.get_text() for t in ax.get_xticklabels()] == ["1.0e-04", "1.0e-03", "1.0e-02"]
        assert [t.get_text() for t in ax.get_yticklabels()] == labels
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0, the largest, is on top
        assert ax.get_xlabel() == f"learning rate of A, {style.ETA_A}"


def test_missing_diverged_collapsed_short_and_unplanned_cells_look_different() -> None:
    trials = lora_grid(ETAS, RATIOS, (0, 1))
    nan = float("nan")
    values = {(1e-2, 100.0, -1): nan, (1e-2, 10.0, 1): nan, (1e-3, 100.0, -1): 0.52}
    gone = {(1e-4, 1, 0), (1e-4, 1, 1), (1e-4, 10, 0)}
    df = exact(trials, values, drop=lambda t: (t.eta_A, t.lr_ratio, t.seed) in gone)
    df.loc[df["metric_value"] == 0.52, "collapsed"] = True
    table = heatmap.tidy(df, info(trials))
    ax = panel_axes(heatmap.draw(table, view="lr_ratio"))[0]
    assert places(ax, "missing") == {(2, 0)}
    assert places(ax, "diverged") == {(0, 2), (1, 2)}
    assert places(ax, "collapsed") == {(0, 1)}
    assert places(ax, "seeds") == {(1, 0), (1, 2)}
    assert {t.get_text() for t in gids(ax, "seeds")} == {"1/2"}  # type: ignore[attr-defined]
    hatched = {(int(p.get_y()), int(p.get_x())): p for p in ax.patches if p.get_hatch()}
    assert set(hatched) == {(0, 2), (1, 2)}
    assert to_hex(hatched[0, 2].get_facecolor()) == style.PALE  # no value: no colour of the map
    assert hatched[1, 2].get_facecolor()[3] == 0  # the survivors' mean shows through
    numbers = places(ax, "number")
    assert (0, 2) not in numbers
    assert (2, 0) not in numbers
    caption = style.figure_caption(ax.get_figure(root=True))  # type: ignore[arg-type]
    assert "9 cells, 1 not run, 2 with a diverged seed, 1 with a collapsed seed, 2 with a mean over fewer" in caption
    sheared = panel_axes(heatmap.draw(table, view="eta_B"))[0]
    assert len(gids(sheared, "missing")) == 2  # one frame, one dash: a position that no trial is planned for is blank


def test_best_near_and_equal_cells_are_marked() -> None:
    trials = lora_grid(ETAS, RATIOS, (0, 1))
    values = {(1e-3, 10.0, -1): 0.9, (1e-3, 100.0, -1): 0.8915, (1e-2, 10.0, -1): 0.8901, (1e-2, 1.0, -1): 0.88}
    df = exact(trials, values)
    df["metric_stderr"] = 0.0092
    df["select_metric"] = np.where(df["eta_A"].eq(1e-3) & df["lr_ratio"].eq(100.0), 0.95, 0.6)
    figure = heatmap.draw(heatmap.tidy(df, info(trials)), view="lr_ratio")
    ax = panel_axes(figure)[0]
    assert places(ax, "best") == {(1, 1)}
    assert places(ax, "within_stderr") == {(1, 1), (0, 1)}  # 0.9 - 0.8915 <= 0.0092 < 0.9 - 0.8901
    assert places(ax, "within_percent") == {(1, 1), (0, 1)}  # 0.9 * 0.99 = 0.891
    assert places(ax, "best_equal") == {(2, 2)}
    assert places(ax, "chosen") == {(0, 1)}
    title = ax.get_title(loc="left")
    assert title.startswith("LoRA / LoRA+, rank 8, init zero_B\n")
    assert "best 90.0 ± 0.9" in title
    assert "best equal rates 88.0" in title
    assert "1.0e-02: 2.0 worse" in title
    assert {"best cell", "within 1 % of best", "best on the select split"} <= {
        t.get_text() for t in figure.legends[0].get_texts()
    }


def test_one_percent_includes_its_bound() -> None:
    trials = lora_grid((1e-4, 1e-3), (1,), (0,))
    table = heatmap.tidy(exact(trials, {(1e-4, 1.0, 0): 0.5, (1e-3, 1.0, 0): 0.495}), info(trials, (0,)))
    assert grid.grid_of(table, "lr_ratio").within_percent.all()


def test_a_best_cell_at_the_edge_is_said_so_but_not_at_lambda_1() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    for place, edge in (((1e-3, 100.0), True), ((1e-4, 10.0), True), ((1e-3, 10.0), False), ((1e-3, 1.0), False)):
        table = heatmap.tidy(exact(trials, {(*place, 0): 0.9}), info(trials, (0,)))
        title = panel_axes(heatmap.draw(table))[0].get_title(loc="left")
        assert ("edge" in title) is edge, place


def test_equal_line_passes_through_every_cell_with_equal_rates() -> None:
    etas_A, etas_B = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4), (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3)
    trials = tuple(trial("lora+", a, ratio=b / a, eta_B=b) for a in etas_A for b in etas_B)
    drawn = grid.grid_of(heatmap.tidy(frame(trials), info(trials, (0,))), "eta_B")
    line = grid.equal_line(drawn)
    assert line is not None
    points = np.stack(line, axis=1)
    for rate in set(etas_A) & set(etas_B):
        centre = np.array([drawn.xs.index(rate) + 0.5, drawn.ys.index(rate) + 0.5])
        assert np.abs(points - centre).max(axis=1).min() < 1e-9
    assert (np.diff(line[0]) > 0).all()
    assert (np.diff(line[1]) < 0).all()
    assert line[0].max() <= 7
    assert line[1].max() <= 6


def test_equal_line_is_level_over_lambda_and_absent_where_it_does_not_cross() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    table = heatmap.tidy(frame(trials), info(trials, (0,)))
    x, y = grid.equal_line(grid.grid_of(table, "lr_ratio")) or ((), ())
    assert list(x) == [0, 3]
    assert list(y) == [2.5, 2.5]
    far = table.where(table.cells["lr_ratio"] == 100)
    assert grid.equal_line(grid.grid_of(far, "lr_ratio")) is None
    assert gids(panel_axes(heatmap.draw(far, view="lr_ratio"))[0], "equal_line") == []


def test_panels_share_their_colours() -> None:
    trials = sum((lora_grid(ETAS, RATIOS, (0, 1), rank=r) for r in (2, 8)), ())
    figure = heatmap.draw(heatmap.tidy(frame(trials), info(trials)))
    first, second = (gids(ax, "cells")[0] for ax in panel_axes(figure))
    assert first.get_clim() == second.get_clim()  # type: ignore[attr-defined]
    assert first.get_cmap() == second.get_cmap()  # type: ignore[attr-defined]
    assert [ax.get_title(loc="left").split(",")[1] for ax in panel_axes(figure)] == [" rank 2", " rank 8"]


def test_colours_run_from_the_best_to_twice_the_median_distance() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    values = {(a, float(r), 0): 0.9 - 0.02 * k for k, (a, r) in enumerate((a, r) for a in ETAS for r in RATIOS)}
    values[1e-2, 100.0, 0] = 0.5
    table = heatmap.tidy(exact(trials, values), info(trials, (0,)))
    assert grid.limits(table) == pytest.approx((0.9 - 2 * 0.08, 0.9))
    assert "Colours end at 74.0, worse cells share that colour" in style.figure_caption(heatmap.draw(table))
    flat = heatmap.tidy(exact(trials, {}), info(trials, (0,)))
    low, high = grid.limits(flat) or (0, 0)
    assert high - low == pytest.approx(0.02 * 0.6)  # noise alone does not fill the map


def test_loss_is_better_low_and_bright_is_good() -> None:
    trials = lora_grid(ETAS, RATIOS, (0, 1))
    df = exact(trials, {(1e-3, 10.0, -1): 0.2, (1e-3, 1.0, -1): 0.201})
    df["metric_name"] = "eval_loss"
    table = heatmap.tidy(df, info(trials))
    assert not table.higher_is_better
    drawn = grid.grid_of(table, "lr_ratio")
    assert drawn.best == (1, 1)
    assert drawn.within_percent.tolist() == [[False] * 3, [False, True, False], [False, True, False]]
    figure = heatmap.draw(table, view="lr_ratio")
    mesh = gids(panel_axes(figure)[0], "cells")[0]
    best, worst = mesh.cmap(mesh.norm(0.2)), mesh.cmap(mesh.norm(0.6))  # type: ignore[attr-defined]
    assert sum(best[:3]) > sum(worst[:3])
    assert "0.201" in {t.get_text() for t in panel_axes(figure)[0].texts}
    score_table = heatmap.tidy(df.assign(metric_name="accuracy"), info(trials), measure="eval_loss")
    assert not score_table.higher_is_better
    assert heatmap.tidy(df, info(trials, higher_is_better=True)).higher_is_better


def test_the_papers_form_clips_colours_and_shows_two_red_numbers() -> None:
    etas_A, etas_B = (1e-4, 4e-4, 8e-4), (1e-4, 5e-4, 1e-3)
    trials = tuple(trial("lora+", a, ratio=b / a, eta_B=b) for a in etas_A for b in etas_B)
    values = {(1e-4, 10.0, 0): 0.9, (4e-4, 1.25, 0): 0.85, (8e-4, 1.25, 0): 0.84, (1e-4, 1.0, 0): 0.83}
    table = heatmap.tidy(exact(trials, values), info(trials, (0,)))
    figure = heatmap.draw(table, form=heatmap.PAPER, clip=0.8)
    ax = panel_axes(figure)[0]
    numbers = {t.get_text(): t for t in gids(ax, "number")}  # type: ignore[attr-defined]
    assert set(numbers) == {"90.0", "85.0"}
    assert places(ax, "number") == {(0, 0), (1, 1)}
    assert all(t.get_color() == marks.RED for t in numbers.values())  # type: ignore[attr-defined]
    mesh = gids(ax, "cells")[0]
    assert mesh.get_clim() == (0.8, 0.9)  # type: ignore[attr-defined]
    assert mesh.get_array().min() == 0.6  # type: ignore[attr-defined]  # the raw value stays
    assert gids(ax, "best") == gids(ax, "within_percent") == gids(ax, "equal_line") == []
    assert "best with η_B / η_A in [1, 1.25]" in style.figure_caption(figure)


def test_a_large_grid_has_crosses_and_few_ticks_and_no_numbers() -> None:
    etas = tuple(10 ** (-4 + k / 9) for k in range(46))
    trials = tuple(trial("lora+", a, ratio=b / a, eta_B=b, init="nonzero") for a in etas for b in etas[::3])
    df = frame(trials)
    figure = heatmap.draw(heatmap.tidy(df, info(trials, (0,))), form=heatmap.PAPER_TOY)
    ax = panel_axes(figure)[0]
    assert gids(ax, "number") == []
    assert len(ax.get_xticklabels()) == 8
    assert gids(ax, "within_percent")


def test_a_study_with_nothing_finished_draws_missing_cells() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    table = heatmap.tidy(frame(trials).iloc[:0], info(trials, (0,)))
    ax = panel_axes(heatmap.draw(table))[0]
    assert len(places(ax, "missing")) == 9
    assert "no cell has a value" in ax.get_title(loc="left")
    assert figures.all_figures(frame(trials).iloc[:0], info(trials, (0,))) == {}


# --- lines -----------------------------------------------------------------------------------------------------------


def mixed(seeds: tuple[int, ...]) -> tuple[Trial, ...]:
    adapters = sum((lora_grid(ETAS, RATIOS, seeds, rank=r) for r in (2, 8)), ())
    mora = tuple(trial("mora", e, s, rank=r, mora_type=k) for e in ETAS for s in seeds for r in (2, 8) for k in (1, 6))
    return adapters + mora + tuple(trial("full", e / 40, s) for e in ETAS for s in seeds)


def test_rates_show_each_single_rate_method_and_break_at_cells_without_value() -> None:
    trials = mixed((0, 1))
    df = frame(
        trials,
        surface=lambda t: float("nan") if (t.method, t.eta_A) == ("mora", 1e-2) and t.seed + t.mora_type == 6 else 0.8,
        drop=lambda t: t.method == "full" and t.eta_A == 1e-3 / 40,
    )
    figure = rates.draw(rates.tidy(df, info(trials)))
    first, second = panel_axes(figure)
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels[:4] == [f"LoRA ({style.ETA_A} = {style.ETA_B})", "MoRA type 1", "MoRA type 6", "full fine-tuning"]
    assert labels[4:] == ["mean of fewer seeds", "a seed diverged", "not run"]
    (line,) = gids(first, "line full")
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, True, False])  # type: ignore[attr-defined]
    assert [list(m.get_xdata()) for m in gids(first, "missing full")] == [[1e-3 / 40]]  # type: ignore[attr-defined]
    assert [list(m.get_xdata()) for m in gids(second, "diverged mora-6")] == [[1e-2]]  # type: ignore[attr-defined]
    assert [list(m.get_xdata()) for m in gids(second, "short mora-6")] == [[1e-2]]  # type: ignore[attr-defined]
    assert gids(second, "diverged mora-1") == []
    assert first.get_ylim() == second.get_ylim()
    assert "1 not run, 2 with a diverged seed" in style.figure_caption(figure)


def test_rank_chooses_on_select_and_shows_metric_value() -> None:
    trials = tuple(t for r in (2, 8) for t in lora_grid(ETAS, RATIOS, (0, 1), rank=r))
    df = exact(trials, {(1e-3, 10.0, -1): 0.9, (1e-2, 10.0, -1): 0.85})
    df["select_metric"] = np.where(df["eta_A"].eq(1e-2) & df["lr_ratio"].eq(10.0), 0.99, 0.5)
    best = rank.tidy(df, info(trials))
    plus = best.cells[best.cells["series"] == "lora+"]
    assert plus["mean"].tolist() == [0.85, 0.85]
    assert plus["n_choices"].tolist() == [6, 6]
    assert best.cells.loc[best.cells["series"] == "lora", "n_choices"].tolist() == [3, 3]
    figure = rank.draw(best)
    assert "best cell by select_metric (held out of train) out of 3 of LoRA, 6 of LoRA+" in style.figure_caption(figure)
    (line,) = gids(panel_axes(figure)[0], "line lora+")
    np.testing.assert_allclose(line.get_ydata(), [0.85, 0.85])  # type: ignore[attr-defined]
    unheld = rank.tidy(df.assign(select_metric=None), info(trials))
    assert unheld.cells.loc[unheld.cells["series"] == "lora+", "mean"].tolist() == [0.9, 0.9]
    assert "the shown split itself, so optimistic" in style.figure_caption(rank.draw(unheld))


def test_rank_less_methods_are_one_level_and_each_mora_type_a_series() -> None:
    trials = mixed((0, 1))
    best = rank.tidy(frame(trials, surface=lambda t: 0.8), info(trials))
    assert sorted(best.cells["series"]) == ["full", "lora", "lora", "lora+", "lora+", *["mora-1"] * 2, *["mora-6"] * 2]
    ax = panel_axes(rank.draw(best))[0]
    (level,) = gids(ax, "line full")
    assert len(set(level.get_ydata())) == 1  # type: ignore[attr-defined]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "8"]


@pytest.mark.parametrize("n", [2, 3])
def test_curves_average_over_all_seeds_of_the_best_cell(n: int) -> None:
    seeds = tuple(range(n))
    trials = mixed(seeds)
    df = frame(trials)
    table = curves.tidy(df, info(trials, seeds))
    plus = table.best.cells[table.best.cells["series"] == "lora+"].iloc[0]
    points = table.points[table.points["cell"] == plus["trial_ids"][0]]
    stored = df[df["trial_id"].isin(plus["trial_ids"])]["curve"]
    values = np.array([[p["metric_value"] for p in curve] for curve in stored])
    assert values.shape == (n, 6)
    np.testing.assert_allclose(points["mean"], values.mean(0))
    spread = values.std(0, ddof=1) / np.sqrt(n)
    np.testing.assert_allclose(points["low"], values.mean(0) - spread if n > 2 else values.min(0))
    assert set(points["n_seeds"]) == {n}
    figure = curves.draw(table)
    (line,) = gids(panel_axes(figure)[0], "line lora+")
    np.testing.assert_array_equal(line.get_xdata(), points["step"])  # type: ignore[attr-defined]
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert any(text.startswith(f"LoRA+ (rank {plus['rank']:g}, ") and "λ" in text for text in legend)


def test_a_step_that_one_seed_has_not_reached_is_left_out() -> None:
    trials = lora_grid(ETAS, (1,), (0, 1))
    df = frame(trials, surface=lambda t: 0.8 if t.eta_A == 1e-3 else 0.6)
    df["curve"] = [list(c)[:4] if s == 1 else list(c) for c, s in zip(df["curve"], df["seed"], strict=True)]
    points = curves.tidy(df, info(trials)).points
    assert points["step"].tolist() == [50, 100, 150, 200]


# --- the set of figures ----------------------------------------------------------------------------------------------


def test_all_figures_are_named_and_captioned() -> None:
    trials = mixed((0, 1))
    drawn = figures.all_figures(frame(trials), info(trials))
    assert list(drawn) == ["heatmap_eta_B_zero_B", "heatmap_lr_ratio_zero_B", "rates", "rank", "curves"]
    for name, figure in drawn.items():
        caption = style.figure_caption(figure)
        assert caption.startswith(
            "Study sst2-minilm; task sst2; model minilm; 2 seeds; device cpu, 2 cores; commit 0123456. "
        ), name


def test_inits_and_tasks_make_figures_of_their_own() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,)) + lora_grid(ETAS, RATIOS, (0,), init="zero_A")
    other = tuple(replace(t, task="cola") for t in trials)
    df = frame(trials + other)
    df.loc[df["task"] == "cola", "metric_name"] = "matthews"
    drawn = figures.all_figures(df, info(trials + other, (0,)))
    expected = {"cola_minilm_heatmap_eta_B_zero_A", "sst2_minilm_heatmap_lr_ratio_zero_B", "sst2_minilm_rates"}
    assert expected <= set(drawn)
    assert "other row" not in style.figure_caption(drawn["sst2_minilm_rates"])
    assert "matthews (%)" in style.figure_caption(drawn["cola_minilm_rates"])


def test_scattered_rates_of_a_search_make_no_heatmap() -> None:
    rng = np.random.default_rng(0)
    trials = tuple(trial("lora+", 10 ** rng.uniform(-4, -2), ratio=10 ** rng.uniform(0, 2)) for _ in range(40))
    assert list(figures.all_figures(frame(trials), info(trials, (0,)))) == ["curves"]


def test_mixed_code_and_dirty_commits_are_in_the_caption() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    df = frame(trials)
    df.loc[0, ["source_hash", "git_commit", "git_dirty"]] = ["s1", "fedcba9876", True]
    caption = style.figure_caption(heatmap.draw(heatmap.tidy(df, info(trials, (0,)))))
    assert "commit 0123456, fedcba9+" in caption
    assert "Rows of 2 versions of the harness are mixed" in caption


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    df = frame(trials)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        style.save(rank.draw(rank.tidy(df, info(trials, (0,)))), tmp_path / folder, "rank")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["rank.pdf", "rank.png"]
    for name in ("rank.pdf", "rank.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"CreationDate" not in (tmp_path / "a" / "rank.pdf").read_bytes()


def test_formats_and_looks() -> None:
    import seaborn

    assert style.rate(4e-3) == "4.0e-03"
    assert style.ratio(31.6227766) == "31.6"
    assert style.metric(0.9141, as_percent=True) == "91.4"
    assert style.metric(0.31234, as_percent=False) == "0.312"
    assert list(style.PALETTE) == [to_hex(c) for c in seaborn.color_palette("colorblind")]
    known = [style.look(s) for s in ("lora", "lora+", "mora-1", "mora-2", "mora-3", "mora-4", "mora-6", "full")]
    assert len({(look.color, look.marker) for look in known}) == len({look.marker for look in known}) == 8
    assert style.look("lora+").label == "LoRA+"
    assert style.look("mora-6").label == "MoRA type 6"
    assert style.look("bitfit").label in ("bitfit", "BitFit")


def test_importing_the_plots_is_light() -> None:
    heavy = ("torch", "seaborn", "scipy", "matplotlib.pyplot", "optuna")
    code = f"import sys, plots.figures; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- every plot ------------------------------------------------------------------------------------------------------


def plot_modules() -> list[ModuleType]:
    modules = [importlib.import_module(f"plots.{m.name}") for m in pkgutil.iter_modules(plots.__path__)]
    return [m for m in modules if hasattr(m, "draw") and inspect.getmodule(m.draw) is m and hasattr(m, "tidy")]


@pytest.fixture(scope="module")
def one_rank() -> tuple[pd.DataFrame, StudyInfo]:
    trials = tuple(t for t in mixed((0, 1)) if t.rank in (8, None))
    return frame(trials, drop=lambda t: t.eta_A == 1e-4 and t.seed == 1 and t.method == "lora"), info(trials)


def test_every_module_that_draws_is_found() -> None:
    assert {m.__name__ for m in plot_modules()} >= {"plots.heatmap", "plots.rates", "plots.rank", "plots.curves"}


@pytest.mark.parametrize("module", plot_modules(), ids=lambda m: m.__name__)
class TestEveryPlot:
    def test_signature_and_docstrings(self, module: ModuleType) -> None:
        first, second, *_ = inspect.signature(module.draw).parameters.values()
        assert (first.name, second.name, second.default) == ("table", "ax", None)
        assert list(inspect.signature(module.tidy).parameters)[:2] == ["df", "study"]
        assert module.__doc__
        assert module.draw.__doc__
        assert module.tidy.__doc__

    def test_draws_on_the_given_axes_and_nowhere_else(self, module: ModuleType, one_rank: tuple) -> None:  # type: ignore[type-arg]
        figure = Figure()
        ax = figure.subplots()
        assert module.draw(module.tidy(*one_rank), ax) is figure
        assert ax.has_data()
        assert figure.axes[0] is ax

    def test_changes_neither_rows_nor_table(self, module: ModuleType, one_rank: tuple) -> None:  # type: ignore[type-arg]
        df, study = one_rank
        before = df.drop(columns="curve").copy(deep=True)
        table = module.tidy(df, study)
        frames = {f.name: getattr(table, f.name) for f in fields(table)}
        copies = {n: v.copy(deep=True) for n, v in frames.items() if isinstance(v, pd.DataFrame)}
        module.draw(table)
        pd.testing.assert_frame_equal(df.drop(columns="curve"), before)
        for name, copy in copies.items():
            pd.testing.assert_frame_equal(frames[name], copy)

    def test_reads_no_file(self, module: ModuleType) -> None:
        tree = ast.parse(inspect.getsource(module))
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        calls = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        calls |= {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not imported & {"os", "pathlib", "io", "pyarrow", "torch", "bench.store"}
        assert not {c for c in calls if c == "open" or c.startswith("read_")}

    def test_nothing_is_cut_and_no_labels_overlap(self, module: ModuleType) -> None:
        trials = mixed((0, 1))
        figure = module.draw(module.tidy(frame(trials), info(trials)))
        with style.settings():
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw(renderer)
            whole = figure.bbox
            for text in figure.findobj(lambda a: hasattr(a, "get_text") and a.get_visible() and a.get_text()):
                box = text.get_window_extent(renderer)
                inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
                assert inside or text in _ticks_outside(figure), text.get_text()
            for ax in panel_axes(figure):
                if ax.get_xticklabels()[0].get_rotation() == 0:
                    boxes = sorted((t.get_window_extent(renderer) for t in ax.get_xticklabels()), key=lambda b: b.x0)
                    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
            legend = figure.legends[0].get_window_extent(renderer)
            assert all(not legend.overlaps(ax.get_tightbbox(renderer)) for ax in panel_axes(figure))


def _ticks_outside(figure: Figure) -> list[object]:
    """Tick labels beyond the limits of their axis: matplotlib keeps them and does not draw them."""
    found: list[object] = []
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = min(low, high), max(low, high)
            labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            found += [label for at, label in labels if not low <= at <= high]
    return found


def test_the_made_up_surface_has_what_sweeps_have() -> None:
    trials = lora_grid([5e-5 * 2**k for k in range(9)], (1, 4, 16, 64), (0, 1, 2))
    df = frame(trials)
    assert {"ok", "diverged"} == set(df["status"])
    assert df["collapsed"].eq(True).any()
    assert max(score(t) for t in trials if not np.isnan(score(t))) > 0.85
    assert isinstance(heatmap.tidy(df), CellTable)


# --- the LoRA+ paper's other figures ---------------------------------------------------------------------------------


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


def test_speedup_is_of_the_best_cells_and_seed_by_seed() -> None:
    trials = glue()
    df = frame(trials)
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
    table = speedup.tidy(df, info(trials, (0, 1, 2)))
    (reading,) = table.readings.values()
    assert reading.target == pytest.approx(0.3)
    assert reading.speedup == pytest.approx(2)
    assert list(table.of_seeds.values()) == [pytest.approx((2.0, 2.0, 2.0))]
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
    assert titles == ["sst2, rank 8, init zero_A", "cola, rank 8, init zero_A"]
    one_metric = ratio.tidy(frame(trials), info(trials, (0,))).columns["column"].tolist()
    assert one_metric == ["cola, rank 8, init zero_A", "sst2, rank 8, init zero_A"]


def test_the_paper_s_form_of_a_study_clips_the_metric_only() -> None:
    trials = glue((0,))
    drawn = figures.all_figures(frame(trials), info(trials, (0,)), form="paper", clip=0.8)
    names = ["paper_accuracy_zero_A", "paper_eval-loss_zero_A", "paper_train-loss_zero_A", "speedup", "ratio"]
    assert list(drawn) == names
    assert "Colours end at 80.0" in style.figure_caption(drawn["paper_accuracy_zero_A"])
    assert "Colours end at 0.8" not in style.figure_caption(drawn["paper_eval-loss_zero_A"])


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
    assert {"steps", "heatmap_eta_B_nonzero"} <= set(figures.all_figures(df, study))


def test_neighbours_that_diverged_share_a_patch_in_a_fine_grid_only() -> None:
    df, study = toy_rows()
    table = heatmap.tidy(df, study)
    drawn = grid.grid_of(table, "eta_B")
    patches = [p for p in panel_axes(heatmap.draw(table, form=heatmap.PAPER_TOY))[0].patches if p.get_hatch()]
    assert sum(p.get_width() for p in patches) == drawn.diverged.sum() > len(patches)  # type: ignore[attr-defined]
