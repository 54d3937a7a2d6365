"""The marks on a heatmap's cells and their legend: best, near the best, diverged, collapsed, missing, fewer seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from plots import page, style
from plots.grid import EQUAL_BAND, Bools, Floats, Grid, Place
from plots.tidy import CellTable

if TYPE_CHECKING:
    from plots.forms import Form, Scale

HATCH = "////"
STOPPED, STOPPED_EDGE = "\\\\", "#bbbbbb"  # of cells left out early, the other way round
RED = "#c00000"
_EQUAL = f"{style.ETA_A} = {style.ETA_B}"
_DASH = (0, (4, 2))

# where a mark sits in a cell that also holds a number, from its centre, in cells
_PERCENT_AT, _STDERR_AT, _COLLAPSED_AT, _SEEDS_AT = (0.34, -0.3), (-0.34, -0.3), (-0.34, 0.29), (0.26, 0.33)
_CHOSEN_AT = (-0.34, 0.29)
_CENTRE, _RIGHT, _LEFT = (0.0, 0.0), (0.2, 0.0), (-0.2, 0.0)


def draw(ax: Axes, grid: Grid, panel: CellTable, *, form: Form, scale: Scale, roomy: bool) -> None:
    """Draw every mark of one panel; `roomy`: the cells are large enough for numbers and marks side by side."""
    _cells(ax, grid.missing, gid="missing", facecolor="white", edgecolor="#999999", linestyle=":", linewidth=0.9)
    _hatches(ax, grid, roomy)
    _cells(ax, grid.stopped, gid="stopped", facecolor="white", edgecolor=STOPPED_EDGE, hatch=STOPPED, linewidth=0.6)
    if roomy:
        for i, j in np.argwhere(grid.stopped):
            text = f"step {grid.stopped_at[i, j]:.0f}\nloss {grid.stopped_loss[i, j]:.2g}"
            _text(ax, (i, j), text, size=6, gid="stopped", color=style.GREY, ground="white")
        for i, j in np.argwhere(grid.missing):
            _text(ax, (i, j), "–", size=9, gid="missing", color=style.GREY, ground="white")
        for i, j in np.argwhere(grid.short):
            text, ground = f"{grid.n_ok[i, j]}/{grid.n_expected[i, j]}", scale.cmap(scale.norm(grid.mean[i, j]))
            _text(ax, (i, j), text, at=_SEEDS_AT, size=6.5, gid="seeds", color=_ink_on(ground), ground=ground)
    _numbers(ax, grid, panel, form, scale, roomy)
    _points(ax, grid.collapsed, gid="collapsed", marker="v", at=_COLLAPSED_AT if roomy else _CENTRE)
    both = form.near == {"percent", "stderr"}
    if "stderr" in form.near:
        at = _STDERR_AT if roomy else _LEFT if both else _CENTRE
        _points(ax, grid.within_stderr, gid="within_stderr", marker="o", at=at)
    if "percent" in form.near:
        at = _PERCENT_AT if roomy else _RIGHT if both else _CENTRE
        _points(ax, grid.within_percent, gid="within_percent", marker="+", at=at)
    if form.outlines and grid.chosen not in (None, grid.best):
        where = np.zeros_like(grid.planned)
        where[grid.chosen] = True
        _points(ax, where, gid="chosen", marker="*", at=_CHOSEN_AT if roomy else _CENTRE)
    if form.outlines and grid.best_equal not in (None, grid.best):
        _outline(ax, grid.best_equal, gid="best_equal", linestyle=_DASH)
    if form.outlines:
        _outline(ax, grid.best, gid="best", linestyle="-")


def draw_equal_line(ax: Axes, x: Floats, y: Floats, form: Form) -> None:
    """Draw the line eta_A = eta_B, legible on every colour of the map."""
    casing = [effects.Stroke(linewidth=3.6, foreground="white"), effects.Normal()]
    ax.plot(x, y, path_effects=casing, gid="equal_line", zorder=3, **_equal_look(form))


def legend_entries(grids: Sequence[Grid], form: Form, *, roomy: bool) -> list[Patch | Line2D]:
    """Return a legend entry for each mark that occurs in the panels; `roomy`: some have cells with room for text."""
    apart = any(g.best_equal not in (None, g.best) for g in grids)
    exact = all(g.best_equal_cell is None or g.best_equal_cell["lr_ratio"] == 1 for g in grids)
    band = f"best with λ in [{EQUAL_BAND[0]:g}, {EQUAL_BAND[1]:g}]"
    seeds = Line2D([], [], linestyle="", marker="$1/2$", markersize=page.pt(13), markeredgewidth=0, color=style.INK)
    seeds.set_label("mean of fewer seeds")
    diverged = Patch(facecolor=style.PALE, edgecolor="white", hatch=HATCH, hatchcolor=style.GREY)
    diverged.set_label("diverged (a seed or all)")
    stopped = Patch(facecolor="white", edgecolor=STOPPED_EDGE, hatch=STOPPED, label="left out at this step")
    entries: list[tuple[bool, Patch | Line2D]] = [
        (form.outlines, _box("best cell", linestyle="-")),
        (form.outlines and apart, _box(f"best {_EQUAL}" if exact else band, linestyle=_DASH)),
        ("percent" in form.near and _any(grids, "within_percent"), _point("within 1 % of best", "+")),
        ("stderr" in form.near and _any(grids, "within_stderr"), _point("within 1 standard error of best", "o")),
        (form.outlines and any(g.chosen not in (None, g.best) for g in grids), _point("best on the select split", "*")),
        (form.equal_line is not None, Line2D([], [], label=_EQUAL, **_equal_look(form))),
        (_any(grids, "diverged"), diverged),
        (_any(grids, "collapsed"), _point("collapsed", "v")),
        (_any(grids, "missing"), Patch(facecolor="white", edgecolor="#999999", linestyle=":", label="– not run")),
        (_any(grids, "stopped"), stopped),
        (roomy and _any(grids, "short"), seeds),
    ]
    return [entry for shown, entry in entries if shown]


def _equal_look(form: Form) -> dict[str, Any]:
    dash = "-" if form.equal_line == "solid" else (0, (5, 2.5))
    return {"color": style.EQUAL_LINE, "linewidth": 1.8, "linestyle": dash}


def _any(grids: Sequence[Grid], name: str) -> bool:
    return any(bool(getattr(grid, name).any()) for grid in grids)


def _cells(ax: Axes, where: Bools, *, gid: str, **look: Any) -> None:
    for i, j in np.argwhere(where):
        ax.add_patch(Rectangle((j + 0.06, i + 0.06), 0.88, 0.88, gid=gid, **look))


def _hatches(ax: Axes, grid: Grid, roomy: bool) -> None:
    """Hatch cells with a diverged seed; the ones without any value get a pale ground, the others keep their colour.

    In a fine grid, neighbours in a row share one patch: a thousand take seconds to draw.
    """
    alone_at = grid.n_ok == 0
    for i, j, n in _runs(grid.diverged, alone_at) if not roomy else ((i, j, 1) for i, j in np.argwhere(grid.diverged)):
        alone = bool(alone_at[i, j])
        ax.add_patch(
            Rectangle(
                (j, i), n, 1, gid="diverged", hatch=HATCH, linewidth=0.6 if roomy else 0.0, edgecolor="white",
                facecolor=style.PALE if alone else "none", hatchcolor=style.GREY if alone else "white",
            )
        )  # fmt: skip


def _runs(where: Bools, kind: Bools) -> list[tuple[int, int, int]]:
    """Return (row, first column, length) of each run of neighbours in a row that are in `where` and of one kind."""
    runs: list[tuple[int, int, int]] = []
    for i, j in np.argwhere(where):
        if runs and runs[-1][0] == i and runs[-1][1] + runs[-1][2] == j and kind[i, j - 1] == kind[i, j]:
            runs[-1] = (int(i), runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((int(i), int(j), 1))
    return runs


def _numbers(ax: Axes, grid: Grid, panel: CellTable, form: Form, scale: Scale, roomy: bool) -> None:
    if form.numbers == "none":
        return
    chosen = {grid.best, grid.best_equal} - {None}
    for i, j in np.argwhere(~np.isnan(grid.mean)):
        place, value = (int(i), int(j)), grid.mean[i, j]
        text = style.metric(value, as_percent=panel.higher_is_better)
        if form.numbers == "best" and place in chosen:
            _text(ax, place, text, size=9, gid="number", color=RED, weight="bold")
        elif form.numbers == "all" and roomy:
            ground = scale.cmap(scale.norm(value))
            _text(ax, place, text, size=8.5, gid="number", color=_ink_on(ground), ground=ground)


def _text(
    ax: Axes, place: Place, text: str, *, size: float, gid: str, at: tuple[float, float] = _CENTRE,
    color: str = style.INK, weight: str = "normal", ground: Any = None,
) -> None:  # fmt: skip
    """Write into a cell: on a patch of colour `ground`, which keeps line and hatch off it, or with a white halo."""
    i, j = place
    box = None if ground is None else {"boxstyle": "square,pad=0.12", "facecolor": ground, "edgecolor": "none"}
    ax.text(
        j + 0.5 + at[0], i + 0.5 + at[1], text, ha="center", va="center", fontsize=page.pt(size), color=color,
        weight=weight, gid=gid, bbox=box, path_effects=_halo() if ground is None else None, zorder=5,
    )  # fmt: skip


def _halo(scale: float = 1.0) -> list[effects.AbstractPathEffect]:
    return [effects.withStroke(linewidth=2.2 * scale, foreground="white")]


def _ink_on(ground: Any) -> str:
    """Return black or white, whichever contrasts with the colour (relative luminance, WCAG 2)."""
    r, g, b = to_rgb(ground)
    return style.INK if 0.2126 * r**2.2 + 0.7152 * g**2.2 + 0.0722 * b**2.2 > 0.2 else "white"


def _points(ax: Axes, where: Bools, *, gid: str, marker: str, at: tuple[float, float]) -> None:
    i, j = np.nonzero(where)
    if len(i):
        x, y, scale = j + 0.5 + at[0], i + 0.5 + at[1], _scale_in(ax)
        ax.plot(x, y, linestyle="", gid=gid, zorder=6, path_effects=_halo(scale), **_look(marker, scale))


def _scale_in(ax: Axes) -> float:
    """Return the factor that keeps a mark inside its cell: 1 in cells of some size, smaller in small ones."""
    box, (width, height) = ax.get_position(), style.figure_of(ax).get_size_inches()
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    wide, tall = box.width * width / abs(right - left), box.height * height / abs(high - low)
    return float(min(page.current().scale, 72 * min(wide, tall) / 10.0))


def _look(marker: str, scale: float = 1.0) -> dict[str, Any]:
    edge = RED if marker == "+" else style.INK
    return {
        "marker": marker,
        "markersize": {"+": 6.5, "o": 4.5, "v": 4.5, "*": 7.0}[marker] * scale,
        "markerfacecolor": "white" if marker == "o" else edge,
        "markeredgecolor": edge,
        "markeredgewidth": (0.6 if marker == "*" else 1.4) * scale,
    }


def _point(label: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", label=label, **_look(marker))


def _outline(ax: Axes, place: Place | None, *, gid: str, linestyle: Any) -> None:
    if place is None:
        return
    i, j = place
    casing = [effects.Stroke(linewidth=4.6, foreground="white"), effects.Normal()]
    ax.add_patch(
        Rectangle(
            (j + 0.03, i + 0.03), 0.94, 0.94, fill=False, edgecolor="black", linewidth=2.2, linestyle=linestyle,
            gid=gid, zorder=4, path_effects=casing, clip_on=False,
        )
    )  # fmt: skip


def _box(label: str, *, linestyle: Any) -> Patch:
    return Patch(fill=False, edgecolor="black", linewidth=2.0, linestyle=linestyle, label=label)
