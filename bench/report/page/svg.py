"""A line chart as inline SVG: readable at a phone's width, in the page's own colours, every point with its words.

`x_scale` of a chart is linear, log or category. Points carry `data-tip`, which the page shows when they are pointed at
or reached with the keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.report.charts import Chart, Line, Point
from bench.report.page.html import Html, el, join
from plots import style

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 28, 44
MOST_TICKS = 7
DODGE = 9  # between lines at one category

# Matplotlib's marker letters, as polygons around (0, 0); what is not here is a circle.
_SHAPES: dict[str, str] = {
    "s": "M-3.4-3.4H3.4V3.4H-3.4Z",
    "^": "M0-4.4L4.2 3.2H-4.2Z",
    "v": "M0 4.4L4.2-3.2H-4.2Z",
    "<": "M-4.4 0L3.2 4.2V-4.2Z",
    ">": "M4.4 0L-3.2 4.2V-4.2Z",
    "D": "M0-4.6L4.6 0L0 4.6L-4.6 0Z",
    "P": "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
    "X": "M-4-2L-2-4L0-2L2-4L4-2L2 0L4 2L2 4L0 2L-2 4L-4 2L-2 0Z",
    "*": "M0-5L1.4-1.7L5-1.5L2.2.8L3.1 4.3L0 2.4L-3.1 4.3L-2.2.8L-5-1.5L-1.4-1.7Z",
}
_CIRCLE = "M-3.8 0A3.8 3.8 0 1 0 3.8 0A3.8 3.8 0 1 0-3.8 0Z"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axes:
    """Where a value lies in the picture."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def chart(drawn: Chart, *, as_percent: bool, y_label: str, title: str, beside: Sequence[Chart] = ()) -> Html:
    """Return the chart as an <svg> element; `title` is what it is called by a screen reader.

    Its y axis is that of the charts `beside` it too, which show the same quantity.
    """
    axes = _axes(drawn, [line for one in (drawn, *beside) for line in one.lines], as_percent=as_percent)
    lines = [_line(line, drawn, _shifted(axes, i, drawn), as_percent=as_percent) for i, line in enumerate(drawn.lines)]
    return el(
        "svg", _frame(axes, drawn.x_label, y_label), lines,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="group", aria_label=title, class_="chart",
    )  # fmt: skip


def _shifted(axes: _Axes, i: int, drawn: Chart) -> _Axes:
    """Return axes that set line i beside the others where x is a category, so that bars do not cover each other."""
    if drawn.x_scale != "category":
        return axes
    shift = DODGE * (i - (len(drawn.lines) - 1) / 2)
    return replace(axes, x=lambda x: axes.x(x) + shift)


def legend(drawn: Chart) -> Html:
    """Return the chart's lines as a list: marker, name."""
    return el("ul", [el("li", _swatch(line), line.label) for line in drawn.lines], class_="legend")


def _swatch(line: Line) -> Html:
    dash = _dash(line)
    inside = join(el("path", d="M0 7H26", class_="stroke", stroke_dasharray=dash), _marker(line, 13, 7))
    return el(
        "svg", el("g", inside, style=_colour(line), class_="series"), width=26, height=14,
        viewBox="0 0 26 14", aria_hidden="true",
    )  # fmt: skip


def _look(line: Line) -> style.Look:
    return style.look(line.series, line.variant)


def _colour(line: Line) -> str:
    return f"--c:{_look(line).color}"


def _dash(line: Line) -> str | None:
    """Return SVG's dash pattern, in pixels; a level is always dashed."""
    dash = _look(line).dash
    if isinstance(dash, tuple):
        return " ".join(f"{2 * length:g}" for length in dash[1])
    return "5 4" if line.level else {"--": "6 3", ":": "1.5 2.5", "-.": "7 2.5 1.5 2.5"}.get(dash)


def _marker(line: Line, x: float, y: float) -> Html:
    shape = _SHAPES.get(str(_look(line).marker), _CIRCLE)
    return el("path", d=shape, transform=f"translate({x:.1f} {y:.1f})", class_="fill")


