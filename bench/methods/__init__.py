"""The methods: one file each, named as in studies and rows; this directory is the registry.

A file defines `METHOD`, a `Method` (see `_base.py`). Files whose name begins with `_` are not methods. Nothing here
imports torch at module level: `bench plan` lists and counts methods without it. What a method is called, looks like
and costs is asked of it: nothing outside this directory tests for a method's name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from bench.core import registry
from bench.core.spec import SERIES, Trial
from bench.methods._base import Identity, LayerShape, Method

__all__ = [
    "BASELINE", "FAMILY", "PLUS", "Identity", "LayerShape", "Method", "get", "identity", "label", "named", "names",
]  # fmt: skip

BASELINE, PLUS = "lora", "lora+"  # what the others are compared with, and the same with a rate of its own for B
FAMILY = (BASELINE, PLUS)  # whose cells share a grid of (eta_A, eta_B)


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "method") -> Method:
    """Return the method called `name`; BadInput if there is none."""
    method: Method = registry.load(sys.modules[__name__], name, "METHOD", where=where)
    return method


def identity(of: Trial | Mapping[str, Any], *, method: str | None = None) -> Identity:
    """Return what a trial, or a row with the columns SERIES, is compared as; `method`: in the grid of that method."""
    own, *kinds = (of[name] if isinstance(of, Mapping) else getattr(of, name) for name in SERIES)
    return _identity(method or str(own), next((int(kind) for kind in kinds if kind is not None and kind == kind), None))


def named(name: str) -> Identity:
    """Return the identity whose arm or series is `name`; one that is `name` throughout, where rows hold no such."""
    return _known().get(name) or Method.identity_of(name)


def label(name: str) -> str:
    """Return what a method, arm or series is called in texts and figures: LoRA+, MoRA type 6."""
    return named(name).label


@cache
def _identity(method: str, kind: int | None) -> Identity:
    return get(method).identity(kind) if method in names() else Method.identity_of(method, kind)


@cache
def _known() -> dict[str, Identity]:
    methods = [get(name) for name in names()]
    found = [method.identity(kind) for method in methods for kind in (None, *method.looks)]
    return {name: one for one in found for name in (one.arm, one.series)}
