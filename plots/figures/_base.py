"""What a figure of a study's rows is: which rows it applies to, and what it draws of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from plots.tidy import StudyInfo

Made = Iterator[tuple[str, Figure | str]]  # by file name without ending: a figure, or why it is left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of one task and model (columns of bench.core.record.SCHEMA); `clip` as the study's."""

    df: pd.DataFrame
    study: StudyInfo
    clip: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of figure: `FIGURE` of its file. Each form yields nothing for rows that it does not apply to."""

    place: int  # in the set, small ones first
    full: Callable[[Rows], Made] | None = None
    paper: Callable[[Rows], Made] | None = None  # in the form of the LoRA+ paper's figures
    of_all: bool = False  # one figure of all tasks and models


def file_name(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text) if text not in ("zero_B", "zero_A") else text