def _line(line: Line, drawn: Chart, axes: _Axes, *, as_percent: bool) -> Html:
    at = [(axes.x(p.x), axes.y(p.y)) for p in line.points]
    if line.level:
        y = at[0][1]
        path, at = f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", [(float(WIDTH - RIGHT - 8), y)]
    else:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    dash = _dash(line)
    tips = [_tip(line, p, drawn, as_percent=as_percent) for p in line.points]
    points = [
        el("g", _marker(line, x, y), data_tip=tip, aria_label=tip, role="img", tabindex="-1", class_="point")
        for (x, y), tip in zip(at, tips, strict=True)
    ]
    return el(
        "g", _spread(line, drawn, axes), el("path", d=path, class_="stroke", stroke_dasharray=dash), points,
        class_="series", style=_colour(line),
    )  # fmt: skip


def _spread(line: Line, drawn: Chart, axes: _Axes) -> Html:
    """Return a band, or bars where x is a category: between ranks there is nothing."""
    if drawn.x_scale == "category" and not line.level:
        ends = [(axes.x(p.x), axes.y(p.low), axes.y(p.high)) for p in line.points if p.low != p.high]
        return join(el("path", d=f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6",
                       class_="stroke bar-line") for x, low, high in ends)  # fmt: skip
    if line.level:
        p = line.points[0]
        low, high = axes.y(p.low), axes.y(p.high)
        return el("path", d=f"M{LEFT} {high:.1f}H{WIDTH - RIGHT}V{low:.1f}H{LEFT}Z", class_="band")
    if len(line.points) < 2 or all(p.low == p.high for p in line.points):
        return Html("")
    upper = [(axes.x(p.x), axes.y(p.high)) for p in line.points]
    lower = [(axes.x(p.x), axes.y(p.low)) for p in reversed(line.points)]
    return el("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (*upper, *lower)) + "Z", class_="band")


def _tip(line: Line, p: Point, drawn: Chart, *, as_percent: bool) -> str:
    value = style.metric(p.y, as_percent=as_percent, digits=2)
    band = "" if p.low == p.high else f" ({_value(p.low, as_percent)} to {_value(p.high, as_percent)})"
    where = "" if line.level else f", {drawn.x_label} {_x_text(p.x, drawn)}"
    return f"{line.label}{where}: {value}{band}" + (f"; {p.note}" if p.note else "")


def _value(value: float, as_percent: bool) -> str:
    return style.metric(value, as_percent=as_percent, digits=2)


def _x_text(x: float, drawn: Chart) -> str:
    return style.rate(x) if drawn.x_scale == "log" else f"{x:g}"


def _frame(axes: _Axes, x_label: str, y_label: str) -> Html:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    grid = [el("path", d=f"M{LEFT} {y:.1f}H{right}", class_="grid") for y, _ in axes.y_ticks]
    ys = [el("text", text, x=LEFT - 6, y=f"{y + 3.5:.1f}", text_anchor="end") for y, text in axes.y_ticks]
    xs = [el("text", text, x=f"{x:.1f}", y=bottom + 15, text_anchor="middle") for x, text in axes.x_ticks]
    ticks = [el("path", d=f"M{x:.1f} {bottom}v4", class_="axis") for x, _ in axes.x_ticks]
    return el(
        "g", grid, ticks, el("path", d=f"M{LEFT} {bottom}H{right}", class_="axis"), ys, xs,
        el("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 8, text_anchor="middle", class_="name"),
        el("text", y_label, x=2, y=12, class_="name"),
        aria_hidden="true",
    )  # fmt: skip


def _axes(drawn: Chart, lines: Sequence[Line], *, as_percent: bool) -> _Axes:
    low, high = _y_range(lines)
    span, bottom, top = high - low, HEIGHT - BOTTOM, TOP
    x_of, x_ticks = _x_axis(drawn)

    def y_of(value: float) -> float:
        return bottom - (value - low) / span * (bottom - top)

    factor = 100.0 if as_percent else 1.0
    step = _nice(span * factor / 4)
    first, last = math.ceil(low * factor / step - 1e-9), math.floor(high * factor / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [(y_of(k * step / factor), f"{k * step:.{digits}f}") for k in range(first, last + 1)]
    return _Axes(x=x_of, y=y_of, x_ticks=x_ticks, y_ticks=tuple(marks))


def _y_range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [v for line in lines for p in line.points for v in (p.low, p.high)]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.01 * max(abs(high), 1e-9)
    return low - room, high + room


def _x_axis(drawn: Chart) -> tuple[Callable[[float], float], tuple[tuple[float, str], ...]]:
    xs, wide = drawn.xs, WIDTH - LEFT - RIGHT
    if drawn.x_scale == "category":
        place = {x: LEFT + wide * (i + 0.5) / len(xs) for i, x in enumerate(xs)}
        every = math.ceil(len(xs) / (MOST_TICKS + 2))
        return (lambda x: place.get(x, LEFT)), tuple((place[x], f"{x:g}") for x in xs[::every])
    log = drawn.x_scale == "log"
    low, high = (math.log(xs[0]), math.log(xs[-1])) if log else (xs[0], xs[-1])
    pad = 14

    def x_of(x: float) -> float:
        return LEFT + pad + ((math.log(x) if log else x) - low) / (high - low) * (wide - 2 * pad)

    if log:
        every = math.ceil(len(xs) / (MOST_TICKS - 2))
        return x_of, tuple((x_of(x), style.rate(x)) for x in xs[::every])
    if len(xs) <= MOST_TICKS:
        return x_of, tuple((x_of(x), f"{x:g}") for x in xs)
    step = _nice((high - low) / 5)
    marks = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return x_of, tuple((x_of(x), f"{x:g}") for x in marks)


def _nice(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def forest(rows: Sequence[tuple[str, float, float, float, str]], *, x_label: str, title: str) -> Html:
    """Return intervals as horizontal lines around their means, one row each, beside a line at 0: a forest plot.

    `rows` are (name, mean, low, high, words); words are shown when the row is pointed at. x has the unit of the label.
    """
    width, left, right, high = 560, 190, 20, 30
    height = high * len(rows) + 52
    ends = [end for _, mean, low, top, _ in rows for end in (mean, low, top)] + [0.0]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    first, last = min(ends) - room, max(ends) + room

    def x_of(value: float) -> float:
        return left + (value - first) / (last - first) * (width - left - right)

    step = _nice((last - first) / 6)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [k * step for k in range(math.ceil(first / step), math.floor(last / step) + 1)]
    bottom = height - 40
    frame = [
        [el("path", d=f"M{x_of(t):.1f} 4V{bottom}", class_="grid"),
         el("text", f"{t:.{digits}f}", x=f"{x_of(t):.1f}", y=bottom + 15, text_anchor="middle")]
        for t in ticks
    ]  # fmt: skip
    zero = el("path", d=f"M{x_of(0):.1f} 2V{bottom}", class_="zero")
    drawn = []
    for i, (name, mean, low, top, words) in enumerate(rows):
        y = 4 + high * (i + 0.5)
        line = f"M{x_of(low):.1f} {y}H{x_of(top):.1f}M{x_of(low):.1f} {y - 4}v8M{x_of(top):.1f} {y - 4}v8"
        mark = el("path", d="M-4.5-4.5H4.5V4.5H-4.5Z", transform=f"translate({x_of(mean):.1f} {y})", class_="fill")
        drawn.append(
            el("g", el("text", name, x=left - 12, y=y + 4, text_anchor="end", class_="name"),
               el("path", d=line, class_="stroke"), mark, data_tip=words, aria_label=words, role="img", tabindex="-1",
               class_="point series", style="--c:var(--ink)")
        )  # fmt: skip
    label = el("text", x_label, x=(left + width - right) / 2, y=height - 6, text_anchor="middle", class_="name")
    return el(
        "svg", el("g", *frame, label, aria_hidden="true"), zero, drawn,
        viewBox=f"0 0 {width} {height}", role="group", aria_label=title, class_="chart forest",
    )  # fmt: skip
