"""Heatmaps: what is drawn where, and which cells are marked."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from plots import figures, forms, grid, heatmap, marks, style
from tests.support.plot_helpers import ETAS, RATIOS, exact, gids, info, panel_axes, places
from tests.support.plot_rows import frame, lora_grid, trial


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
    assert title.startswith("LoRA / LoRA+\n")
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
    assert [ax.get_title(loc="left").split("\n")[0].split(", ")[1][:6] for ax in panel_axes(figure)] == [
        "rank 2",
        "rank 8",
    ]


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
    figure = heatmap.draw(table, form=forms.PAPER, clip=0.8)
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
    figure = heatmap.draw(heatmap.tidy(df, info(trials, (0,))), form=forms.PAPER_TOY)
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
