"""Optuna's parallel-coordinates figure of one of its studies, in this project's look.

A line is a trial: it crosses an axis for the score and one for each setting. Better trials are darker. Trials without a
score of their own (diverged) are left out, and what is drawn is ink on nothing, so that a page may colour it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from plots import page, style

if TYPE_CHECKING:
    import optuna

POINTS = 11.0  # of all text: a point of the figure is a pixel of the page
HEIGHT, TOP, SPACING, LEFT, RIGHT = 270.0, 14.0, 64.0, 44.0, 56.0  # pixels
LEAST_WIDTH = 380.0
MOST_LINES = 400  # more are neither seen apart nor small as markup
_APART = 0.08  # of an axis: the least distance between its labels
_NAMES = {"eta_A": "η_A", "eta_B": "η_B", "lr_ratio": "λ"}


def name(setting: str) -> str:
    """Return what an axis is called."""
    return _NAMES.get(setting, setting)


def drawable(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that are drawn, best first: those with a score, evenly picked where they are too many."""
    from optuna.study import StudyDirection

    scored = [t for t in study.trials if t.value is not None and t.user_attrs["status"] == "ok"]
    scored.sort(key=lambda t: t.values[0], reverse=study.direction == StudyDirection.MAXIMIZE)
    if len(scored) <= MOST_LINES:
        return scored
    return [scored[i] for i in np.linspace(0, len(scored) - 1, MOST_LINES).round().astype(int)]


def draw(study: optuna.Study, settings: Sequence[str], *, metric: str, as_percent: bool) -> Figure:
    """Return the figure over these settings, of which there must be one at least; `metric` names the score's axis."""
    import matplotlib.pyplot as plt
    import optuna
    from optuna.visualization import matplotlib as drawn

    from bench.sweep.optuna_mirror.bridge import quiet

    with quiet(), style.settings():
        shown = optuna.create_study(direction=study.direction)
        shown.add_trials(drawable(study))
        ax = drawn.plot_parallel_coordinate(
            shown, params=list(settings), target=lambda t: (100 if as_percent else 1) * t.values[0], target_name=metric
        )
        figure = style.figure_of(ax)
        plt.close(figure)
        ordered = sorted(settings)  # as Optuna has its axes, whose own labels it cuts
        _ink(ax, higher_is_better=study.direction == optuna.study.StudyDirection.MAXIMIZE)
        _lay_out(figure, ax, [metric, *map(name, ordered)])
        for axis, setting in zip(figure.axes[1:], ordered, strict=True):
            _ticks(axis, sorted({float(trial.params[setting]) for trial in shown.trials}), rate=setting[:3] == "eta")
        return figure


def _ink(ax: Axes, *, higher_is_better: bool) -> None:
    """Draw lines the darker the better, and drop the bar of colours: the first axis tells the same."""
    (lines,) = (one for one in ax.collections if isinstance(one, LineCollection))
    assert lines.colorbar is not None
    lines.colorbar.remove()
    scores = np.array([segment[0, 1] for segment in lines.get_segments()])
    beaten = np.searchsorted(np.sort(scores), scores) if higher_is_better else (scores[:, None] < scores).sum(1)
    lines.set_array(None)
    lines.set_color([(*to_rgb(style.INK), 0.08 + 0.72 * one**2) for one in beaten / max(1, beaten.max())])
    lines.set_linewidth(1.2)
    ax.set_title("")
    for axis in style.figure_of(ax).axes:
        axis.grid(False)
        axis.tick_params(labelsize=POINTS - 1)
        axis.set_facecolor("none")
        axis.spines["right"].set(visible=axis is not ax, color=style.GREY)


def _lay_out(figure: Figure, ax: Axes, names: Sequence[str]) -> None:
    """Give each axis SPACING pixels at least; names that are wider than that are turned, with room below for them."""
    width = max(LEAST_WIDTH, LEFT + RIGHT + SPACING * (len(names) - 1))
    gap = (width - LEFT - RIGHT) / (len(names) - 1)
    longest = max(72 * page.width_of(one, POINTS) for one in names)
    turned = longest > gap - 6
    bottom = 18 + longest * math.sin(math.pi / 4) if turned else 24
    left = max(LEFT, 72 * page.width_of(names[0], POINTS) * (math.cos(math.pi / 4) if turned else 0.5) + 4)
    height = HEIGHT + bottom - 24
    figure.set_size_inches(width / 72, height / 72)
    place = (left / width, bottom / height, 1 - (left + RIGHT) / width, 1 - (bottom + TOP) / height)
    for axis in figure.axes:
        axis.set_position(place)
    ax.set_xticks(range(len(names)), names, rotation=0, fontsize=POINTS)
    if turned:
        style.turn(ax)


def _ticks(ax: Axes, values: Sequence[float], *, rate: bool) -> None:
    """Label an axis with the values that occur, as many as there is room for, always with the first and the last."""
    scale = np.log(values) if ax.get_yscale() == "log" else np.array(values)
    place = (scale - scale[0]) / (scale[-1] - scale[0]) if scale[-1] > scale[0] else np.zeros(len(values))
    kept = [0]
    for i in range(1, len(values) - 1):
        if place[i] - place[kept[-1]] >= _APART and 1 - place[i] >= _APART:
            kept.append(i)
    kept += [len(values) - 1] if len(values) > 1 else []
    ax.yaxis.set_major_locator(FixedLocator([values[i] for i in kept]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.rate(value) if rate else f"{value:.3g}"))
