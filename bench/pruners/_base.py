"""What a pruner is: which trials of a search stop at an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruner:
    """One of Optuna's pruners; `new` takes the step of the first evaluation and the last step of the trials."""

    new: Callable[[int, int], BasePruner]
