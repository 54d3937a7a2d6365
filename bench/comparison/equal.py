"""Grids made equal in size: the comparison study of a task that has none, out of the task's default study. Pure.

A method with one rate gets a finer eta_A over the range of its own grid, so that it tries as many cells as one that
searches two rates. Ranks are narrowed to the one that all grids have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.comparison import arms
from bench.comparison.arms import Arm
from bench.core.errors import BadInput
from bench.core.spec import MethodGrid, Study
from bench.study import expand
from bench.study.layer import Layer, Origin

DIGITS = 4  # of a rate between the ends of a grid


def equalled(study: Study, merged: Layer) -> tuple[Study, Layer]:
    """Return the study with grids of equal size, and where each value of it comes from.

    Raises:
        BadInput: where no finer eta_A makes them so: a grid of one rate, one that `min_lr_ratio` cuts, several ranks.
    """
    grids = _at_one_rank(study.grids)
    of_grid = [arms_of(replace(study, grids=(grid,))) for grid in grids]
    counts = [Counter({arm.name: arm.n_cells for arm in found}) for found in of_grid]
    # n cells of an arm are n / k values of eta_A times k cells for each of them; n must be a multiple of every k.
    per_rate = [max(c.values()) // len(grid.axis("eta_A") or ()) or 1 for c, grid in zip(counts, grids, strict=True)]
    step = math.lcm(*per_rate)
    n = step * math.ceil(max(max(c.values()) for c in counts) / step)
    made = tuple(_finer(grid, n // k, study) for grid, k in zip(grids, per_rate, strict=True))
    equal = replace(study, grids=made)
    arms.check(equal, arms_of(equal))
    axes, origins = {name: dict(given) for name, given in merged.grids.items()}, dict(merged.origins)
    for old, new in zip(study.grids, made, strict=True):
        for key, values in new.axes:
            if values != old.axis(key):
                axes[new.method][key] = values
                source = f"{merged.axis_origin(new.method, key).source}, made equal in size by compare"
                origins[f"grid.{new.method}.{key}"] = Origin(where=source, source=source)
    return equal, replace(merged, grids=axes, origins=origins)


def arms_of(study: Study) -> tuple[Arm, ...]:
    """Return the arms of a study, before it is known which data and base model its trials stand on."""
    return arms.arms_of(
        (grid.method, expand(replace(study, grids=(grid,)), data_hash="", model_hash="", default_targets=()))
        for grid in study.grids
    )


def _at_one_rank(grids: Sequence[MethodGrid]) -> tuple[MethodGrid, ...]:
    """Return the grids with the one rank that all that name ranks have; as they are where it is not one."""
    ranks = [set(grid.axis("rank") or ()) for grid in grids if grid.axis("rank")]
    shared = set.intersection(*ranks) if ranks else set()
    if len(shared) != 1:
        return tuple(grids)
    return tuple(_with(grid, "rank", tuple(shared)) if grid.axis("rank") else grid for grid in grids)


def _finer(grid: MethodGrid, n: int, study: Study) -> MethodGrid:
    """Return the grid with n values of eta_A, evenly spaced on the log axis between the ends that it has."""
    etas = sorted(grid.axis("eta_A") or ())
    if len(etas) == n:
        return grid
    if len(etas) < 2:
        rule = f"must hold two rates or more, or its grid cannot be made as large as the others ({n} rates)"
        where = f"compare, study {study.name}, {grid.method}.eta_A"
        raise BadInput(where, rule, got=etas[0], way_out="give the ends of its range")
    inner = [float(f"{rate:.{DIGITS}g}") for rate in np.geomspace(etas[0], etas[-1], n)[1:-1]]
    return _with(grid, "eta_A", (etas[0], *inner, etas[-1]))


def _with(grid: MethodGrid, key: str, values: tuple[object, ...]) -> MethodGrid:
    return replace(grid, axes=tuple((name, values if name == key else old) for name, old in grid.axes))
