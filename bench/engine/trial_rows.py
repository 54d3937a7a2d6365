"""Rows of K trials that are not equally many: which row is whose, for the layers that add each trial's own part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRows:
    """Rows in any number and order. A trial with fewer than B rows has its place filled with rows of others.

    What is computed for those is thrown away; no trial's numbers enter another's.
    """

    row_KxB: Tensor  # int64: the rows of each trial
    place_R: Tensor  # int64: where row r lies in row_KxB, flattened

    @classmethod
    def of(cls, trial_R: npt.NDArray[np.int64], n_trials: int, device: torch.device) -> TrialRows:
        """Return the layout of rows whose trials are `trial_R`."""
        counts_K = np.bincount(trial_R, minlength=n_trials)
        order, width = np.argsort(trial_R, kind="stable"), int(counts_K.max())
        within = np.arange(len(trial_R)) - np.repeat(np.cumsum(counts_K) - counts_K, counts_K)
        flat = trial_R[order] * width + within
        rows, places = np.zeros(n_trials * width, dtype=np.int64), np.empty(len(trial_R), dtype=np.int64)
        rows[flat], places[order] = order, flat
        return cls(
            row_KxB=torch.from_numpy(rows.reshape(n_trials, width)).to(device),
            place_R=torch.from_numpy(places).to(device),
        )

    def each(self, part: Callable[..., Tensor], *streams: Tensor) -> Tensor:
        """Return `part`, a map of each trial's [K, N, I] to [K, N, O], of rows [R, ..., I] or ids [R, T]."""
        n_trials, width = self.row_KxB.shape
        y_KxNxO = part(*(self._by_trial(x) for x in streams))
        return y_KxNxO.reshape(n_trials * width, -1, y_KxNxO.shape[-1])[self.place_R]

    def _by_trial(self, x: Tensor) -> Tensor:
        """Return each trial's rows in one axis: [K, N, I], or [K, N] of ids."""
        x_RxT = x.reshape(len(self.place_R), -1, *x.shape[-1:]) if x.is_floating_point() else x
        return x_RxT[self.row_KxB].flatten(1, 2)
