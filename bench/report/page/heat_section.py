"""A heatmap as an HTML table: a number in each cell, its marks, and all about it for the reader who points at it."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.colors import to_hex

from bench.report.data import HeatCell, Heatmap, Report
from bench.report.page.html import Html, el, join
from bench.report.page.tables import scroll
from bench.report.text import described, score, unit
from plots import style

HINT = "Point at a cell, tap it, or walk with the arrow keys."
_GRADIENT = 8  # colours of the bar that explains the colours


def heatmap(panel: Heatmap, report: Report) -> Html:
    """Return one panel: table, line of words about the chosen cell."""
    by_B = panel.view == "eta_B"
    axis = join("η_B ↓" if by_B else "λ ↓", el("br"), "η_A →")
    named = style.rate if by_B else style.ratio
    head = el("tr", el("th", axis, scope="col"), [el("th", style.rate(x), scope="col") for x in panel.xs])
    rows = [
        el("tr", el("th", named(y), scope="row"), [_cell(cell, panel, report) for cell in cells])
        for y, cells in zip(panel.ys, panel.cells, strict=True)
    ]
    edge = "; the best cell lies on the grid's edge" if panel.best_at_edge else ""
    caption = f"{panel.title}: η_A × {'η_B' if by_B else 'λ'}{edge}"
    table = el("table", el("caption", caption), el("thead", head), el("tbody", rows), class_="heat", data_roving=True)
    return el("figure", scroll(table), el("p", HINT, class_="readout", aria_live="polite"))


def key(report: Report) -> Html:
    """Return what colours and marks mean."""
    low, high = report.heatmaps[0].low, report.heatmaps[0].high
    colours = ", ".join(_hex(i / (_GRADIENT - 1), report) for i in range(_GRADIENT))
    bar = el("span", class_="bar", style=f"background:linear-gradient(to right, {colours})", aria_hidden="true")
    beyond = any(_beyond(cell, panel, report) for panel in report.heatmaps for row in panel.cells for cell in row)
    worse = "; worse cells share the end's colour" if beyond else ""
    marks = (
        ("★", "best mean on the evaluation split"),
        ("◆", "chosen on held-out training examples"),
        ("•", "within one standard error of the best"),
        ("✕", "a seed diverged"),
        ("▽", "a seed collapsed"),
        ("·", "not run"),
    )
    listed = [el("li", el("b", mark), f" {meaning}") for mark, meaning in marks]
    return el(
        "div",
        el("p", f"{unit(report)}: {score(low, report)} ", bar, f" {score(high, report)}{worse}", class_="note"),
        el("ul", listed, class_="legend"),
    )  # fmt: skip


def _beyond(cell: HeatCell | None, panel: Heatmap, report: Report) -> bool:
    if cell is None or cell.numbers.mean is None:
        return False
    return cell.numbers.mean < panel.low if report.higher_is_better else cell.numbers.mean > panel.high


def _cell(cell: HeatCell | None, panel: Heatmap, report: Report) -> Html:
    if cell is None:
        return el("td", class_="none")
    n = cell.numbers
    tip = described(n, report) + _words(cell)
    if n.mean is None:
        mark = "✕" if n.n_diverged else "·"
        return el("td", mark, class_="empty", data_tip=tip, tabindex="-1", aria_label=tip)
    share = min(1.0, max(0.0, (n.mean - panel.low) / (panel.high - panel.low)))
    colour = _hex(share, report)
    marks = "".join((
        "★" if cell.best else "•" if cell.within_stderr else "",
        "◆" if cell.chosen else "",
        "✕" if n.n_diverged else "",
        "▽" if n.n_collapsed else "",
    ))  # fmt: skip
    return el(
        "td", join(score(n.mean, report), el("sup", marks) if marks else None),
        style=f"background:{colour};color:{_ink(colour)}", class_="best" if cell.best else None,
        data_tip=tip, tabindex="-1", aria_label=tip,
    )  # fmt: skip


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
