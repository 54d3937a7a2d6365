"""Trackers of experiments, named as in transformers' `report_to`: one file each; this directory is the registry.

A file defines `open_tracker(group, directory)`, which imports the tracker's library. Nothing here does.
"""

from __future__ import annotations

import sys

from bench.core import registry
from bench.core.errors import BadInput
from bench.trackers._base import Open
from bench.trackers._reporter import Reporter

__all__ = ["Reporter", "get", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all trackers, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "--report-to") -> Open:
    """Return what opens the tracker called `name`.

    Raises:
        BadInput: for a name that is not known, and where its library is not installed.
    """
    opens: Open = registry.load(sys.modules[__name__], name, "open_tracker", where=where)
    library: str = registry.load(sys.modules[__name__], name, "LIBRARY", where=where)
    if not _installed(library):
        way_out = f"pip install {library}, or leave {where} out"
        raise BadInput(where, f"needs the library {library}", got="none installed", way_out=way_out)
    return opens


def _installed(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is not None
