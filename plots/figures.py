"""Every figure that a study's rows can give, by name; `python -m bench plot` saves them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from plots import curves, dimension, forms, heatmap, levels, page, rank, rates, ratio, scatter, speedup, steps
from plots.grid import View
from plots.tidy import CellTable, Measure, StudyInfo, rows_of_study

_LEAST_FILLED = 0.3  # share of the positions of a heatmap; below, its cells are points of a scatter
_OTHER_VIEW = 0.6  # the same for the view over lambda: a grid of eta_A x eta_B has as many ratios as cells
FORMS = ("full", "paper", "column", "paper-column")
FigureForm = Literal["full", "paper", "column", "paper-column"]
_PAPER_MEASURES: tuple[Measure, ...] = ("metric_value", "eval_loss", "train_loss")
Made = Iterator[tuple[str, Figure | str]]  # a figure, or why it is left out


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

    `heatmap_eta_B_<init>` and `heatmap_lr_ratio_<init>` where LoRA's and LoRA+'s cells are a grid in that view,
    `scatter_<init>` where they are not (an adaptive search), `rates` where a method has several, `rank` where there are
    several ranks, `dimension` where random subspaces stand beside full fine-tuning, `curves` where curves of two or
    more evaluations are stored and `curves_by_rank` where the cells shown there differ in rank, `steps_<panel>` where
    the grid is too fine for numbers. Several tasks or models make a set each, its names begun with them. No finished
    row of the study: no figures.

    Form "paper" gives the LoRA+ paper's instead (arXiv:2402.12354): `paper_<metric>_<init>` and the two losses, in the
    form of its figures 3 on, cells worse than `clip` in one colour; `steps_<panel>` (2); `ratio` (6), one for all tasks
    and models; `speedup` (7). "column" and "paper-column" give the same for one column of a paper (`plots.page`), the
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


def _all(df: pd.DataFrame, study: StudyInfo, *, paper: bool, clip: float | None) -> Made:
    rows, _ = rows_of_study(df, study)
    groups = sorted(set(zip(rows["task"], rows["model"], strict=True)))
    some = False
    for task, model in groups:
        prefix = f"{_file_name(task)}_{_file_name(model)}_" if len(groups) > 1 else ""
        one_df, one_study = _only(df, study, task, model) if len(groups) > 1 else (df, study)
        if rows_of_study(one_df, one_study)[0]["status"].isin(("ok", "diverged")).any():
            some = True
            drawn = _in_paper_form(one_df, one_study, clip) if paper else _of_one(one_df, one_study)
            yield from ((prefix + name, figure) for name, figure in drawn)
    if paper and some:
        table = ratio.tidy(df, study)
        if table.pairs["lr_ratio"].nunique() > 1:
            yield "ratio", ratio.draw(table)


def _of_one(df: pd.DataFrame, study: StudyInfo) -> Made:
    """Yield the figures of one task and model."""
    yield from _of_pairs(df, study)
    single = rates.tidy(df, study)
    if _several_rates(single):
        yield "rates", rates.draw(single)
    best = rank.tidy(df, study)
    if best.cells["rank"].nunique() > 1:
        yield "rank", rank.draw(best)
    of_subspaces = dimension.tidy(df, study)
    if of_subspaces.readings:
        yield "dimension", dimension.draw(of_subspaces)
    trained = curves.tidy(df, study)
    if trained.points["step"].nunique() > 1:
        yield "curves", curves.draw(trained)
        if "rank" in trained.best.varying and trained.best.cells["rank"].nunique() > 1:
            yield "curves_by_rank", curves.draw(curves.tidy(df, study, by_rank=True))
    elif len(trained.points):
        yield "curves", "the runs were evaluated once, at their last step; fewer eval_steps give curves"


def _of_pairs(df: pd.DataFrame, study: StudyInfo) -> Made:
    """Yield what shows both rates of the LoRA family."""
    pairs = heatmap.tidy(df, study)
    trivial = levels.trivial(df)
    clip = None if trivial is None else levels.CLIP * trivial.of(pairs.metric_name)
    for init in sorted(pairs.cells["init"].dropna().unique()):
        table, name = pairs.where(pairs.cells["init"] == init), _file_name(init)
        form = forms.FULL if heatmap.is_roomy(table) else forms.PAPER_TOY
        if is_grid(table, "eta_B"):
            yield f"heatmap_eta_B_{name}", heatmap.draw(table, view="eta_B", form=form, clip=clip)
        elif scatter.is_worth(table):
            yield f"scatter_{name}", scatter.draw(table)
            yield f"heatmap_eta_B_{name}", "the pairs of rates are no grid: scatter shows them"
        if is_grid(table, "lr_ratio"):
            yield f"heatmap_lr_ratio_{name}", heatmap.draw(table, view="lr_ratio", form=form, clip=clip)
        elif is_grid(table, "eta_B"):
            reason = "the grid is one of eta_A and eta_B: over lambda most positions would be empty"
            yield f"heatmap_lr_ratio_{name}", reason
    if len(pairs.cells) and is_grid(pairs, "eta_B") and not heatmap.is_roomy(pairs):
        yield from _steps(df, study)


def _steps(df: pd.DataFrame, study: StudyInfo) -> Made:
    """Yield one figure for each loss and step: a panel is as large as a page."""
    table = steps.tidy(df, study)
    for title, one in table.panels:
        name = _file_name(title.replace("t = ", "t").replace(",", ""))
        yield f"steps_{name}", steps.draw(replace(table, panels=((title, one),)))


def _in_paper_form(df: pd.DataFrame, study: StudyInfo, clip: float | None) -> Made:
    """Yield the figures of one task and model as the LoRA+ paper draws them."""
    for measure in _PAPER_MEASURES:
        pairs = heatmap.tidy(df, study, measure=measure)
        if measure != "metric_value" and pairs.metric_name == "eval_loss" and _metric_is_loss(df):
            continue  # the metric itself, drawn already
        for init in sorted(pairs.cells["init"].dropna().unique()):
            table = pairs.where(pairs.cells["init"] == init)
            if is_grid(table, "eta_B") and heatmap.is_roomy(table):
                clipped = clip if measure == "metric_value" else None
                yield (
                    f"paper_{_file_name(pairs.metric_name)}_{_file_name(init)}",
                    heatmap.draw(table, form=forms.PAPER, clip=clipped),
                )
    pairs = heatmap.tidy(df, study)
    if len(pairs.cells) and is_grid(pairs, "eta_B") and not heatmap.is_roomy(pairs):
        yield from _steps(df, study)
    read = speedup.tidy(df, study)
    if read.readings or read.unread:
        yield "speedup", speedup.draw(read)


def _metric_is_loss(df: pd.DataFrame) -> bool:
    return set(df["metric_name"].dropna()) == {"eval_loss"}


def is_grid(table: CellTable, view: View) -> bool:
    """Return whether the cells are a grid worth a heatmap: several rates on both axes, enough positions between them.

    A grid fills its own view; sheared, into the other one, 7 x 4 cells fill a third of it. n cells of a search fill
    one n-th. Over lambda less than a full grid is mostly holes between ratios that occur once.
    """
    nx, ny = table.cells["eta_A"].nunique(), table.cells[view].nunique()
    distinct = len(table.cells[["eta_A", view]].drop_duplicates())
    least = _LEAST_FILLED if view == "eta_B" else _OTHER_VIEW
    return nx > 1 and table.cells["lr_ratio"].nunique() > 1 and distinct >= least * nx * ny


def _several_rates(table: CellTable) -> bool:
    return len(table.cells) > 0 and bool((table.cells.groupby("series")["eta_A"].nunique() > 1).any())


def _only(df: pd.DataFrame, study: StudyInfo, task: str, model: str) -> tuple[pd.DataFrame, StudyInfo]:
    """Return rows and trials of one task and model; rows of no planned trial stay, to be counted in the caption."""
    if study.trials is None:
        return df[(df["task"] == task) & (df["model"] == model)], study
    trials = tuple(t for t in study.trials if (t.task, t.model) == (task, model))
    elsewhere = {t.trial_id for t in study.trials} - {t.trial_id for t in trials}
    return df[~df["trial_id"].isin(elsewhere)], replace(study, trials=trials)


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text) if text not in ("zero_B", "zero_A") else text
