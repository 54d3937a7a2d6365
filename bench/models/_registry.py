"""The registered models: the files of this directory whose names do not begin with `_`."""

from __future__ import annotations

import sys
from types import ModuleType

from bench.core import registry
from bench.models._base import Model


def names() -> tuple[str, ...]:
    """Return the names of all registered models, sorted."""
    return registry.names(_package())


def get(name: str, *, where: str = "model") -> Model:
    """Return the registered model called `name`; BadInput if there is none."""
    model: Model = registry.load(_package(), name, "MODEL", where=where)
    return model


def _package() -> ModuleType:
    return sys.modules[str(__package__)]
