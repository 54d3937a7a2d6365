"""The methods: one file each, named as in studies and rows; this directory is the registry.

A file defines `METHOD`, a `Method` (see `_base.py`). Files whose name begins with `_` are not methods. Nothing here
imports torch at module level: `bench plan` lists and counts methods without it.
"""

from __future__ import annotations

import sys

from bench.core import registry
from bench.methods._base import LayerShape, Method

__all__ = ["LayerShape", "Method", "get", "label", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "method") -> Method:
    """Return the method called `name`; BadInput if there is none."""
    method: Method = registry.load(sys.modules[__name__], name, "METHOD", where=where)
    return method


def label(name: str) -> str:
    """Return what a method is called in texts and figures; its name, where rows hold a method that is not here."""
    return get(name).label if name in names() else name


def arm_label(arm: str) -> str:
    """Return what an arm of a comparison, a method or one type of it, is called in texts: LoRA+, MoRA type 6."""
    method, _, rest = arm.partition(" ")
    return f"{label(method)} {rest}".strip()
