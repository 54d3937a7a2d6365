"""Where everything in a line chart or a forest plot lies; templates/_charts.html draws it as inline SVG.

Readable at a phone's width, in the page's own colours. `x_scale` of a chart is linear, log or category. The words of a
point (`tip`) are shown when it is pointed at or reached with the keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.report.charts import Chart, Line, Point
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
class Tick:
    """A mark on an axis, and where its text stands where that is not at the mark."""

    at: str
    text: str
    text_at: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A point of a line: where, and all about it in words."""

    at: str
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stroke:
    """A line with its points, its spread as a band or as bars, and how it looks."""

    label: str
    colour: str
    dash: str
    shape: str  # of its points
    path: str
    points: tuple[Mark, ...]
    band: str = ""
    bars: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A line chart; `title` is what it is called by a screen reader."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Stroke, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A row of a forest plot."""

    name: str
    tip: str
    y: float
    path: str
    at: str  # the mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """Intervals as horizontal lines around their means beside a line at 0."""

    title: str
    x_label: str
    rows: tuple[Interval, ...]
    ticks: tuple[Tick, ...]
    zero: str
    width: int
    height: int
    left: int
    bottom: int
    middle: float  # of the axis


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axes:
    """Where a value lies in the picture."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def chart(one: Chart, *, as_percent: bool, y_label: str, title: str, beside: Sequence[Chart] = ()) -> Drawn:
    """Return where the parts of a chart lie; charts `beside` it, of the same quantity, share its y axis."""
    axes = _axes(one, [line for each in (one, *beside) for line in each.lines], as_percent=as_percent)
    lines = (_line(line, one, _shifted(axes, i, one), as_percent=as_percent) for i, line in enumerate(one.lines))
    return Drawn(
        title=title,
        x_label=one.x_label,
        y_label=y_label,
        x_ticks=tuple(Tick(at=f"{x:.1f}", text=text) for x, text in axes.x_ticks),
        y_ticks=tuple(Tick(at=f"{y:.1f}", text=text, text_at=f"{y + 3.5:.1f}") for y, text in axes.y_ticks),
        lines=tuple(lines),
    )


def _shifted(axes: _Axes, i: int, drawn: Chart) -> _Axes:
    """Return axes that set line i beside the others where x is a category, so that bars do not cover each other."""
    if drawn.x_scale != "category":
        return axes
    shift = DODGE * (i - (len(drawn.lines) - 1) / 2)
    return replace(axes, x=lambda x: axes.x(x) + shift)


def _look(line: Line) -> style.Look:
    return style.look(line.series, line.variant)


def _dash(line: Line) -> str:
    """Return SVG's dash pattern, in pixels; a level is always dashed."""
    dash = _look(line).dash
    if isinstance(dash, tuple):
        return " ".join(f"{2 * length:g}" for length in dash[1])
    return "5 4" if line.level else {"--": "6 3", ":": "1.5 2.5", "-.": "7 2.5 1.5 2.5"}.get(dash, "")


def _line(line: Line, drawn: Chart, axes: _Axes, *, as_percent: bool) -> Stroke:
    at = [(axes.x(p.x), axes.y(p.y)) for p in line.points]
    if line.level:
        y = at[0][1]
        path, at = f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", [(float(WIDTH - RIGHT - 8), y)]
    else:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    points = (
        Mark(at=f"{x:.1f} {y:.1f}", tip=_tip(line, p, drawn, as_percent=as_percent))
        for (x, y), p in zip(at, line.points, strict=True)
    )
    look, between = _look(line), drawn.x_scale == "category" and not line.level  # between ranks there is nothing
    return Stroke(
        label=line.label,
        colour=look.color,
        dash=_dash(line),
        shape=_SHAPES.get(str(look.marker), _CIRCLE),
        path=path,
        points=tuple(points),
        band="" if between else _band(line, axes),
        bars=_bars(line, axes) if between else (),
    )


def _bars(line: Line, axes: _Axes) -> tuple[str, ...]:
    ends = [(axes.x(p.x), axes.y(p.low), axes.y(p.high)) for p in line.points if p.low != p.high]
    return tuple(
        f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6" for x, low, high in ends
    )


def _band(line: Line, axes: _Axes) -> str:
    if line.level:
        p = line.points[0]
        low, high = axes.y(p.low), axes.y(p.high)
        return f"M{LEFT} {high:.1f}H{WIDTH - RIGHT}V{low:.1f}H{LEFT}Z"
    if len(line.points) < 2 or all(p.low == p.high for p in line.points):
        return ""
    upper = [(axes.x(p.x), axes.y(p.high)) for p in line.points]
    lower = [(axes.x(p.x), axes.y(p.low)) for p in reversed(line.points)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (*upper, *lower)) + "Z"


def _tip(line: Line, p: Point, drawn: Chart, *, as_percent: bool) -> str:
    value = style.metric(p.y, as_percent=as_percent, digits=2)
    band = "" if p.low == p.high else f" ({_value(p.low, as_percent)} to {_value(p.high, as_percent)})"
    where = "" if line.level else f", {drawn.x_label} {_x_text(p.x, drawn)}"
    return f"{line.label}{where}: {value}{band}" + (f"; {p.note}" if p.note else "")


def _value(value: float, as_percent: bool) -> str:
    return style.metric(value, as_percent=as_percent, digits=2)


def _x_text(x: float, drawn: Chart) -> str:
    return style.rate(x) if drawn.x_scale == "log" else f"{x:g}"


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


def forest(
    rows: Sequence[tuple[str, float, float, float, str]], *, x_label: str, title: str, line: float = 0.0
) -> Forest:
    """Return where the parts of a forest plot lie: intervals around their means, one row each, beside a line.

    `rows` are (name, mean, low, high, words); x has the unit of the label.
    """
    width, left, right, high = 440, 24 + round(6.4 * max(len(name) for name, *_ in rows)), 12, 30
    height = high * len(rows) + 52
    ends = [end for _, mean, low, top, _ in rows for end in (mean, low, top)] + [line]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    first, last = min(ends) - room, max(ends) + room

    def x_of(value: float) -> str:
        return f"{left + (value - first) / (last - first) * (width - left - right):.1f}"

    step = _nice((last - first) / 6)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [k * step for k in range(math.ceil(first / step), math.floor(last / step) + 1)]
    drawn = []
    for i, (name, mean, low, top, words) in enumerate(rows):
        y = 4 + high * (i + 0.5)
        path = f"M{x_of(low)} {y}H{x_of(top)}M{x_of(low)} {y - 4}v8M{x_of(top)} {y - 4}v8"
        drawn.append(Interval(name=name, tip=words, y=y, path=path, at=f"{x_of(mean)} {y}"))
    return Forest(
        title=title,
        x_label=x_label,
        rows=tuple(drawn),
        ticks=tuple(Tick(at=x_of(t), text=f"{t:.{digits}f}") for t in ticks),
        zero=x_of(line),
        width=width,
        height=height,
        left=left,
        bottom=height - 40,
        middle=width / 2,
    )
