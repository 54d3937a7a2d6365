"""Optuna's Hyperband (Li et al. 2018, arXiv:1603.06560): several halvings that begin at different steps.

Each trial belongs to one of them, and stops where it is not among the best third that came to its rung.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.pruners._base import Pruner

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


def _pruner(first: int, last: int) -> BasePruner:
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min_resource=first, max_resource=last, reduction_factor=3)


PRUNER = Pruner(new=_pruner)
