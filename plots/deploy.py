"""Adapters on one base: a request alone, requests per second in a batch, bytes of the weights, way by way.

Takes the rows of `bench deploy` (bench.timing.deploy.rows.SCHEMA) and the lines that its summary makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.timing.deploy.summary import Line
from bench.timing.methods.summary import Value
from plots import page, style
from plots.speed import shift

_ROW = 0.24  # inches
NAMES = 2.0  # inches, of the ways


def ways(df: pd.DataFrame, lines: Sequence[Line]) -> Figure:
    """Draw three panels, a row for each way: milliseconds of a request alone, requests per second, MiB of weights."""
    note = "Medians over interleaved rounds; lines: order statistics of the rounds; alone: a switch included"
    with style.settings():
        height = _ROW * len(lines) + 0.2
        figure, axes = page.panels(
            [(2.4, height)] * 3, text=f"{_facts(df)}. {note}.", far_right=NAMES, per_row=3,
            margins=page.Margins(left=0.2, right=0.25, bottom=0.6),
        )  # fmt: skip
        shift(figure, axes, NAMES)
        _bars(axes[0], [line.latency for line in lines], "ms of a request alone", 1e3, style.PALETTE[0])
        _bars(axes[1], [line.throughput for line in lines], "requests per second, at once", 1.0, style.PALETTE[2])
        sizes = [None if line.weight_bytes is None else line.weight_bytes / 2**20 for line in lines]
        axes[2].barh(range(len(lines)), [size or 0.0 for size in sizes], color=style.PALETTE[9], height=0.7)
        axes[2].set_xlabel("weights, MiB")
        for place, line in enumerate(lines):
            if line.refused is not None:
                for ax in axes:
                    ax.text(0.02, place, line.refused, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
        for i, ax in enumerate(axes):
            names = [f"{line.kind}, {line.way}" if line.kind != "no adapter" else line.kind for line in lines]
            ax.set_yticks(range(len(lines)), names if i == 0 else [""] * len(lines))
            ax.set_ylim(len(lines) - 0.4, -0.6)
            ax.set_xlim(left=0)
            ax.grid(visible=False, axis="y")
        return figure


def _bars(ax: Axes, values: Sequence[Value | None], label: str, scale: float, color: str) -> None:
    for place, value in enumerate(values):
        if value is None:
            continue
        ax.barh([place], [scale * value.median], color=color, height=0.7)
        if value.interval is not None:
            ends = [scale * value.interval.low, scale * value.interval.high]
            ax.plot(ends, [place, place], color=style.INK, linewidth=1.2)
    ax.xaxis.set_major_locator(MaxNLocator(4))  # three panels side by side: numbers of five digits would touch
    ax.set_xlabel(label)


def _facts(df: pd.DataFrame) -> str:
    first = df.iloc[0]
    busy = "" if first["timing_mode"] == "isolated" else "; the device was busy: compare ratios, not times"
    base = "" if first["base_precision"] == "same" else " in 4 bits"
    return (
        f"{first['n_adapters']} adapters on {first['model']}{base}; {first['batch_size']} prompts of {first['task']}; "
        f"{first['precision']}; {int(df['repeat'].max()) + 1} rounds, clock {first['clock']}; "
        f"device {first['device']}, {first['threads']} threads{busy}"
    )
