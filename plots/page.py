"""The page that a figure is drawn for: how wide, with which sizes of text, the caption in the picture or beside it.

FULL is as wide as its panels need, for a screen. COLUMN is one column of a two-column paper, 240 pt: panels one below
the other, no text smaller than 6 pt, the caption in a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from plots.looks import GREY

FONT = "DejaVu Sans"
TITLE_POINTS, LEGEND_POINTS, CAPTION_POINTS = 9.0, 8.0, 7.5
_LEAST_POINTS = 6.0
_LEADING = 1.4  # of a line, in its size
_INDENT = 0.1  # inches left of legend and caption


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """How a figure is laid out. `scale` multiplies the sizes of text and marks that the figures are drawn with."""

    name: str
    width: float | None = None  # inches; None: as the panels need
    scale: float = 1.0
    dpi: int = 160
    captioned: bool = True  # the caption is in the picture


FULL = Page(name="full")
COLUMN = Page(name="column", width=240 / 72, scale=0.78, dpi=320, captioned=False)
_WORDS = re.compile(r"(?:\$[^$]*\$|[^ ])+")  # a formula is never broken, nor is text at a no-break space
_current: ContextVar[Page] = ContextVar("page", default=FULL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """Space around each panel, in inches; that of its title comes to it."""

    left: float = 0.8
    right: float = 0.25
    bottom: float = 0.75


def current() -> Page:
    """Return the page that figures are drawn for."""
    return _current.get()


@contextmanager
def on(page: Page) -> Iterator[None]:
    """Draw for `page` inside the block."""
    token = _current.set(page)
    try:
        yield
    finally:
        _current.reset(token)


def pt(points: float) -> float:
    """Return a size of text on the current page."""
    return max(_LEAST_POINTS, points * current().scale)


@cache
def width_of(text: str, points: float) -> float:
    """Return the width of a line of text in inches."""
    font = FontProperties(family=FONT, size=points)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath="$" in text)
    return float(width) / 72


def wrap(text: str, inches: float, points: float) -> str:
    """Return text with line breaks between words, so that no line is wider than `inches` where words allow it."""
    blank, lines = width_of("a b", points) - width_of("ab", points), []
    for paragraph in text.split("\n"):
        line, used = list[str](), 0.0
        for word in _WORDS.findall(paragraph):
            more = width_of(word, points) + (blank if line else 0.0)
            if line and used + more > inches:
                lines.append(" ".join(line))
                line, used, more = [], 0.0, width_of(word, points)
            line.append(word)
            used += more
        lines.append(" ".join(line))
    return "\n".join(lines)


def panels(
    sizes: Sequence[tuple[float, float]],
    *,
    text: str,
    titles: Sequence[str] = (),
    legend: Sequence[Artist] = (),
    margins: Margins | None = None,
    far_right: float = 0.0,
    per_row: int = 3,
    least: Sequence[float] = (),
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel of each (width, height), in inches, one legend below them all, and the caption.

    `text` is the caption, kept as the figure's label; `titles` are set left above the panels, in lines that fit.
    `far_right` inches stay free at the right (colour bar). A page of given width makes the panels fit it, none of them
    lower than its `least` height.
    """
    now, m = current(), margins or Margins()
    if now.width is not None:
        m = Margins(left=now.scale * m.left, right=0.6 * now.scale * m.right, bottom=0.85 * now.scale * m.bottom)
        far_right, per_row = now.scale * far_right, 1
        inner, low = now.width - m.left - m.right - far_right, least or [min(h, 1.5) for _, h in sizes]
        sizes = [(inner, max(h * inner / w, floor)) for (w, h), floor in zip(sizes, low, strict=True)]
    rows = [range(i, min(i + per_row, len(sizes))) for i in range(0, len(sizes), per_row)]
    width = now.width or max(sum(sizes[i][0] + m.left + m.right for i in row) for row in rows) + far_right
    shift = 0.6 * m.left if now.width else 0.0  # a title may begin left of a narrow panel
    headings = [
        wrap(title, size[0] + m.right + far_right + shift, pt(TITLE_POINTS))
        for title, size in zip(titles or [""] * len(sizes), sizes, strict=True)
    ]
    caption = wrap(text, width - 2 * _INDENT, CAPTION_POINTS) if now.captioned and text else ""
    below = _line(CAPTION_POINTS) * len(caption.splitlines()) + 0.1 * bool(caption)
    entries, n_columns, tall = _laid_out(legend, width)
    tops = [0.13 + _line(pt(TITLE_POINTS)) * max(len(headings[i].splitlines()) for i in row) for row in rows]
    body = sum(max(sizes[i][1] for i in row) + m.bottom + top for row, top in zip(rows, tops, strict=True))
    height = body + below + tall + 0.1
    figure = Figure(figsize=(width, height))
    figure.set_label(text)
    axes, y = [], height
    for row, top in zip(rows, tops, strict=True):
        x, tallest = 0.0, max(sizes[i][1] for i in row)
        for i in row:
            w, h = sizes[i]
            x += m.left
            axes.append(figure.add_axes((x / width, (y - top - h) / height, w / width, h / height)))
            _head(axes[-1], headings[i], shift=shift)
            x += w + m.right
        y -= tallest + top + m.bottom
    if caption:
        figure.text(
            _INDENT / width, 0.1 / height, caption, fontsize=CAPTION_POINTS, color=GREY, va="bottom", gid="caption",
            linespacing=_LEADING / 1.17,
        )  # fmt: skip
    if entries:
        figure.legend(
            handles=entries, labels=[str(e.get_label()) for e in entries], loc="lower left", ncols=n_columns,
            bbox_to_anchor=(_INDENT / width, (below + 0.08) / height), borderpad=0, borderaxespad=0, handletextpad=0.5,
            columnspacing=1.3, fontsize=pt(LEGEND_POINTS),
        )  # fmt: skip
    return figure, axes


def _head(ax: Axes, text: str, *, shift: float) -> None:
    if text:
        inches = ax.get_position().width * ax.figure.get_size_inches()[0]  # type: ignore[union-attr]
        ax.set_title(text, loc="left", fontsize=pt(TITLE_POINTS), linespacing=1.25, x=-shift / inches)


def _line(points: float) -> float:
    """Return the height of a line of text in inches."""
    return _LEADING * points / 72


def _laid_out(entries: Sequence[Artist], width: float) -> tuple[list[Artist], int, float]:
    """Return the legend's entries, in lines that fit, the columns they make, and its height in inches."""
    if not entries:
        return [], 1, 0.0
    points = pt(LEGEND_POINTS)
    em, room = points / 72, width - 2 * _INDENT
    handle = 2.5 * em
    for entry in entries:
        entry.set_label(wrap(str(entry.get_label()), room - handle, points))
    labels = [str(entry.get_label()) for entry in entries]
    widths = [handle + max(width_of(line, points) for line in label.splitlines() or [""]) for label in labels]
    for n_columns in range(len(entries), 0, -1):
        columns = np.array_split(np.arange(len(entries)), n_columns)  # as matplotlib fills them
        wide = sum(max(widths[i] for i in column) for column in columns) + 1.3 * em * (n_columns - 1)
        if n_columns == 1 or 1.02 * wide <= room:
            break
    tall = max(sum(labels[i].count("\n") + 1 for i in column) for column in columns)
    return list(entries), n_columns, 1.08 * _line(points) * tall + 0.12
