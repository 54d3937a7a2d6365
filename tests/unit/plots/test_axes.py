"""Figures over a setting that varies beside the rates: heatmaps of eta_A and it, and the best rate over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.core import stats
from bench.core.spec import Trial
from plots import style
from plots.axes import axes_of
from plots.figures import best_rate, figure_set, rates, second_axis
from plots.figures._base import Rows
from plots.grid import grid_of
from plots.tidy import StudyInfo
from tests.support.plot_helpers import gids, panel_axes
from tests.support.plot_rows import frame, trial

ETAS = tuple(1e-4 * 2.0**k for k in range(8))
BATCHES = {8: 320, 32: 80, 128: 20}  # steps: as many examples in all


def batches(seeds: Iterable[int] = (0, 1, 2), *, etas: tuple[float, ...] = ETAS) -> tuple[Trial, ...]:
    """Return LoRA and full fine-tuning at three batch sizes, each with its number of steps."""
    return tuple(
        replace(one, budget=replace(one.budget, batch_size=batch, max_steps=steps, eval_steps=steps))
        for batch, steps in BATCHES.items() for eta in etas for seed in seeds
        for one in (trial("lora", eta, seed), trial("full", eta, seed))
    )  # fmt: skip


def peak(power: float, shift: Callable[[int], float] = lambda seed: 1.0) -> Callable[[Trial], float]:
    """Return a surface whose best eta_A is 4e-4 (batch / 8)^power, shifted for each seed."""

    def at(one: Trial) -> float:
        best = 4e-4 * (one.budget.batch_size / 8) ** power * shift(one.seed)
        return 0.9 - 0.1 * abs(math.log2(one.eta_A / best))

    return at


def rows(trials: tuple[Trial, ...], surface: Callable[[Trial], float]) -> tuple[pd.DataFrame, StudyInfo]:
    df = frame(trials, surface=surface)
    exact = {one.trial_id: surface(one) for one in trials}
    df["metric_value"] = df["select_metric"] = [exact[one] for one in df["trial_id"]]
    df["status"] = "ok"
    return df, StudyInfo(name="sst2-minilm", seeds=tuple(sorted({one.seed for one in trials})), trials=trials)


def test_settings_that_go_along_are_one_axis() -> None:
    (axis,) = axes_of(rates.tidy(*rows(batches(), peak(0.5))))
    assert (axis.name, axis.along) == ("max_steps", ("batch_size",))
    assert axis.label == "steps / batch"
    both = tuple(replace(one, rank=rank) for one in batches() for rank in (2, 8) if one.method == "lora")
    assert [one.name for one in axes_of(rates.tidy(*rows(both, peak(0.5))))] == ["rank", "max_steps"]


def test_a_heatmap_has_a_row_for_each_value_and_a_panel_for_each_method() -> None:
    found = second_axis.tidy(*rows(batches(), peak(0.5)))
    assert [title for title, _ in found.panels] == ["LoRA", "full fine-tuning"]
    grid = grid_of(found.panels[0][1], "max_steps", words={20: "20", 80: "80", 320: "320"})
    assert grid.ys == (320, 80, 20)
    best = np.nanargmax(grid.mean, axis=1)
    assert [grid.xs[i] for i in best] == pytest.approx([4e-4, 8e-4, 1.6e-3])
    assert grid.mean[0, best[0]] == pytest.approx(0.9)
    figure = second_axis.draw(found)
    (first, second), caption = panel_axes(figure), style.figure_caption(figure)
    assert [text.get_text() for text in first.get_yticklabels()] == ["320 / 8", "80 / 32", "20 / 128"]
    assert len(gids(first, "best")) == len(gids(second, "best")) == 1
    assert not gids(first, "best_equal")
    assert "48 cells" in caption


def test_of_lora_plus_the_best_ratio_of_each_rate_is_shown() -> None:
    trials = tuple(
        trial("lora+", eta, 0, ratio=ratio, rank=rank) for eta in ETAS for ratio in (4, 16) for rank in (2, 8)
    )
    found = second_axis.tidy(*rows(trials, lambda one: 0.8 if one.lr_ratio == 4 else 0.7))
    ((_, panel),) = found.panels
    assert len(panel.cells) == 2 * len(ETAS)
    assert set(panel.cells["mean"]) == {0.8}


def test_the_best_rate_grows_with_the_power_that_it_has() -> None:
    table = best_rate.tidy(*rows(batches(range(6)), peak(0.5)))
    assert table.axis.name == "max_steps"
    for series in ("lora", "full"):
        slope = table.slopes["", series]  # batch = 2560 / steps
        assert slope.value == pytest.approx(-0.5)
        assert slope.interval is not None
        assert (slope.interval.low, slope.interval.high) == pytest.approx((-0.5, -0.5))
    assert not table.best["at_border"].any()
    assert len(table.best) == 2 * 3 * 6
    assert "power -0.50 (-0.50 to -0.50)" in str([e.get_text() for e in best_rate.draw(table).legends[0].get_texts()])


def test_each_seed_has_a_best_rate_of_its_own_and_the_interval_is_over_seeds() -> None:
    table = best_rate.tidy(*rows(batches(range(6)), peak(0.5, lambda seed: 2.0 ** (seed % 3))))
    own = table.best[(table.best["series"] == "lora") & (table.best["x"] == 320)].sort_values("seed")
    assert own["eta_A"].to_list() == pytest.approx([4e-4, 8e-4, 1.6e-3] * 2)
    interval = table.slopes["", "lora"].interval
    assert interval is not None
    assert interval.low < -0.5 < interval.high


def test_a_best_rate_at_the_border_is_told_and_drawn_hollow() -> None:
    df, info = rows(batches(etas=ETAS[:4]), peak(0.5))  # to 8e-4: the best one of batch 128 is 1.6e-3
    table = best_rate.tidy(df, info)
    assert table.best.groupby("x")["at_border"].all().to_dict() == {20.0: True, 80.0: True, 320.0: False}
    figure = best_rate.draw(table)
    assert "12 of 18 best rates lie at the border of their grid" in style.figure_caption(figure)


def test_few_seeds_have_a_slope_without_an_interval_and_two_rates_have_no_best_one() -> None:
    for seeds in ((0,), range(5)):
        table = best_rate.tidy(*rows(batches(seeds), peak(0.5)))
        assert table.slopes["", "lora"].interval is None
        assert "no interval below 6 seeds" in style.figure_caption(best_rate.draw(table))
    assert best_rate.tidy(*rows(batches(etas=ETAS[:2]), peak(0.5))).best.empty


def test_the_slope_is_that_of_least_squares_on_medians() -> None:
    logs = np.log([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0], [8.0, 10.0, 12.0]])
    found = stats.log_log_slope([1, 2, 4], logs)
    assert found.value == pytest.approx(np.polyfit(np.log([1, 2, 4]), np.median(logs, axis=1), 1)[0])


def test_they_are_in_the_set_where_a_setting_varies_and_not_where_none_does() -> None:
    df, info = rows(batches(), peak(0.5))
    assert {"heatmap_eta_A_max-steps", "best_rate_max-steps"} <= figure_set(df, info).drawn.keys()
    one = tuple(t for t in batches() if t.budget.batch_size == 8)
    df, info = rows(one, peak(0.5))
    assert not [name for name in figure_set(df, info).drawn if "heatmap_eta_A" in name or "best_rate" in name]
    assert [*second_axis.FIGURE.full(Rows(df=df, study=info))] == []  # type: ignore[misc]
