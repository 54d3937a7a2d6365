"""The settings that a study varies beside its rates, as axes of a figure; what goes along with one is no other axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.study import varying
from plots.settings import Panel, keys_of, split
from plots.tidy import CellTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A setting with several values. `along`: settings with one value for each of its own, and the reverse."""

    name: str
    along: tuple[str, ...]

    @property
    def label(self) -> str:
        """What stands at the axis."""
        return " / ".join(varying.named(name, "") for name in (self.name, *self.along))

    def words(self, cell: pd.Series[Any]) -> str:
        """Return a cell's values on the axis."""
        values = [varying.value(cell.to_dict(), name) for name in (self.name, *self.along)]  # type: ignore[arg-type]
        return " / ".join(varying.spelled(n, v) for n, v in zip((self.name, *self.along), values, strict=True))


RANK = Axis(name="rank", along=())  # drawn where nothing varies


def axes_of(table: CellTable) -> Iterator[Axis]:
    """Yield the axes among the settings that vary, in the order of captions."""
    keys = keys_of(table.cells, table.varying)
    done = set[str]()
    for name in table.varying:
        if name not in done:
            others = [other for other in table.varying if other not in done and other != name]
            along = tuple(o for o in others if _fixes(keys, name, o) and _fixes(keys, o, name))
            done |= {name, *along}
            yield Axis(name=name, along=along)


def panels_of(table: CellTable, axis: Axis) -> list[Panel]:
    """Return panels of cells that share all settings but method, rates and those of an axis that they all have.

    Settings that follow from the axis (lora_alpha = 2 rank) part no panels.
    """
    own = table.where(keys_of(table.cells, [axis.name])[axis.name].notna())
    keys = keys_of(own.cells, own.varying)
    follow = [name for name in own.varying if name == axis.name or _fixes(keys, axis.name, name)]
    return split(own, within=follow)


def is_number(table: CellTable, axis: Axis) -> bool:
    """Return whether an axis has a logarithm: numbers above 0 throughout."""
    values = keys_of(table.cells, [axis.name])[axis.name].dropna()
    return all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < math.inf for v in values)


def _fixes(keys: pd.DataFrame, name: str, other: str) -> bool:
    """Return whether each value of a setting comes with one value of another."""
    both = keys[[name, other]].dropna()
    return len(both) > 0 and bool(both.groupby(name, sort=False)[other].nunique().max() == 1)
