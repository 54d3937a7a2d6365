"""What an Optuna study says of its seeds: Optuna has trials alone, and knows no cells."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from statistics import variance

from optuna.trial import FrozenTrial

from bench.core.record import Status


def attributes(trials: Iterable[FrozenTrial], cells: Mapping[str, Hashable]) -> dict[str, float | int | None]:
    """Return the user attributes of a study from its complete trials; `cells` maps a trial_id to its cell.

    `n_cells`: cells with a score. `n_seeds`: the most scores in one cell. `spread`: the standard deviation of a trial's
    value over seeds, pooled over cells, sqrt(sum (n - 1) s^2 / sum (n - 1)); null where no cell has two scores.
    """
    values: dict[Hashable, list[float]] = {}
    for trial in trials:
        trial_id = trial.user_attrs.get("trial_id")
        if trial_id in cells and trial.user_attrs.get("status") == Status.OK and trial.value is not None:
            values.setdefault(cells[trial_id], []).append(trial.value)
    several = [some for some in values.values() if len(some) > 1]
    freedom = sum(len(some) - 1 for some in several)
    squares = sum((len(some) - 1) * variance(some) for some in several)
    return {
        "n_cells": len(values),
        "n_seeds": max(map(len, values.values()), default=0),
        "spread": math.sqrt(squares / freedom) if freedom else None,
    }
