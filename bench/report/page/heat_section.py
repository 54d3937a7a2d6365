"""A heatmap as an HTML table: a number in each cell, its marks, and all about it for the reader who points at it."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.colors import to_hex

from bench.report.data import HeatCell, Heatmap, Report
from bench.report.text import described, score, unit
from plots import style

_GRADIENT = 8  # colours of the bar that explains the colours


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    """What a cell shows: `text`, `marks` above it, and in words (`tip`) all about it."""

    text: str
    tip: str
    kind: str = ""
    marks: str = ""
    style: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    y: str
    cells: tuple[_Cell | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    caption: str
    axis: str
    xs: tuple[str, ...]
    rows: tuple[_Row, ...]


def view(report: Report) -> dict[str, object] | None:
    """Return the panels, and what colours and marks mean; None where there are none."""
    if not report.heatmaps:
        return None
    first = report.heatmaps[0]
    return {
        "unit": unit(report),
        "low": score(first.low, report),
        "high": score(first.high, report),
        "colours": ", ".join(_hex(i / (_GRADIENT - 1), report) for i in range(_GRADIENT)),
        "beyond": any(_beyond(cell, panel, report) for panel in report.heatmaps for row in panel.cells for cell in row),
        "panels": [_panel(panel, report) for panel in report.heatmaps],
    }


def _panel(panel: Heatmap, report: Report) -> _Panel:
    axis = "η_B" if panel.view == "eta_B" else "λ"
    named = style.rate if panel.view == "eta_B" else style.ratio
    edge = "; the best cell lies on the grid's edge" if panel.best_at_edge else ""
    return _Panel(
        caption=f"{panel.title}: η_A × {axis}{edge}",
        axis=axis,
        xs=tuple(style.rate(x) for x in panel.xs),
        rows=tuple(
            _Row(y=named(y), cells=tuple(_cell(cell, panel, report) for cell in cells))
            for y, cells in zip(panel.ys, panel.cells, strict=True)
        ),
    )


def _beyond(cell: HeatCell | None, panel: Heatmap, report: Report) -> bool:
    if cell is None or cell.numbers.mean is None:
        return False
    return cell.numbers.mean < panel.low if report.higher_is_better else cell.numbers.mean > panel.high


def _cell(cell: HeatCell | None, panel: Heatmap, report: Report) -> _Cell | None:
    if cell is None:
        return None
    n = cell.numbers
    tip = described(n, report) + _words(cell)
    if n.mean is None:
        return _Cell(text="✕" if n.n_diverged else "·", tip=tip, kind="empty")
    colour = _hex(min(1.0, max(0.0, (n.mean - panel.low) / (panel.high - panel.low))), report)
    marks = "".join((
        "★" if cell.best else "•" if cell.within_stderr else "",
        "◆" if cell.chosen else "",
        "✕" if n.n_diverged else "",
        "▽" if n.n_collapsed else "",
    ))  # fmt: skip
    look = f"background:{colour};color:{_ink(colour)}"
    return _Cell(text=score(n.mean, report), tip=tip, kind="best" if cell.best else "", marks=marks, style=look)


def _words(cell: HeatCell) -> str:
    marks = ["best"] if cell.best else []
    marks += ["chosen"] if cell.chosen else []
    marks += ["within 1 % of the best"] if cell.within_percent and not cell.best else []
    return f" – {', '.join(marks)}" if marks else ""


def _hex(share: float, report: Report) -> str:
    """Return the colour of a share of the scale, 0 .. 1 from low to high; bright is good either way."""
    cmap = mpl.colormaps[style.CMAP if report.higher_is_better else f"{style.CMAP}_r"]
    return to_hex(cmap(share))


def _ink(colour: str) -> str:
    """Return black or white, whichever has more contrast on the colour (WCAG 2's relative luminance)."""
    linear = [_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#fff"


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)
