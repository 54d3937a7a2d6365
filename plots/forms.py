"""What a heatmap shows beside its colours, and the colours that its panels share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
from matplotlib.colors import Normalize


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a heatmap shows beside its colours."""

    numbers: Literal["all", "best", "none"]  # best: of the best cell and of the best with equal rates, in red
    near: frozenset[str]  # which nearness to the best is marked: "percent" (within 1 %), "stderr" (within one)
    outlines: bool  # of the best cell and of the best with equal rates
    equal_line: Literal["solid", "dashed"] | None
    tick_every: int = 1  # cells


FULL = Form(numbers="all", near=frozenset({"percent", "stderr"}), outlines=True, equal_line="solid")
PAPER = Form(numbers="best", near=frozenset(), outlines=False, equal_line=None)  # arXiv:2402.12354, figures 3 on
PAPER_TOY = Form(  # its figure 2
    numbers="none", near=frozenset({"percent"}), outlines=False, equal_line="dashed", tick_every=6
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The colours of all panels: `norm` from value to [0, 1], and what lies beyond its ends."""

    norm: Normalize
    cmap: mpl.colors.Colormap
    extend: Literal["neither", "min", "max"]
