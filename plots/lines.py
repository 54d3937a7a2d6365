"""What the line plots share: a panel of their size, and marks for cells that have no value or not from every seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import methods
from bench.study import varying
from plots import page, style
from plots.settings import Panel, keys_of, split
from plots.tidy import CellTable, complete

SIZE, ALONE = (3.7, 2.7), (5.6, 3.0)  # inches of a panel beside others, and of an only one
MOST = 8  # lines that one panel can hold and a reader tell apart
_STRIP, _STEP = 0.035, 0.05  # where marks without a value stand: heights above the panel's lower edge, in its height
HALO = (patheffects.withStroke(linewidth=2.0, foreground="white"),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """The cells of one line of a panel: one method with one set of the settings that its panel does not fix."""

    series: str
    variant: int  # of the series, in the whole figure
    words: str  # the settings; empty where the series has no others
    cells: pd.DataFrame

    @property
    def look(self) -> style.Look:
        """How it is drawn."""
        return style.look(self.series, self.variant)

    @property
    def label(self) -> str:
        """The method and its settings."""
        return f"{self.look.label}, {self.words}" if self.words else self.look.label

    @property
    def gid(self) -> str:
        """What its parts are called in the picture, behind the name of the part."""
        return f"{self.series} {self.words}".rstrip()

    @property
    def marked(self) -> bool:
        """Whether a cell has a mark on the panel's lower edge."""
        return bool(_empty(self.cells).any() or (self.cells[["n_diverged", "n_collapsed"]] > 0).any(axis=None))


def series_in(cells: pd.DataFrame) -> list[str]:
    """Return the series in the cells, in the order of all legends."""
    return sorted(set(cells["series"]), key=lambda name: (methods.named(name).place, name))


def arrange(table: CellTable, *, free: Sequence[str] = (), apart: Sequence[str] = (), most: int = MOST) -> list[Panel]:
    """Return panels whose cells have columns `variant` and `words`, which tell the lines of a panel apart (`lines_in`).

    Every varying setting tells either panels or lines apart, but for those that are `free` (on the x axis, or chosen):
    lines as long as no panel has more than `most` of them. Those `apart` always have panels of their own.
    """
    by_line = [name for name in table.varying if name not in (*free, *apart, "task", "model")]
    while True:
        told = _told(table, by_line)
        panels = split(told, within=[*free, *by_line])
        if not by_line or all(len(list(lines_in(panel.cells))) <= most for _, panel in panels):
            return panels
        by_line = by_line[1:]


def lines_in(cells: pd.DataFrame) -> Iterator[Line]:
    """Yield the lines of a panel that `arrange` made, in the order of all legends."""
    for series in series_in(cells):
        own = cells[cells["series"] == series]
        for variant in sorted(set(own["variant"])):
            group = own[own["variant"] == variant]
            yield Line(series=series, variant=int(variant), words=str(group["words"].iloc[0]), cells=group)


def _told(table: CellTable, names: Sequence[str]) -> CellTable:
    """Return the table with the columns `variant` (counted in each series) and `words` of the settings `names`."""
    cells = table.cells.assign(variant=0, words="")
    keys = keys_of(cells, names).apply(tuple, axis=1) if names and len(cells) else None
    if keys is not None:
        for _, own in keys.groupby(cells["series"]):
            place = {key: i for i, key in enumerate(sorted(set(own), key=varying.order))}
            cells.loc[own.index, "variant"] = own.map(place)
        cells["words"] = [", ".join(varying.named(n, v) for n, v in zip(names, key, strict=True) if v is not None)
                          for key in keys]  # fmt: skip
    return replace(table, cells=cells)


def draw_panels(
    panels: Sequence[Panel],
    ax: Axes | None,
    draw_one: Callable[[Axes, CellTable], None],
    *,
    text: str,
    legend: Sequence[Line2D],
    bottom: float = 0.52,
    marked: bool = False,
) -> Figure:
    """Draw each panel with `draw_one`, sharing the y axis; or the only one on `ax`.

    `bottom`: inches below a panel, for its ticks and its x label. `marked`: `draw_points` was used, whose marks on the
    lower edge need room there.
    """
    with style.settings():
        if ax is not None:
            if len(panels) != 1:
                raise ValueError(f"one axes holds one panel, but there are {len(panels)}")
            draw_one(ax, panels[0][1])
            style.metric_axis(ax, panels[0][1])
            if marked:
                _strip([ax], panels)
            ax.set_title(panels[0][0], loc="left")
            ax.legend(handles=list(legend))
            return style.figure_of(ax)
        size = ALONE if len(panels) == 1 else SIZE
        figure, axes = page.panels(
            [size] * len(panels), text=text, titles=[title for title, _ in panels], legend=legend,
            margins=page.Margins(left=0.75, right=0.2, bottom=bottom),
        )  # fmt: skip
        for one, (_, panel) in zip(axes, panels, strict=True):
            draw_one(one, panel)
            style.metric_axis(one, panel)
        low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
        for one in axes:
            one.set_ylim(low, high)
        if marked:
            _strip(axes, panels)
        return figure


