"""Which settings tell the panels of a figure apart, which its lines; those that all cells share are in the caption.

What varies is `CellTable.varying`, worked out from all cells of the study: its best cells may agree by chance.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from bench.core import record
from bench.core.spec import SERIES, TrainBudget, Trial
from bench.study import varying
from plots.tidy import CellTable

Panel = tuple[str, CellTable]

# Not worth a word in a caption while they are what a trial has unless told otherwise.
_DEFAULTS: dict[str, Any] = {f.name: f.default for kind in (Trial, TrainBudget) for f in fields(kind)} | {
    "lora_dropout": 0.0, "use_rslora": False, "layers_to_transform": varying.NULL,
}  # fmt: skip
_ALWAYS = (
    "rank",
    "head_policy",
    "max_steps",
    "batch_size",
    "max_length",
    "optimizer",
    "lr_scheduler_type",
    "precision",
)
# Told in other words, or by none that a reader could use.
_HIDDEN = ("task", "model", "data_hash", "model_hash", "spec_version")


def split(table: CellTable, *, within: Sequence[str] = ()) -> list[Panel]:
    """Return (title, cells) of each panel: cells that share every varying setting but method, rates and those `within`.

    A cell whose method does not read a setting (full fine-tuning has no rank) is in the panel of each of its values.
    No cells: no panels.
    """
    columns = [name for name in table.varying if name not in within]
    keys = keys_of(table.cells, columns)
    panels = [(key, _matches(keys, key)) for key in _specific(keys)]
    return [(_title(columns, key), table.where(mask)) for key, mask in panels if mask.any()]


def keys_of(cells: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the settings of each cell: None where its method does not read one, "none" where it is null."""
    records = cells[["method", *columns]].to_dict("records")
    found = [[varying.value(one, name) for name in columns] for one in records]  # type: ignore[arg-type]
    return pd.DataFrame(found, columns=list(columns), index=cells.index, dtype=object)


def fixed_text(table: CellTable) -> str:
    """Return in words the settings that do not vary, without those at their defaults that nobody asks for."""
    names = [name for name in varying.ORDER if name not in (*table.varying, *_HIDDEN, *SERIES, *varying.RATES)]
    keys = keys_of(table.cells, names)
    parts = []
    for name in names:
        values = keys[name].dropna().unique()
        if len(values) > 1:  # it repeats one that varies
            parts.append(f"{name} = {_source(table, name)}")
        elif len(values) and not _unknown(name, values[0]) and (name in _ALWAYS or not _usual(name, values[0])):
            parts.append(varying.named(name, values[0]))
    return ", ".join(parts)


def _usual(name: str, value: Any) -> bool:
    return bool(value == _DEFAULTS.get(name))


def _unknown(name: str, value: Any) -> bool:
    """Return whether a null is no value of the setting: of a row older than it, or that does not tell it."""
    unread = isinstance(_DEFAULTS.get(name), bool) or not (name in record.SETTINGS and record.SETTINGS[name].nullable)
    return bool(value == varying.NULL) and unread


def _source(table: CellTable, name: str) -> str:
    records: Any = table.cells[["method", name, *table.varying]].to_dict("records")
    return next((other for other in table.varying if varying.repeats(name, other, records)), "several")


def _specific(keys: pd.DataFrame) -> list[tuple[Hashable, ...]]:
    """Return the distinct settings, sorted, without those that a more specific one covers."""
    if keys.empty:
        return [()] if len(keys.index) else []
    found = {tuple(None if pd.isna(v) else v for v in row) for row in keys.itertuples(index=False)}
    covered = {k for k in found if any(k != other and _covers(k, other) for other in found)}
    return sorted(found - covered, key=varying.order)


def _covers(general: tuple[Hashable, ...], other: tuple[Hashable, ...]) -> bool:
    return all(g is None or g == o for g, o in zip(general, other, strict=True))


def _matches(keys: pd.DataFrame, key: tuple[Hashable, ...]) -> pd.Series[bool]:
    mask = pd.Series(True, index=keys.index)
    for name, value in zip(keys.columns, key, strict=True):
        mask &= keys[name].isna() | (keys[name] == value)
    return mask


def _title(columns: Sequence[str], key: Sequence[Any]) -> str:
    return ", ".join(varying.named(n, v) for n, v in zip(columns, key, strict=True) if v is not None)
