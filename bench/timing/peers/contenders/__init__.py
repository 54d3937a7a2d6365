"""The contenders: one file each; this directory is the registry. Files that begin with `_` are not contenders."""

from __future__ import annotations

import sys

from bench.core import registry
from bench.timing.peers.contenders._base import Block, Contender, Session

__all__ = ["Block", "Contender", "Session", "get", "names"]


def names() -> tuple[str, ...]:
    """Return the keys of all contenders, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "--only") -> Contender:
    """Return the contender called `name`; BadInput if there is none."""
    contender: Contender = registry.load(sys.modules[__name__], name, "CONTENDER", where=where)
    return contender
