"""Methods timed alone: seconds of a step by part, its ratio to LoRA, peak memory and bytes kept for backward.

Takes the rows of `bench speed` (bench.timing.methods.rows.SCHEMA) and the lines that its summary makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.timing.methods.summary import Line, interval_words
from plots import page, style

PARTS = (
    ("forward_seconds", "forward", style.PALETTE[0]),
    ("backward_seconds", "backward", style.PALETTE[9]),
    ("optimizer_seconds", "optimizer", style.PALETTE[1]),
    ("other_seconds", "other", style.PALETTE[7]),
)
_ROW = 0.24  # inches


def methods(df: pd.DataFrame, lines: Sequence[Line]) -> Figure:
    """Draw four panels, a row for each case: parts of a step, ratio to LoRA, peak memory, kept bytes per token."""
    note = (
        f"Medians over interleaved rounds; whiskers: {interval_words(lines)}; ratios paired by round, to LoRA without "
        "dropout at the same rank"
    )
    with style.settings():
        height = _ROW * len(lines) + 0.2
        names = 1.7  # inches, of the cases
        figure, axes = page.panels(
            [(3.4, height), (2.4, height), (2.0, height), (2.0, height)], text=f"{_facts(df)}. {note}.",
            legend=[Patch(color=color, label=label) for _, label, color in PARTS], far_right=names, per_row=4,
            margins=page.Margins(left=0.2, right=0.25, bottom=0.6),
        )  # fmt: skip
        shift(figure, axes, names)
        _parts(axes[0], lines)
        _ratio(axes[1], lines)
        _bytes(axes[2], lines, "peak_memory_bytes", "peak memory, MiB", 2**-20)
        _bytes(axes[3], lines, "kept_bytes", "kept for backward, kB/token", 1e-3)
        for i, ax in enumerate(axes):
            ax.set_yticks(range(len(lines)), [line.case for line in lines] if i == 0 else [""] * len(lines))
            ax.set_ylim(len(lines) - 0.4, -0.6)
            ax.grid(visible=False, axis="y")
        return figure


def _parts(ax: Axes, lines: Sequence[Line]) -> None:
    """Draw the parts as shares of the timed step, so that the bar ends where the step does."""
    starts = [0.0] * len(lines)
    for column, _, color in PARTS:
        widths = []
        for line in lines:
            whole = sum(line.values[name].median for name, _, _ in PARTS)
            step = line.values["seconds_per_step"].median
            widths.append(1e3 * step * line.values[column].median / whole if whole > 0 else 0.0)
        ax.barh(range(len(lines)), widths, left=starts, color=color, height=0.7)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, line in enumerate(lines):
        _whisker(ax, line, "seconds_per_step", place, 1e3)
    ax.set_xlabel("ms per step")


def _ratio(ax: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        ratio = line.ratios.get("seconds_per_step")
        if ratio is None:
            continue
        ends = ratio.interval
        if ends is not None:
            ax.plot([ends.low, ends.high], [place, place], color=style.INK, linewidth=1.2)
        ax.plot([ratio.median], [place], marker="o", color=style.INK, linestyle="")
    ax.axvline(1.0, color=style.EQUAL_LINE, linestyle="--", linewidth=1)
    ax.set_xlabel("seconds per step over LoRA's")


def _bytes(ax: Axes, lines: Sequence[Line], column: str, label: str, scale: float) -> None:
    for place, line in enumerate(lines):
        value = line.values.get(column)
        if value is not None:
            per = scale / (line.fixed["kept_tokens"] or 1) if column == "kept_bytes" else scale
            ax.barh([place], [value.median * per], color=style.PALETTE[2], height=0.7)
    ax.set_xlabel(label)


def _whisker(ax: Axes, line: Line, column: str, place: int, scale: float) -> None:
    ends = line.values[column].interval
    if ends is not None:
        ax.plot([scale * ends.low, scale * ends.high], [place, place], color=style.INK, linewidth=1.2)


def shift(figure: Figure, axes: Sequence[Axes], inches: float) -> None:
    """Move all panels to the right, for the names of the cases."""
    width = figure.get_size_inches()[0]
    for ax in axes:
        box = ax.get_position()
        ax.set_position((box.x0 + inches / width, box.y0, box.width, box.height))


def _facts(df: pd.DataFrame) -> str:
    first = df.iloc[0]
    known = isinstance(first["git_commit"], str)
    commit = first["git_commit"][:7] + ("+" if first["git_dirty"] else "") if known else "unknown"
    rounds = int(df["repeat"].max()) + 1
    busy = "" if set(df["timing_mode"]) == {"isolated"} else "; THE DEVICE WAS BUSY: not to be trusted"
    return (
        f"Study {first['study']}; task {first['task']}; model {first['model']}; batches of {first['batch_size']}, "
        f"{first['precision']}; {rounds} round{'s' if rounds != 1 else ''}; device {first['device']}, "
        f"{first['threads']} threads; commit {commit}{busy}"
    )
