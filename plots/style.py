"""How figures look: sizes, fonts, number formats, one colour and marker per method, the caption; and saving them."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench import methods
from plots.tidy import CellTable, Facts

CMAP = "viridis"  # monotone in lightness: it survives greyscale and the common colour blindnesses
EQUAL_LINE = "#D55E00"  # vermillion of Okabe and Ito's palette
ETA_A, ETA_B = r"$\eta_A$", r"$\eta_B$"
INK, GREY, PALE = "#1a1a1a", "#666666", "#d9d9d9"
CAPTION_POINTS, LINE_INCHES, CHAR_INCHES = 7.5, 0.145, 0.059  # of the caption's font, measured on DejaVu Sans

# seaborn's "colorblind" palette, after Okabe and Ito; importing seaborn for ten constants costs more than drawing
PALETTE = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
)  # fmt: skip

COLORS = (*PALETTE, INK)  # the palette has ten, the methods are eleven

# Index into COLORS, and a marker, so that colour is never the only difference.
_LOOKS: dict[str, tuple[int, str]] = {
    "lora": (0, "o"),
    "lora+": (3, "s"),
    "mora-6": (2, "^"),
    "mora-1": (1, "v"),
    "full": (7, "D"),
    "mora-2": (4, "<"),
    "mora-3": (8, ">"),
    "mora-4": (9, "P"),
    "bitfit": (5, "X"),
    "head": (6, "*"),
    "subspace": (10, "h"),
}
_SPARE: tuple[tuple[int, str], ...] = ((8, "8"), (4, "p"), (9, "H"), (6, "d"))  # methods that this version has not

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,  # text stays text
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


@contextmanager
def settings() -> Iterator[None]:
    """Apply the project's matplotlib settings inside the block, and only there."""
    with mpl.rc_context(_RC):
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one series is drawn and named."""

    label: str
    color: str
    marker: str


@cache
def look(series: str) -> Look:
    """Return colour, marker and label of a series (`plots.tidy.series_of`), the same on every figure."""
    index, marker = _LOOKS.get(series) or _SPARE[sum(map(ord, series)) % len(_SPARE)]
    return Look(label=label(series), color=COLORS[index], marker=marker)


def label(series: str) -> str:
    """Return a series' name in words: the method's own label, and MoRA's type."""
    method, _, mora_type = series.partition("-") if series.startswith("mora-") else (series, "", "")
    name = methods.label(method)
    return f"{name} type {mora_type}" if mora_type else name


def rate(value: float) -> str:
    """Return a learning rate as the LoRA+ paper's axes show it: 4.0e-03."""
    return f"{value:.1e}"


def ratio(value: float) -> str:
    """Return lambda: three significant digits at most."""
    return f"{value:.3g}"


def metric(value: float, *, as_percent: bool, digits: int = 1) -> str:
    """Return a score times 100 with `digits` decimals, or a loss with three significant digits."""
    return f"{100 * value:.{digits}f}" if as_percent else f"{value:.3g}"


def metric_label(table: CellTable) -> str:
    """Return the metric's name with its unit, as axes and colour bars show it."""
    name = table.metric_name.replace("_", " ")
    return f"{name} (%)" if table.higher_is_better else name


def metric_axis(ax: Axes, table: CellTable) -> None:
    """Label the y axis with the metric, in percent for scores."""
    ax.set_ylabel(metric_label(table))
    if table.higher_is_better:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def rate_axis(ax: Axes, rates: Sequence[float], *, most: int = 9) -> None:
    """Make x a logarithmic axis with a tick at each rate, or at powers of ten where they are more than `most`."""
    low, high = math.floor(math.log10(rates[0]) + 1e-9), math.ceil(math.log10(rates[-1]) - 1e-9)
    decades = [10.0**k for k in range(low, high + 1)]
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_locator(FixedLocator(list(rates) if len(rates) <= most else decades))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
    turn(ax)


def turn(ax: Axes) -> None:
    """Turn the labels of the x axis by 45 degrees, each ending below its tick."""
    for text in ax.get_xticklabels():
        text.set(rotation=45, ha="right", rotation_mode="anchor")


def stderr_words(kinds: Iterable[str]) -> str:
    """Return in words what `stderr_kind` means, for captions."""
    words = {"seeds": "over seeds", "examples": "over the evaluation examples (fewer than 3 seeds)"}
    return " or ".join(words[kind] for kind in sorted(kinds, reverse=True))


