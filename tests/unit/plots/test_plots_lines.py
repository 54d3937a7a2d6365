"""Plots of lines: rates, ranks and curves, with every seed or said so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.core.spec import Trial
from plots import figures, style
from plots.figures import curves, rank, rates
from tests.support.plot_helpers import ETAS, RATIOS, exact, gids, info, mixed, panel_axes
from tests.support.plot_rows import frame, lora_grid, trial


def test_rates_show_each_single_rate_method_and_break_at_cells_without_value() -> None:
    trials = mixed((0, 1))
    df = frame(
        trials,
        surface=lambda t: float("nan") if (t.method, t.eta_A) == ("mora", 1e-2) and t.seed + t.mora_type == 6 else 0.8,
        drop=lambda t: t.method == "full" and t.eta_A == 1e-3 / 40,
    )
    figure = rates.draw(rates.tidy(df, info(trials)))
    first, second = panel_axes(figure)  # nine lines are too many for one
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    expected = ["LoRA (λ = 1)", "LoRA+ (best λ)", "MoRA type 1", "MoRA type 6", "full fine-tuning"]
    assert labels[:5] == expected
    assert labels[5:] == ["mean of fewer seeds", "a seed diverged", "not run"]
    (line,) = gids(first, "line full")
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, True, False])  # type: ignore[attr-defined]
    assert [list(m.get_xdata()) for m in gids(first, "missing full")] == [[1e-3 / 40]]  # type: ignore[attr-defined]
    assert [list(m.get_xdata()) for m in gids(second, "diverged mora-6")] == [[1e-2]]  # type: ignore[attr-defined]
    assert [list(m.get_xdata()) for m in gids(second, "short mora-6")] == [[1e-2]]  # type: ignore[attr-defined]
    assert gids(second, "diverged mora-1") == []
    assert first.get_ylim() == second.get_ylim()
    assert "1 not run, 2 with a diverged seed" in style.figure_caption(figure)


def test_a_cell_left_out_early_is_no_cell_that_was_not_run() -> None:
    trials = mixed((0, 1))
    df = frame(trials, surface=lambda t: 0.8, drop=lambda t: t.method == "full" and t.eta_A == 1e-3 / 40)
    left = {t.trial_id: (20, 0.7) for t in trials if t.method == "full" and t.eta_A == 1e-3 / 40}
    figure = rates.draw(rates.tidy(df, replace(info(trials), stopped=left)))
    first, _ = panel_axes(figure)
    assert [t.get_text() for t in figure.legends[0].get_texts()][5:] == ["left out early"]
    assert [list(m.get_xdata()) for m in gids(first, "stopped full")] == [[1e-3 / 40]]  # type: ignore[attr-defined]
    assert gids(first, "missing full") == []
    assert "1 left out early" in style.figure_caption(figure)
    assert "not run" not in style.figure_caption(figure)


def test_rates_have_lora_plus_at_the_best_ratio_that_the_held_out_part_chose() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    df = exact(trials, {(e, 100.0, 0): 0.7 for e in ETAS} | {(e, 10.0, 0): 0.9 for e in ETAS})
    df["select_metric"] = np.where(df["lr_ratio"].eq(100.0), 0.99, 0.5)
    cells = rates.tidy(df, info(trials, (0,))).cells
    assert cells.loc[cells["series"] == "lora+", "mean"].tolist() == [0.7] * 3
    assert cells.loc[cells["series"] == "lora", "lr_ratio"].tolist() == [1.0] * 3


def test_a_collapsed_seed_has_its_mark_below_the_points_where_no_tick_is() -> None:
    trials = lora_grid(ETAS, (1,), (0,)) + lora_grid(ETAS, (1,), (0,), rank=2)
    df = frame(trials, surface=lambda t: 0.5 if t.eta_A == 1e-4 else 0.8)
    df["collapsed"] = df["eta_A"] == 1e-4
    (ax,) = panel_axes(rates.draw(rates.tidy(df, info(trials, (0,)))))
    marks = [gids(ax, f"collapsed lora rank {r}")[0] for r in (2, 8)]
    assert [list(mark.get_xdata()) for mark in marks] == [[1e-4], [1e-4]]  # type: ignore[attr-defined]
    low, high = (mark.get_ydata()[0] for mark in marks)  # type: ignore[attr-defined]
    assert 0 < low < high, "one row for each line"
    assert ax.get_ylim()[0] + high * np.ptp(ax.get_ylim()) < 0.5 <= min(ax.get_yticks())


def test_every_setting_that_varies_tells_lines_apart_or_panels_where_they_are_many() -> None:
    def swept(alphas: tuple[float, ...]) -> tuple[Trial, ...]:
        return tuple(
            replace(t, lora_alpha=alpha, target_modules=modules, lora_dropout=0.1)
            for t in lora_grid(ETAS, (1,), (0, 1))
            for alpha in alphas
            for modules in (("query",), ("query", "value"))
        )

    trials = swept((8.0, 16.0))
    for figure in (
        rates.draw(rates.tidy(frame(trials), info(trials))),
        curves.draw(curves.tidy(frame(trials), info(trials))),
    ):
        (ax,) = panel_axes(figure)
        drawn = [a for a in ax.lines if str(a.get_gid()).startswith("line ")]
        assert len({(a.get_color(), a.get_linestyle(), a.get_gid()) for a in drawn}) == len(drawn) == 4
        assert len({a.get_color() for a in drawn}) == 4
        labels = [t.get_text().split(" (")[0] for t in figure.legends[0].get_texts()]
        assert labels[:4] == [
            f"LoRA, lora_alpha {a}, target_modules {m}" for a in (8, 16) for m in ("query", "query, value")
        ]
        assert "lora_dropout 0.1" in style.figure_caption(figure)
        assert "lora_alpha" not in style.figure_caption(figure)
    many = swept((4.0, 8.0, 16.0, 32.0, 64.0))
    titles = [ax.get_title(loc="left") for ax in panel_axes(rates.draw(rates.tidy(frame(many), info(many))))]
    assert titles == [f"lora_alpha {a}" for a in (4, 8, 16, 32, 64)]


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


def test_marks_of_a_rank_lie_in_its_column_side_by_side() -> None:
    trials = mixed((0, 1))
    ax = panel_axes(rank.draw(rank.tidy(frame(trials, surface=lambda t: 0.8), info(trials))))[0]
    names = ("lora", "lora+", "mora-1", "mora-6")
    places = np.array([gids(ax, f"line {name}")[0].get_xdata() for name in names])  # type: ignore[attr-defined]
    assert len({round(x, 6) for x in places[:, 0]}) == len(names), "no mark covers another"
    assert np.abs(places - [0, 1]).max() <= 0.25, "half of the way to the next column's is empty"
    grounds = gids(ax, "column")
    assert [ground.get_bbox().intervalx.tolist() for ground in grounds] == [[-0.5, 0.5]]  # type: ignore[attr-defined]


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
    ax = panel_axes(figure)[0]
    ax.set_xlim(0.9, 2.6)  # a few steps
    assert all(tick == int(tick) for tick in ax.get_xticks())


def test_curves_by_rank_compare_methods_of_one_size() -> None:
    """The best cells are LoRA's of rank 32 and MoRA's of rank 8: a panel for each rank, full fine-tuning in both."""
    rated = {(8, "lora"): 0.6, (32, "lora"): 0.9, (8, "mora"): 0.8}
    small = [trial(method, 1e-3, rank=r, mora_type=6 if method == "mora" else None) for r, method in rated]
    trials = (*small, trial("full", 1e-3))
    df = frame(trials, surface=lambda t: rated.get((t.rank or 0, t.method), 0.95))
    study = info(trials, (0,))
    assert {"curves", "curves_by_rank"} <= set(figures.all_figures(df, study))
    figure = curves.draw(curves.tidy(df, study, by_rank=True))
    drawn = {ax.get_title(loc="left").split(",")[0]: ax for ax in panel_axes(figure)}
    assert {title: {line.get_gid() for line in ax.lines if line.get_gid()} for title, ax in drawn.items()} == {
        "rank 8": {"line lora", "line mora-6", "line full"},
        "rank 32": {"line lora", "line full"},
    }
    alone = figures.all_figures(df[df["rank"] != 32], study)
    assert "curves_by_rank" not in alone, "one rank: it would be the same figure"


def test_a_step_that_one_seed_has_not_reached_is_left_out() -> None:
    trials = lora_grid(ETAS, (1,), (0, 1))
    df = frame(trials, surface=lambda t: 0.8 if t.eta_A == 1e-3 else 0.6)
    df["curve"] = [list(c)[:4] if s == 1 else list(c) for c, s in zip(df["curve"], df["seed"], strict=True)]
    points = curves.tidy(df, info(trials)).points
    assert points["step"].tolist() == [50, 100, 150, 200]
