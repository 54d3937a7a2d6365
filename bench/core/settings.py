"""What is declared of a setting beside its type and its default.

A setting is one field of Trial, TrainBudget or Study (bench/core/spec.py), annotated with a Setting. Command-line
options, make variables, keys of study files, columns of rows, axes of searches and what figures are split by are
derived from it (see `bench.core.keys`).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bench.core import rules

Place = Literal["grid", "train", "setting", "choice"]  # [grid] and [adapter], [train], top level, command line only


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting; `key`, `place` and `type` are those of the field, filled in by `of`."""

    check: rules.Check | None = None  # of one value; None: neither a file nor an option gives it
    parse: Callable[[str, str], Any] | None = None  # text of the command line -> what TOML would hold; see `read`
    flags: tuple[str, ...] = ()  # of its option: the first is shown and names the make variable; none: no option
    help: str = ""
    default_words: str = (
        ""  # what stands for the default in docs/reference/study-keys.md, where its value does not tell
    )
    meaning: str = ""  # of its column in a row; none: no column
    unit: str = ""
    usual: Any = None  # what a grid that does not name it gets
    every_method: bool = False  # whether a grid may hold it whatever its method reads
    in_adapter: bool = True  # whether [adapter] may give it for all grids
    # What Optuna sees of it: a learning rate, a number, a number where it varies; None: a choice that a search holds.
    axis: Literal["rate", "always", "varied"] | None = None
    searched: bool = True  # whether TPE searches the axis
    swept: bool = False  # of [train]: whether it may be a list, which is an axis of every grid, or an axis of one grid
    log: bool = False  # whether the axis is searched on a log scale
    key: str = ""
    place: Place = "grid"
    type: Any = str

    @property
    def variable(self) -> str:
        """The make variable: the first flag in capitals."""
        return self.flags[0].removeprefix("--").replace("-", "_").upper()

    @property
    def kind(self) -> type:
        """What `kind_of` says of the field's type."""
        return kind_of(self.type)

    @property
    def nullable(self) -> bool:
        """Whether None is a value of the field."""
        return types.NoneType in get_args(self.type)

    def value(self, given: Any, where: str) -> Any:
        """Return a value that is not an axis, checked; of a list each item."""
        assert self.check is not None
        if self.kind is not tuple:
            return self.check(given, where)
        return self._several(given if isinstance(given, list) else [given], where)

    def values(self, given: Any, where: str) -> tuple[Any, ...]:
        """Return the values of a grid axis, each checked: one value, or a list of different ones."""
        several = isinstance(given, list) and (self.kind is not tuple or any(isinstance(item, list) for item in given))
        return self._several(given if several else [given], where)

    def read(self, text: str) -> Any:
        """Return the value, or the axis, that a command line gives; of what may be several a comma list."""
        where = self.flags[0]
        if self.parse is not None:
            given = self.parse(text, where)
        elif self.swept and "," in text:
            return self.values(rules.scalars(text, where), where)
        elif self.place == "grid" or self.kind is tuple:
            items = rules.scalars(text, where)
            given = [items] if self.place == "grid" and self.kind is tuple else items
        else:
            given = rules.scalar(text)
        return self.values(given, where) if self.place == "grid" else self.value(given, where)

    def _several(self, items: list[Any], where: str) -> tuple[Any, ...]:
        assert self.check is not None
        values = tuple(self.check(item, where) for item in items)
        rules.check_items(values, where)
        return values


@functools.cache
def kind_of(hint: Any) -> type:
    """Return int, float, bool, bytes, tuple (a list in itself) or str (any other type) of a type that may be None."""
    given = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = {get_origin(one) or one for one in given} - {types.NoneType}
    if tuple in found:
        return tuple
    return found.pop() if len(found) == 1 and found <= {int, float, bool, bytes} else str


@functools.cache
def of(declaring: type, place: Place) -> Mapping[str, Setting]:
    """Return the settings that a dataclass declares, by name, in the order of its fields."""
    hints = get_type_hints(declaring, include_extras=True)
    found = {}
    for name in (f.name for f in fields(declaring)):
        for one in getattr(hints[name], "__metadata__", ()):
            found[name] = replace(one, key=name, place=place, type=hints[name].__origin__)
    return found
