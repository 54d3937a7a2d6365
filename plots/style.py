"""How figures look: fonts, number formats, the caption; saving them. See also `plots.looks` and `plots.page`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.methods import label
from plots import page
from plots.looks import COLORS, GREY, INK, PALE, PALETTE, Look, look
from plots.tidy import CellTable, Facts

__all__ = ["COLORS", "GREY", "INK", "PALE", "PALETTE", "Look", "label", "look"]

CMAP = "viridis"  # monotone in lightness: it survives greyscale and the common colour blindnesses
EQUAL_LINE = "#D55E00"  # vermillion of Okabe and Ito's palette
ETA_A, ETA_B = r"$\eta_A$", r"$\eta_B$"
_RC: dict[Any, Any] = {
    "font.family": page.FONT,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,  # text stays text
    "figure.dpi": 100,
    "text.hinting": "no_hinting",  # hinted letters are up to 2 % wider than measured: a wrapped line would be cut
}
_POINTS = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9.5, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": page.LEGEND_POINTS,
}  # fmt: skip


@contextmanager
def settings() -> Iterator[None]:
    """Apply the project's matplotlib settings inside the block, and only there."""
    now = page.current()
    more = {"lines.linewidth": 1.6 * now.scale, "lines.markersize": 5.5 * now.scale, "savefig.dpi": now.dpi}
    with mpl.rc_context(_RC | {name: page.pt(size) for name, size in _POINTS.items()} | more):
        yield


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


def width_of(ax: Axes) -> float:
    """Return the width of a panel in inches."""
    return float(ax.get_position().width * figure_of(ax).get_size_inches()[0])


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


def figure_caption(figure: Figure) -> str:
    """Return the caption of a figure made by `plots.page.panels`, on one line."""
    return " ".join(str(figure.get_label()).split())


def save(figure: Figure, directory: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.png and `name`.pdf into an existing directory and return their paths.

    A caption that is not in the picture (see `plots.page`) goes into `name`.txt. The same figure gives the same bytes:
    no dates and no program names are stored. Each file is complete or absent.
    """
    png, pdf = directory / f"{name}.png", directory / f"{name}.pdf"
    with settings():
        _write(figure, png, {"Software": None})
        _write(figure, pdf, {"CreationDate": None, "Creator": None, "Producer": None})
    if figure_caption(figure) and not any(text.get_gid() == "caption" for text in figure.texts):
        with _part(directory / f"{name}.txt") as part:
            part.write_text(f"{figure_caption(figure)}\n", encoding="utf-8")
    return png, pdf


def _write(figure: Figure, path: Path, metadata: dict[str, None]) -> None:
    with _part(path) as part:
        figure.savefig(part, format=path.suffix[1:], metadata=metadata)


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Yield the path of a file that takes the place of `path` when it is complete."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
