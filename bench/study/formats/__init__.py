"""Configurations of other programs as starting studies: one file each = one format; this directory is the registry.

A file defines `read(raw)`, which returns what it carried over of a parsed file as a `Draft`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.core import registry
from bench.study.formats._base import NAMES, Draft, parse, text

__all__ = ["NAMES", "Draft", "names", "study_of"]


def names() -> tuple[str, ...]:
    """Return the names of all formats, sorted."""
    return registry.names(sys.modules[__name__])


def study_of(name: str, path: Path, *, task: str | None = None, model: str | None = None) -> tuple[str, Draft]:
    """Return a study file as TOML made of a file in the format called `name`, and what it was made of.

    `task` and `model` take the place of those in the file.

    Raises:
        BadInput: for a file that cannot be read, and one that holds something else.
    """
    shown = str(path)
    draft: Draft = registry.load(sys.modules[__name__], name, "read", where="format")(parse(path), shown)
    draft.settle(task=task, model=model)
    return text(draft, shown), draft
