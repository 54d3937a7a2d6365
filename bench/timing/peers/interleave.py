"""The order of interleaved repeats: every job once in each round, each round in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from bench.core.seeds import derive

Job = TypeVar("Job")


def interleaved(jobs: Sequence[Job], repeats: int, *, seed: int = 0) -> Iterator[tuple[int, Job]]:
    """Yield (round, job): each of `repeats` rounds holds every job once, shuffled anew.

    What drifts while a benchmark runs (temperature, other load) then falls on all jobs alike, and no job always
    follows the same other one. The order depends on nothing but the numbers given.
    """
    for i in range(repeats):
        order = np.random.Generator(np.random.Philox(derive("interleave", seed, i))).permutation(len(jobs))
        for place in order:
            yield i, jobs[int(place)]
