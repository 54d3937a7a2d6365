"""Every figure that a study's rows can give, by name; `python -m bench plot` saves them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from plots import curves, dimension, heatmap, levels, rank, rates, ratio, speedup, steps
from plots.grid import View
from plots.tidy import CellTable, Measure, StudyInfo, rows_of_study

_LEAST_FILLED = 0.1  # share of the positions of a heatmap
FigureForm = Literal["full", "paper"]
_PAPER_MEASURES: tuple[Measure, ...] = ("metric_value", "eval_loss", "train_loss")
_VIEWS: tuple[View, ...] = ("eta_B", "lr_ratio")


def all_figures(
    df: pd.DataFrame, study: StudyInfo | None = None, *, form: FigureForm = "full", clip: float | None = None
) -> dict[str, Figure]:
    """Return the figures of the rows in `df` (columns of bench.record.SCHEMA), by file name without ending.

    `heatmap_eta_B_<init>` and `heatmap_lr_ratio_<init>` where LoRA's and LoRA+'s cells are a grid (the rates of an
    adaptive search are not), `rates` where a method with one rate has several, `rank` where there are several ranks,
    `dimension` where random subspaces stand beside full fine-tuning, `curves` where curves are stored and
    `curves_by_rank` where the cells shown there differ in rank, `steps` where the grid is too fine for numbers.
    Several tasks or models make a set each, its names begun with them. No finished row of the study: no figures.

    Form "paper" gives the LoRA+ paper's instead (arXiv:2402.12354): `paper_<metric>_<init>` and the two losses, in the
    form of its figures 3 on, cells worse than `clip` in one colour; `steps` (2); `ratio` (6), one for all tasks and
    models; `speedup` (7).
    """
    study = study or StudyInfo()
    rows, _ = rows_of_study(df, study)
    groups = sorted(set(zip(rows["task"], rows["model"], strict=True)))
    figures: dict[str, Figure] = {}
    for task, model in groups:
        prefix = f"{_file_name(task)}_{_file_name(model)}_" if len(groups) > 1 else ""
        one_df, one_study = _only(df, study, task, model) if len(groups) > 1 else (df, study)
        if rows_of_study(one_df, one_study)[0]["status"].isin(("ok", "diverged")).any():
            drawn = _of_one(one_df, one_study) if form == "full" else _in_paper_form(one_df, one_study, clip)
            figures |= {prefix + name: figure for name, figure in drawn}
    if form == "paper" and figures:
        table = ratio.tidy(df, study)
        if len(table.pairs):
            figures["ratio"] = ratio.draw(table)
    return figures


def _of_one(df: pd.DataFrame, study: StudyInfo) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of one task and model."""
    pairs = heatmap.tidy(df, study)
    trivial = levels.trivial(df)
    clip = None if trivial is None else levels.CLIP * trivial.of(pairs.metric_name)
    for init in sorted(pairs.cells["init"].dropna().unique()):
        table = pairs.where(pairs.cells["init"] == init)
        for view in _VIEWS:
            if is_grid(table, view):
                form = heatmap.FULL if heatmap.is_roomy(table) else heatmap.PAPER_TOY
                yield f"heatmap_{view}_{_file_name(init)}", heatmap.draw(table, view=view, form=form, clip=clip)
    if len(pairs.cells) and is_grid(pairs, "eta_B") and not heatmap.is_roomy(pairs):
        yield "steps", steps.draw(steps.tidy(df, study))
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
    if len(trained.points):
        yield "curves", curves.draw(trained)
        if trained.best.cells["rank"].nunique() > 1:
            yield "curves_by_rank", curves.draw(curves.tidy(df, study, by_rank=True))


def _in_paper_form(df: pd.DataFrame, study: StudyInfo, clip: float | None) -> Iterator[tuple[str, Figure]]:
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
                    heatmap.draw(table, form=heatmap.PAPER, clip=clipped),
                )
    pairs = heatmap.tidy(df, study)
    if len(pairs.cells) and is_grid(pairs, "eta_B") and not heatmap.is_roomy(pairs):
        yield "steps", steps.draw(steps.tidy(df, study))
    read = speedup.tidy(df, study)
    if read.readings:
        yield "speedup", speedup.draw(read)


def _metric_is_loss(df: pd.DataFrame) -> bool:
    return set(df["metric_name"].dropna()) == {"eval_loss"}


def is_grid(table: CellTable, view: View) -> bool:
    """Return whether the cells are a grid worth a heatmap: several rates on both axes, few positions between them.

    The sheared view of a grid fills a fifth of its positions or more; n cells of a search fill one n-th.
    """
    nx, ny = table.cells["eta_A"].nunique(), table.cells[view].nunique()
    distinct = len(table.cells[["eta_A", view]].drop_duplicates())
    return nx > 1 and table.cells["lr_ratio"].nunique() > 1 and distinct >= _LEAST_FILLED * nx * ny


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