def handles(panels: Sequence[Panel], name: Callable[[Line], str] = lambda line: line.label) -> list[Line2D]:
    """Return one legend entry for each line of the panels, called by `name`."""
    found = {(line.series, line.variant): line for _, panel in panels for line in lines_in(panel.cells)}
    places = {series: i for i, series in enumerate(series_in(pd.concat([panel.cells for _, panel in panels])))}
    ordered = sorted(found.values(), key=lambda line: (places[line.series], line.variant))
    return [handle(line.look, name(line)) for line in ordered]


def handle(look: style.Look, label: str, *, level: bool = False) -> Line2D:
    """Return the legend entry of a line; `level`: it is drawn without points."""
    marker = {} if level else {"marker": look.marker}
    return Line2D([], [], color=look.color, linestyle=look.dash, label=label, **marker)  # type: ignore[arg-type]


def mark_handles(cells: pd.DataFrame) -> list[Line2D]:
    """Return legend entries for the marks that occur: fewer seeds, diverged, collapsed, left out early, not run."""
    entries: list[tuple[pd.Series[bool], str, dict[str, Any]]] = [
        (_short(cells), "mean of fewer seeds", {"marker": "o", "markerfacecolor": "white"}),
        (cells["n_diverged"] > 0, "a seed diverged", {"marker": "x", "markeredgewidth": 1.6}),
        (cells["n_collapsed"] > 0, "a seed collapsed", {"marker": "$c$", "markeredgewidth": 0}),
        (_left_out(cells), "left out early", {"marker": "|", "markersize": 4.5, "markeredgewidth": 1.5}),
        (_unrun(cells), "not run", {"marker": "s", "markerfacecolor": "white", "markersize": 4.5}),
    ]
    ink: dict[str, Any] = {"color": style.INK, "linestyle": ""}
    return [Line2D([], [], label=label, **ink, **look) for where, label, look in entries if where.any()]


def draw_points(ax: Axes, line: Line, x: pd.Series[float], *, row: int) -> None:
    """Draw the means of a line over `x`: filled where every seed has a value, hollow where some have not.

    A cell without a value, with a diverged or with a collapsed seed gets its mark on the panel's lower edge, `row`
    (of `rows_of`) keeping the lines apart there.
    """
    cells, look = line.cells, line.look
    whole, short = complete(cells), _short(cells)
    style_of: dict[str, Any] = {"linestyle": "", "marker": look.marker, "color": look.color, "zorder": 4}
    ax.plot(x[whole], cells["mean"][whole], gid=f"points {line.gid}", **style_of)
    if short.any():
        ax.plot(x[short], cells["mean"][short], gid=f"short {line.gid}", markerfacecolor="white", **style_of)
    low, level = ax.get_xaxis_transform(), _STRIP + _STEP * row
    marks = (
        (cells["n_diverged"] > 0, "x", "diverged"),
        (_left_out(cells), "|", "stopped"),
        (_unrun(cells), "s", "missing"),
        (cells["n_collapsed"] > 0, "$c$", "collapsed"),
    )
    for where, marker, name in marks:
        if where.any():
            collapsed = name == "collapsed"
            ax.plot(
                x[where], [level] * int(where.sum()), linestyle="", marker=marker, color=look.color,
                markersize=page.pt(5.5 if collapsed else 4.5), markeredgewidth=0.3 if collapsed else 1.5,
                markerfacecolor=look.color if collapsed else "white", transform=low, gid=f"{name} {line.gid}",
                zorder=6, clip_on=False, path_effects=HALO if collapsed else None,
            )  # fmt: skip


def rows_of(panel: CellTable) -> dict[str, int]:
    """Return the row on the lower edge of each line that has marks there, by its gid."""
    return {line.gid: i for i, line in enumerate(line for line in lines_in(panel.cells) if line.marked)}


def _strip(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Make room below the values for the marks on the lower edge, without ticks there."""
    n_rows = max(len(rows_of(panel)) for _, panel in panels)
    if not n_rows:
        return
    share = min(0.5, _STRIP + _STEP * n_rows)
    for ax in axes:
        low, high = ax.get_ylim()
        ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
        ax.set_yticks(ticks)
        ax.set_ylim(high - (high - low) / (1 - share), high)


def counts_text(cells: pd.DataFrame) -> str:
    """Return how many cells lack what, for the caption; empty if none does."""
    counts = {
        "not run": _unrun(cells).sum(),
        "left out early": _left_out(cells).sum(),
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


def _empty(cells: pd.DataFrame) -> pd.Series[bool]:
    return (cells["n_ok"] == 0) & (cells["n_diverged"] == 0)


def _left_out(cells: pd.DataFrame) -> pd.Series[bool]:
    return _empty(cells) & cells["stopped_at"].notna()


def _unrun(cells: pd.DataFrame) -> pd.Series[bool]:
    return _empty(cells) & cells["stopped_at"].isna()
