"""Optuna's studies of stored rows, in memory: what its importances and figures are made from, without a storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import InMemoryStorage

from bench.core.spec import MethodGrid
from bench.sweep.optuna_mirror.bridge import Bridge
from bench.sweep.optuna_mirror.mirror import entry_of
from bench.sweep.optuna_mirror.space import space_of


def studies_of(
    rows: Sequence[Mapping[str, Any]], grids: Sequence[MethodGrid], *, higher_is_better: bool
) -> dict[str, optuna.Study]:
    """Return a study for each method that finished rows are of, by method, each trial as a sweep tells it.

    `grids` say whether the rate of B is an axis as lr_ratio (see `space_of`).
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    storage = InMemoryStorage()
    bridge = Bridge(storage, None, higher_is_better=higher_is_better)
    for method, members in by_method.items():
        space = space_of(members, next((grid for grid in grids if grid.method == method), None))
        bridge.recover(method, [entry_of(space, row, higher_is_better=higher_is_better) for row in members], also={})
    return {method: optuna.load_study(study_name=method, storage=storage) for method in by_method}
