"""The cells beyond the border of a grid: one more log step wherever the best cell of a method has no neighbour. Pure.

The cells that are added follow from the rows alone, so a resumed sweep adds the same ones, and whoever reads the rows
finds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench import methods, searches
from bench.core import cells
from bench.core.cells import Score
from bench.core.rules import round_rate
from bench.core.spec import SERIES, Study, Trial
from bench.methods._base import Method


def beyond(
    study: Study, grid: Sequence[Trial], scores: Mapping[str, Score], *, higher_is_better: bool,
    so_far: Sequence[Trial] = (), fits: Callable[[Trial], bool] = lambda trial: True,
) -> tuple[Trial, ...]:  # fmt: skip
    """Return the trials to add to a grid that has ended, with those added `so_far`; none where best cells lie inside.

    At most `max_extra` of the grid's trials are added in all, and only such as `fits` says the model can hold.
    """
    if not searches.widens(study):
        return ()
    room = int(study.max_extra * len(grid) + 1e-9) - len(so_far)
    trials = (*grid, *so_far)
    known = {trial.trial_id for trial in trials}
    found: dict[str, Trial] = {}
    for best in cells.best_cells(trials, scores, higher_is_better=higher_is_better):
        for cell in _missing(study, best.trial, trials):
            seeds = dict.fromkeys(trial.seed for trial in trials)
            new = [one for seed in seeds if fits(one := replace(cell, seed=seed)) and one.trial_id not in known]
            if len({*found, *(one.trial_id for one in new)}) <= room:
                found |= {one.trial_id: one for one in new}
    return tuple(found.values())


def read(
    study: Study, grid: Sequence[Trial], scores: Mapping[str, Score], *, higher_is_better: bool
) -> tuple[Trial, ...]:  # fmt: skip
    """Return the trials that were added to a grid and have rows."""
    added: tuple[Trial, ...] = ()
    has_row = functools.partial(_is_in, scores)
    while more := beyond(study, grid, scores, higher_is_better=higher_is_better, so_far=added, fits=has_row):
        added += more
    return added


def _is_in(scores: Mapping[str, Score], trial: Trial) -> bool:
    return trial.trial_id in scores


def told(added: Iterable[Trial]) -> str:
    """Return cells in words: which method, at which rates and rank."""
    words = []
    for trial in added:
        second = "" if trial.lr_ratio in (None, 1) else f", lambda {trial.lr_ratio:g}"
        rank = "" if trial.rank is None else f", rank {trial.rank}"
        words.append(f"{methods.identity(trial).arm} at eta_A {trial.eta_A:.1e}{second}{rank}")
    return "; ".join(words)


def _missing(study: Study, best: Trial, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Yield the neighbours of the best cell that no trial has: a log step down and one up on each axis."""
    method = methods.get(best.method)
    together = (best.method, method.at_equal_rates)
    near = [trial for trial in trials if trial.method in together and _series(trial) == _series(best)]
    for name in _axes(study, method, near):
        values = sorted({_of(trial, name) for trial in near} - {None})
        place, line = values.index(_of(best, name)), {_of(t, name) for t in near if _same_but(t, best, name, study)}
        steps = {-1: values[place - 1 :: -1] if place else [], 1: values[place + 1 :]}
        for side, there in steps.items():
            if line & set(there):
                continue
            value = there[0] if there else _next(values, side, whole=name == "rank")
            cell = None if value is None else _at(best, name, value, study, near)
            if cell is not None and (study.min_lr_ratio is None or (cell.lr_ratio or 1e300) >= study.min_lr_ratio):
                yield cell


def _axes(study: Study, method: Method, near: Iterable[Trial]) -> list[str]:
    """Return the axes that can grow: those with two values at the least."""
    second = "eta_B" if _by_eta_B(study, method.name) else "lr_ratio"
    names = ["eta_A", *([second] if method.at_equal_rates is not None else []), "rank"]
    trials = list(near)
    return [name for name in names if len({_of(trial, name) for trial in trials} - {None}) > 1]


def _next(values: Sequence[Any], side: int, *, whole: bool) -> Any:
    """Return the value one log step beyond the end of an axis, None where there is none."""
    end, inner = (values[-1], values[-2]) if side > 0 else (values[0], values[1])
    value = end * end / inner
    if whole:
        return round(value) if round(value) >= 1 and round(value) != end else None
    return round_rate(value)


def _at(best: Trial, name: str, value: Any, study: Study, near: Sequence[Trial]) -> Trial | None:
    """Return the cell with this value; what is tied to it goes along. None: a cell of another method's grid."""
    changes: dict[str, Any] = {}
    if name == "rank":
        changes["rank"] = value
        scales = {t.lora_alpha / t.rank for t in near if t.lora_alpha is not None and t.rank is not None}
        if len(scales) == 1:
            changes["lora_alpha"] = float(scales.pop() * value)
    elif name == "lr_ratio":
        changes["eta_B"] = round_rate(best.eta_A * value)
    elif name == "eta_B":
        changes["eta_B"] = value
    else:
        changes["eta_A"] = value
        if best.eta_B is not None and (best.lr_ratio == 1 or not _by_eta_B(study, best.method)):
            changes["eta_B"] = round_rate(value * (best.lr_ratio or 1.0))
    cell = replace(best, **changes)
    # at equal rates a LoRA+ cell is LoRA, and not added for LoRA+'s sake
    return None if cell.eta_B == cell.eta_A and methods.get(cell.method).at_equal_rates is not None else cell


def _same_but(trial: Trial, best: Trial, name: str, study: Study) -> bool:
    """Return whether a trial lies on the line through the best cell along an axis."""
    tied = {"rank": ("rank", "lora_alpha"), "lr_ratio": ("eta_B",), "eta_B": ("eta_B",), "eta_A": ("eta_A",)}[name]
    if name == "eta_A" and not _by_eta_B(study, best.method):
        tied = ("eta_A", "eta_B")
        if trial.lr_ratio != best.lr_ratio:
            return False
    free: dict[str, Any] = {
        "seed": best.seed,
        "method": best.method,
        "loraplus_lr_embedding": best.loraplus_lr_embedding,
    }
    free |= {key: getattr(best, key) for key in tied}
    return replace(trial, **free).trial_id == best.trial_id


def _of(trial: Trial, name: str) -> Any:
    return getattr(trial, name)


def _series(trial: Trial) -> tuple[Any, ...]:
    return tuple(getattr(trial, name) for name in SERIES if name != "method")


def _by_eta_B(study: Study, method: str) -> bool:
    return any(grid.method == method and grid.axis("eta_B") is not None for grid in study.grids)
