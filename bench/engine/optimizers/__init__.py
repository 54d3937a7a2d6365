"""The optimizers: one file each, named as in studies and rows; this directory is the registry.

A file defines `RULE`, an `UpdateRule` (see `_base.py`). Nothing here imports torch at module level: the memory model
of `bench/schedule/planner.py` asks for a rule's bytes without it.
"""

from __future__ import annotations

import sys
from dataclasses import fields

from bench.core import registry
from bench.core.spec import TrainBudget
from bench.engine.optimizers._base import Part, UpdateRule

__all__ = ["Part", "UpdateRule", "names", "of"]


def names() -> tuple[str, ...]:
    """Return the names of all optimizers, sorted."""
    return registry.names(sys.modules[__name__])


def of(budget: TrainBudget) -> UpdateRule:
    """Return the update rule of `budget.optimizer` with the budget's settings; BadInput if there is none."""
    rule: type[UpdateRule] = registry.load(sys.modules[__name__], budget.optimizer, "RULE", where="optimizer")
    return rule(**{setting.name: getattr(budget, setting.name) for setting in fields(rule)})
