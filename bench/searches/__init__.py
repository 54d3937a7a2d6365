"""The searches: one file each, named as `sampler` in studies; this directory is the registry.

A file defines `SEARCH`, a `Search` (see `_base.py`). Nothing here imports Optuna at module level.
"""

from __future__ import annotations

import sys

from bench.core import registry
from bench.searches._base import Search

__all__ = ["Search", "get", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all searches, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "sampler") -> Search:
    """Return the search called `name`; BadInput if there is none."""
    search: Search = registry.load(sys.modules[__name__], name, "SEARCH", where=where)
    return search
