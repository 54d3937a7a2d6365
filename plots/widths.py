"""The change of a layer's output by A's and by B's update over the layer's width, for three ways to scale the rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

from bench.theory.widths import SCALINGS, Scaling, Updates, exponents
from plots import page, style

HALVES = (
    ("of_A", r"$|B\,\Delta A\,x|$, A's update", style.PALETTE[0], "o"),
    ("of_B", r"$|\Delta B\,A\,x|$, B's update", style.PALETTE[1], "s"),
)


def draw(found: Sequence[Updates]) -> Figure:
    """Draw a panel for each scaling of the rates: medians over seeds and their quartiles, both axes logarithmic."""
    n_seeds = len({one.seed for one in found})
    text = (
        "LoRA of rank 1 on one layer with one output, AdamW, the last of 4 steps (Hayou et al. 2024, arXiv:2402.12354, "
        f"Theorem 1). Medians over {n_seeds} seeds, means over 8 examples; bands: quartiles over seeds; exponents: "
        "least squares on the medians, 95 % bootstrap intervals over seeds."
    )
    with style.settings():
        figure, axes = page.panels(
            [(2.9, 2.5)] * len(SCALINGS), text=text, titles=[title(scaling) for scaling in SCALINGS],
            legend=[Line2D([], [], color=c, marker=m, label=label) for _, label, c, m in HALVES],
            margins=page.Margins(bottom=0.6),
        )  # fmt: skip
        for ax, scaling in zip(axes, SCALINGS, strict=True):
            _panel(ax, [one for one in found if one.scaling == scaling], scaling)
        low = min(ax.get_ylim()[0] for ax in axes)
        high = max(ax.get_ylim()[1] for ax in axes)
        for ax in axes:
            ax.set_ylim(low, 30 * high)  # room for the exponents
        axes[0].set_ylabel("change of the output in one step")
        return figure


def title(scaling: Scaling) -> str:
    """Return how the rates change with the width n."""
    of_A, of_B = scaling.words
    return f"{style.ETA_A} = {of_A}, {style.ETA_B} = {of_B}"


def _panel(ax: Axes, own: Sequence[Updates], scaling: Scaling) -> None:
    widths = sorted({one.width for one in own})
    for (name, _, color, marker), exponent, height in zip(HALVES, exponents(own, scaling), (0.93, 0.85), strict=True):
        values_WxS = np.array([[getattr(one, name) for one in own if one.width == width] for width in widths])
        low, middle, high = np.quantile(values_WxS, (0.25, 0.5, 0.75), axis=1)
        ax.plot(widths, middle, color=color, marker=marker, gid=name)
        ax.fill_between(widths, low, high, color=color, alpha=0.2, linewidth=0)
        ax.annotate(f"exponent {exponent}", (0.03, height), xycoords="axes fraction", color=color, fontsize=page.pt(9))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(widths))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("width n")
