"""A directory as a registry: each module whose name does not begin with `_` defines one object, found by file name."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.core.errors import BadInput, one_of


def names(package: ModuleType) -> tuple[str, ...]:
    """Return the sorted names that `package` holds; `lora_plus.py` is `lora+`, `tiny_roberta.py` is `tiny-roberta`."""
    return _listed(*package.__path__)


def names_in(directory: str) -> tuple[str, ...]:
    """Return the names that a registry holds, given as its path below bench/; imports nothing.

    For a setting whose values are the files of a room above.
    """
    return _listed(str(Path(__file__).parents[1] / directory))


@functools.cache  # a study of thousands of trials asks for its methods and optimizers as often
def _listed(*path: str) -> tuple[str, ...]:
    modules = (m.name for m in pkgutil.iter_modules(path))
    return tuple(sorted(_public(module) for module in modules if not module.startswith("_")))


def load(package: ModuleType, name: str, attribute: str, *, where: str) -> Any:
    """Return `attribute` of the module called `name` in `package`; BadInput, with known names, if there is none."""
    known = names(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        kind = package.__name__.rsplit(".", 1)[-1]
        raise BadInput(
            where, f"must be one of the {kind} here", got=repr(name), way_out=f"{hint}known: {one_of(known)}"
        )
    return getattr(module(package, name), attribute)


def module(package: ModuleType, name: str) -> ModuleType:
    """Return the module called `name`, one of `names(package)`."""
    return importlib.import_module(f"{package.__name__}.{_module(name)}")


def _public(module: str) -> str:
    return module.removesuffix("_plus") + "+" if module.endswith("_plus") else module.replace("_", "-")


def _module(name: str) -> str:
    return name.replace("+", "_plus").replace("-", "_")
