"""The pruners: one file each, named as `pruner` in studies; this directory is the registry.

A file defines `PRUNER`, a `Pruner` (see `_base.py`). Nothing here imports Optuna at module level.
"""

from __future__ import annotations

import sys

from bench.core import registry
from bench.pruners._base import Pruner

__all__ = ["Pruner", "get", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all pruners, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "pruner") -> Pruner:
    """Return the pruner called `name`; BadInput if there is none."""
    pruner: Pruner = registry.load(sys.modules[__name__], name, "PRUNER", where=where)
    return pruner
