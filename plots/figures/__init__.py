"""Every figure that a study's rows can give, by name; `python -m bench plot` saves them.

This directory is the registry: a file whose name does not begin with `_` is one kind of figure. It defines `FIGURE`, a
`Kind` (see `_base.py`), which says what rows it applies to and draws them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from bench.core import registry
from plots import page
from plots.figures._base import Kind, Made, Rows, file_name
from plots.tidy import StudyInfo, rows_of_study

FORMS = ("full", "paper", "column", "paper-column")
FigureForm = Literal["full", "paper", "column", "paper-column"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureSet:
    """Figures by file name without ending, and why those are left out that the rows do not give."""

    drawn: dict[str, Figure]
    left_out: dict[str, str]


def all_figures(
    df: pd.DataFrame, study: StudyInfo | None = None, *, form: FigureForm = "full", clip: float | None = None
) -> dict[str, Figure]:
    """Return the figures of `figure_set`."""
    return figure_set(df, study, form=form, clip=clip).drawn


def figure_set(
    df: pd.DataFrame, study: StudyInfo | None = None, *, form: FigureForm = "full", clip: float | None = None
) -> FigureSet:
    """Return the figures of the rows in `df` (columns of bench.core.record.SCHEMA).

    Several tasks or models make a set each, its names begun with them. No finished row of the study: no figures.

    Form "paper" gives the figures as the LoRA+ paper has them (arXiv:2402.12354), cells worse than `clip` in one
    colour. "column" and "paper-column" give the same for one column of a paper (`plots.page`), the
    names begun with `column_`.
    """
    study = study or StudyInfo()
    narrow = form.endswith("column")
    with page.on(page.COLUMN if narrow else page.FULL):
        made = dict(_all(df, study, paper=form.startswith("paper"), clip=clip))
    prefix = "column_" if narrow else ""
    return FigureSet(
        drawn={prefix + name: found for name, found in made.items() if isinstance(found, Figure)},
        left_out={prefix + name: found for name, found in made.items() if isinstance(found, str)},
    )


def kinds() -> list[Kind]:
    """Return every kind of figure in the order of the set."""
    here = sys.modules[__name__]
    found = [registry.load(here, name, "FIGURE", where="figure") for name in registry.names(here)]
    return sorted(found, key=lambda kind: kind.place)


def _all(df: pd.DataFrame, study: StudyInfo, *, paper: bool, clip: float | None) -> Made:
    rows, _ = rows_of_study(df, study)
    groups = sorted(set(zip(rows["task"], rows["model"], strict=True)))
    some = False
    for task, model in groups:
        prefix = f"{file_name(task)}_{file_name(model)}_" if len(groups) > 1 else ""
        one_df, one_study = _only(df, study, task, model) if len(groups) > 1 else (df, study)
        if rows_of_study(one_df, one_study)[0]["status"].isin(("ok", "diverged")).any():
            some = True
            one = Rows(df=one_df, study=one_study, clip=clip)
            yield from ((prefix + name, figure) for name, figure in _made(one, paper=paper, of_all=False))
    if some:
        yield from _made(Rows(df=df, study=study, clip=clip), paper=paper, of_all=True)


def _made(rows: Rows, *, paper: bool, of_all: bool) -> Made:
    for kind in kinds():
        form = kind.paper if paper else kind.full
        if form is not None and kind.of_all == of_all:
            yield from form(rows)


def _only(df: pd.DataFrame, study: StudyInfo, task: str, model: str) -> tuple[pd.DataFrame, StudyInfo]:
    """Return rows and trials of one task and model; rows of no planned trial stay, to be counted in the caption."""
    if study.trials is None:
        return df[(df["task"] == task) & (df["model"] == model)], study
    trials = tuple(t for t in study.trials if (t.task, t.model) == (task, model))
    elsewhere = {t.trial_id for t in study.trials} - {t.trial_id for t in trials}
    return df[~df["trial_id"].isin(elsewhere)], replace(study, trials=trials)
