"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization).

Points of one pack are asked at once; each takes those asked before it for bad (constant liar), so that they spread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.searches._base import Search

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def _sampler(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


SEARCH = Search(sampler=_sampler)
