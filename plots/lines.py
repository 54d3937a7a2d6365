"""What the line plots share: a panel of their size, and marks for cells that have no value or not from every seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots import style
from plots.settings import Panel, split
from plots.tidy import CellTable, complete

SIZE, ALONE = (3.7, 2.7), (5.6, 3.0)  # inches of a panel beside others, and of an only one
_ORDER = ("lora", "lora+", "mora-1", "mora-2", "mora-3", "mora-4", "mora-6", "full")
_STRIP, _STEP = 0.035, 0.05  # where marks without a value stand: heights above the panel's lower edge, in its height


def series_in(cells: pd.DataFrame) -> list[str]:
    """Return the series in the cells, in the order of all legends."""
    found = set(cells["series"])
    return [name for name in _ORDER if name in found] + sorted(found - set(_ORDER))


def draw_panels(
    table: CellTable,
    ax: Axes | None,
    draw_one: Callable[[Axes, CellTable], None],
    *,
    within: Sequence[str] = (),
    text: str,
    legend: Sequence[Line2D],
    bottom: float = 0.52,
) -> Figure:
    """Draw each panel of the table with `draw_one`, sharing the y axis; or its only panel on `ax`.

    `bottom`: inches below a panel, for its ticks and its x label.
    """
    found: list[Panel] = split(table, within=within)
    with style.settings():
        if ax is not None:
            if len(found) != 1:
                raise ValueError(f"one axes holds one panel, but the table has {len(found)}")
            _one(ax, found[0], draw_one, table)
            ax.legend(handles=list(legend))
            return style.figure_of(ax)
        margins = style.Margins(left=0.75, right=0.2, top=0.4, bottom=bottom)
        size = ALONE if len(found) == 1 else SIZE
        wide = min(len(found), 3) * (size[0] + margins.left + margins.right)
        lines = style.legend_lines([str(h.get_label()) for h in legend], wide)
        figure, axes = style.panels([size] * len(found), text=text, margins=margins, legend_lines=lines)
        for one, panel in zip(axes, found, strict=True):
            _one(one, panel, draw_one, table)
        low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
        for one in axes:
            one.set_ylim(low, high)
        style.legend(figure, legend, lines=lines)
        return figure


def handle(series: str, label: str | None = None, *, level: bool = False) -> Line2D:
    """Return the legend entry of a series; `level`: it is drawn as a dashed line without points."""
    look = style.look(series)
    if level:
        return Line2D([], [], color=look.color, linestyle="--", label=label or look.label)
    return Line2D([], [], color=look.color, marker=look.marker, label=label or look.label)


def mark_handles(cells: pd.DataFrame) -> list[Line2D]:
    """Return legend entries for the marks that occur: fewer seeds, diverged, collapsed, not run."""
    entries: list[tuple[pd.Series[bool], str, dict[str, Any]]] = [
        (_short(cells), "mean of fewer seeds", {"marker": "o", "markerfacecolor": "white"}),
        (cells["n_diverged"] > 0, "a seed diverged", {"marker": "x", "markeredgewidth": 1.6}),
        (cells["n_collapsed"] > 0, "a seed collapsed", {"marker": "$c$", "markeredgewidth": 0}),
        (_unrun(cells), "not run", {"marker": "s", "markerfacecolor": "white", "markersize": 4.5}),
    ]
    ink: dict[str, Any] = {"color": style.INK, "linestyle": ""}
    return [Line2D([], [], label=label, **ink, **look) for where, label, look in entries if where.any()]


def draw_points(ax: Axes, cells: pd.DataFrame, x: pd.Series[float], series: str, *, row: int = 0) -> None:
    """Draw the means of one series over `x`: filled where every seed has a value, hollow where some have not.

    A cell without a value, or with a diverged seed, gets its mark on the panel's lower edge, `row` keeping the series
    apart there.
    """
    look = style.look(series)
    whole, short = complete(cells), _short(cells)
    style_of: dict[str, Any] = {"linestyle": "", "marker": look.marker, "color": look.color, "zorder": 4}
    ax.plot(x[whole], cells["mean"][whole], gid=f"points {series}", **style_of)
    if short.any():
        ax.plot(x[short], cells["mean"][short], gid=f"short {series}", markerfacecolor="white", **style_of)
    low = ax.get_xaxis_transform()
    level = _STRIP + _STEP * row
    for where, marker, name in ((cells["n_diverged"] > 0, "x", "diverged"), (_unrun(cells), "s", "missing")):
        if where.any():
            ax.plot(
                x[where], [level] * int(where.sum()), linestyle="", marker=marker, color=look.color, markersize=4.5,
                markeredgewidth=1.5, markerfacecolor="white", transform=low, gid=f"{name} {series}", zorder=4,
                clip_on=False,
            )  # fmt: skip
    for at, value in zip(x[cells["n_collapsed"] > 0], cells["mean"][cells["n_collapsed"] > 0], strict=True):
        ax.annotate(
            "c", (at, value), (0, 6), textcoords="offset points", ha="center", fontsize=9, weight="bold",
            color=look.color, gid=f"collapsed {series}",
        )  # fmt: skip


def counts_text(cells: pd.DataFrame) -> str:
    """Return how many cells lack what, for the caption; empty if none does."""
    counts = {
        "not run": _unrun(cells).sum(),
        "with a diverged seed": (cells["n_diverged"] > 0).sum(),
        "with a collapsed seed": (cells["n_collapsed"] > 0).sum(),
        "with a mean over fewer seeds": _short(cells).sum(),
    }
    return ", ".join([f"{len(cells)} cells", *(f"{n} {what}" for what, n in counts.items() if n)])


def stderr_text(cells: pd.DataFrame, what: str) -> str:
    """Return which standard error `what` (bands, bars) shows."""
    kinds = set(cells["stderr_kind"].dropna())
    return f"{what}: ± 1 standard error, {style.stderr_words(kinds)}" if kinds else "no standard error is known"


def _short(cells: pd.DataFrame) -> pd.Series[bool]:
    return (cells["n_ok"] > 0) & ~complete(cells)


def _unrun(cells: pd.DataFrame) -> pd.Series[bool]:
    return (cells["n_ok"] == 0) & (cells["n_diverged"] == 0)


def _one(ax: Axes, panel: Panel, draw_one: Callable[[Axes, CellTable], None], table: CellTable) -> None:
    draw_one(ax, panel[1])
    style.metric_axis(ax, table)
    ax.set_title(panel[0], loc="left")
