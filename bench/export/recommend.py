"""The winning cell, its score over fresh seeds where there are some, and a study that repeats it. Pure.

The cell as code to paste is in `bench/export/as_code.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

from bench.comparison.arms import fresh_trials
from bench.core import keys, record
from bench.core.cells import BestCell, Score, best_cells, objective
from bench.core.spec import TrainBudget, Trial
from bench.study import layer
from bench.study.as_toml import value as toml_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The best cell of all methods that are given, by what its method's best cell was chosen by."""

    cell: BestCell
    objective: float  # mean of select_metric (metric_value where nothing was held out), a diverged seed as the worst
    n_cells: int  # it was chosen from, all methods together
    fresh: BestCell | None = None  # the same cell with the fresh seeds of a comparison, where one has run


def with_fresh(winner: Winner, rows: Sequence[Mapping[str, Any]], *, higher_is_better: bool) -> Winner:
    """Return the winner with its score over fresh seeds, out of the rows of a comparison; as it is where none is its.

    Its seeds had no part in choosing it, so their mean is the one to quote.
    """
    # A comparison evaluates its fresh runs more often, which is part of their ids but changes no score.
    tuned = winner.cell.trial
    ways = dict.fromkeys((tuned, *fresh_trials(tuned, (tuned.seed,))))
    found = [(trial_of_row(row, way), Score.of_row(row), way.cell) for row in rows for way in ways]
    mine = [(trial, score) for trial, score, cell in found if trial is not None and trial.cell == cell]
    scores = {score.trial_id: score for _, score in mine}
    best = best_cells([trial for trial, _ in mine], scores, higher_is_better=higher_is_better)
    return replace(winner, fresh=best[0]) if best and best[0].mean is not None else winner


def choose(trials: Sequence[Trial], scores: Mapping[str, Score], *, higher_is_better: bool) -> Winner | None:
    """Return the best cell of all methods, None where no trial is finished or every one has diverged.

    Of equals the first in the order of `trials` comes first: methods are listed from the cheaper ones on.
    """
    best = best_cells(trials, scores, higher_is_better=higher_is_better)
    good = [cell for cell in best if cell.mean is not None]
    if not good:
        return None
    sign = 1.0 if higher_is_better else -1.0
    values = [_objective(cell, trials, scores, higher_is_better=higher_is_better) for cell in good]
    place = max(range(len(good)), key=lambda i: (sign * values[i], -i))
    n_cells = len({trial.cell for trial in trials if trial.trial_id in scores})
    return Winner(cell=good[place], objective=values[place], n_cells=n_cells)


def trial_of_row(row: Mapping[str, Any], like: Trial) -> Trial | None:
    """Return the trial of a stored row, with budget, meaning and version of `like`; None where it is another study's.

    It serves the rows of a search, whose trials no grid lists.
    """
    shared: dict[str, Any] = {"budget": like.budget, "meaning": like.meaning, "spec_version": like.spec_version}
    trial = Trial(**record.trial_settings(row) | shared)
    return trial if trial.trial_id == row["trial_id"] else None


def study_toml(trial: Trial, seeds: Sequence[int], *, task: str, model: str, comment: str) -> str:
    """Return a study file of this harness with the one cell; `task` and `model` as a study gives them."""
    lines = [f"# {' '.join(comment.split())}", f"task = {toml_value(task)}", f"model = {toml_value(model)}"]
    lines += [f"seeds = {toml_value(list(seeds))}", "", "[train]"]
    budget = {f.name: _budget_value(f.name, trial.budget) for f in fields(TrainBudget)}
    lines += [f"{name} = {toml_value(value)}" for name, value in budget.items() if value is not None]
    lines += ["", f"[grid.{toml_value(trial.method)}]"]
    own = [key for key in layer.grid_keys(trial.method, "method") if key != "lr_ratio" and key not in keys.SWEPT]
    values = {key: getattr(trial, key) for key in own}
    lines += [f"{key} = {toml_value(_axis(value))}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _objective(
    cell: BestCell, trials: Sequence[Trial], scores: Mapping[str, Score], *, higher_is_better: bool
) -> float:
    mine = [scores[t.trial_id] for t in trials if t.trial_id in scores and t.cell == cell.trial.cell]
    return fmean(objective(score, higher_is_better=higher_is_better) for score in mine)


def _budget_value(name: str, budget: TrainBudget) -> object:
    value = getattr(budget, name)
    return 0 if name == "max_grad_norm" and value is None else value


def _axis(value: Any) -> Any:
    """Return one value of an axis as a grid holds it: a list is a list of values, so one that is itself a list."""
    return [list(value)] if isinstance(value, tuple) else value
