"""Optuna's median pruner (Golovin et al. 2017, Google Vizier, section 3.2.2).

A trial stops whose best value so far is worse than the median of the finished trials at that step, from five on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.pruners._base import Pruner

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


def _pruner(first: int, last: int) -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner()


PRUNER = Pruner(new=_pruner)