def figure_of(ax: Axes) -> Figure:
    """Return the figure that `ax` belongs to."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def caption(facts: Facts, *notes: str) -> str:
    """Return the figure's caption: what was run, how many seeds, where, with which code; then `notes`."""
    study = f"Study {facts.study}" + (f" (rows of {facts.rows_of})" if facts.rows_of else "")
    seeds = f"{facts.n_seeds} seed{'s' if facts.n_seeds != 1 else ''}"
    code = f"commit {', '.join(facts.commits) or 'unknown'}"
    parts = [
        f"{study}; task {', '.join(facts.tasks)}; model {', '.join(facts.models)}; {seeds}; "
        f"device {', '.join(facts.devices) or 'none yet'}; {code}",
        *(note for note in notes if note),
    ]
    if facts.n_sources > 1:
        parts.append(f"rows of {facts.n_sources} versions of the harness are mixed")
    if facts.n_other_rows:
        rows = "row" if facts.n_other_rows == 1 else "rows"
        parts.append(f"{facts.n_other_rows} other {rows} in the directory, not of this study's cells, not drawn")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """Space around each panel, in inches."""

    left: float = 0.8
    right: float = 0.25
    top: float = 0.4
    bottom: float = 0.75


def panels(
    sizes: Sequence[tuple[float, float]],
    *,
    text: str,
    margins: Margins | None = None,
    legend_lines: int = 1,
    far_right: float = 0.0,
    per_row: int = 3,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel of each (width, height), in inches, and the caption `text` below them.

    `far_right` inches stay free at the right (colour bar), `legend_lines` lines between panels and caption.
    """
    m = margins or Margins()
    rows = [sizes[i : i + per_row] for i in range(0, len(sizes), per_row)]
    width = max(sum(w + m.left + m.right for w, _ in row) for row in rows) + far_right
    lines = textwrap.wrap(text, max(40, int((width - 0.3) / CHAR_INCHES)))
    foot = 0.12 + LINE_INCHES * len(lines) + 0.22 * legend_lines + (0.12 if legend_lines else 0.0)
    height = foot + sum(max(h for _, h in row) + m.top + m.bottom for row in rows)
    figure = Figure(figsize=(width, height))
    axes, y = [], height
    for row in rows:
        x, tallest = 0.0, max(h for _, h in row)
        for w, h in row:
            x += m.left
            axes.append(figure.add_axes((x / width, (y - m.top - h) / height, w / width, h / height)))
            x += w + m.right
        y -= tallest + m.top + m.bottom
    figure.text(
        0.15 / width, 0.1 / height, "\n".join(lines), fontsize=CAPTION_POINTS, color=GREY, va="bottom", gid="caption"
    )
    return figure, axes


def legend(figure: Figure, handles: Sequence[object], *, lines: int = 1) -> None:
    """Put one legend for all panels between them and the caption, in `lines` rows."""
    if not handles:
        return
    text = next(t for t in figure.texts if t.get_gid() == "caption")
    width, height = figure.get_size_inches()
    y = 0.1 + LINE_INCHES * (text.get_text().count("\n") + 1) + 0.08
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.1 / width, y / height),
        ncols=-(-len(handles) // lines),
        borderpad=0,
        borderaxespad=0,
        handletextpad=0.5,
        columnspacing=1.3,
    )


def legend_lines(labels: Sequence[str], width: float) -> int:
    """Return how many rows a legend of these labels needs in `width` inches."""
    needed = sum(0.5 + 0.066 * len(text.replace("$", "").replace("\\eta", "h")) for text in labels)
    return 0 if not labels else max(1, math.ceil(1.15 * needed / width))


def figure_caption(figure: Figure) -> str:
    """Return the caption of a figure made by `panels`, on one line."""
    return " ".join(next(t.get_text() for t in figure.texts if t.get_gid() == "caption").split())


def save(figure: Figure, directory: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.png and `name`.pdf into an existing directory and return their paths.

    The same figure gives the same bytes: no dates and no program names are stored. Each file is complete or absent.
    """
    png, pdf = directory / f"{name}.png", directory / f"{name}.pdf"
    with settings():
        _write(figure, png, {"Software": None})
        _write(figure, pdf, {"CreationDate": None, "Creator": None, "Producer": None})
    return png, pdf


def _write(figure: Figure, path: Path, metadata: dict[str, None]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, format=path.suffix[1:], metadata=metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
