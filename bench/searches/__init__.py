"""The searches: one file each, named as `sampler` in studies; this directory is the registry.

A file defines `SEARCH`, a `Search` (see `_base.py`). Nothing here imports Optuna at module level.
"""

from __future__ import annotations

import sys

from bench.core import registry
from bench.core.spec import Study
from bench.searches._base import Search
from bench.searches._rungs import Rungs, group_of, leading

__all__ = ["Rungs", "Search", "get", "group_of", "leading", "names", "rungs_of", "stops", "widens"]


def names() -> tuple[str, ...]:
    """Return the names of all searches, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "sampler") -> Search:
    """Return the search called `name`; BadInput if there is none."""
    search: Search = registry.load(sys.modules[__name__], name, "SEARCH", where=where)
    return search


def rungs_of(study: Study) -> Rungs | None:
    """Return the rungs of a study's search, None where every trial trains to its end."""
    usual = get(study.sampler).rungs
    if usual is None:
        return None
    return Rungs(shares=study.rungs or usual.shares, keep=study.keep or usual.keep)


def stops(study: Study) -> bool:
    """Return whether some of a study's trials stop before their end."""
    return study.pruner is not None or rungs_of(study) is not None


def widens(study: Study) -> bool:
    """Return whether a study grows where its best trials lie on its border: as it says, else all but whole grids."""
    return not get(study.sampler).whole if study.widen is None else study.widen
