"""Which settings tell the panels of a figure apart, and which are the same for all cells and go into the caption."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import pandas as pd

from bench import methods
from plots.tidy import SETTINGS, CellTable

_AXES = ("method", "mora_type", "eta_A", "eta_B")  # told apart by position or series within a panel
_FIRST = ("task", "model", "rank", "init")  # what names a panel before anything else does
_PANEL = (*_FIRST, *(name for name in SETTINGS if name not in (*_AXES, *_FIRST)))
_METHOD_FIELDS = (
    "rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "layers_to_transform",
    "loraplus_lr_embedding", "mora_rounding",
)  # fmt: skip
_NULL = "none"  # a null that is a value (no clipping, all layers), unlike a setting that the method does not read

Panel = tuple[str, CellTable]


def split(table: CellTable, *, within: Sequence[str] = ()) -> list[Panel]:
    """Return (title, cells) of each panel: cells that share every setting but method, rates and those `within`.

    A cell whose method does not read a setting (full fine-tuning has no rank) is in the panel of each of its values.
    A setting that follows from others (lora_alpha = rank) makes no panels. No cells: no panels.
    """
    keys = _keys(table.cells)
    columns = _telling(keys, within)
    panels = [(key, _matches(keys[columns], key)) for key in _specific(keys[columns])]
    return [(_title(columns, key), table.where(mask)) for key, mask in panels if mask.any()]


def fixed_text(table: CellTable) -> str:
    """Return in words the settings that all cells share (those that a reader needs to repeat the study)."""
    keys = _keys(table.cells)

    def value(name: str) -> Any:
        values = keys[name].dropna().unique()
        return values[0] if len(values) == 1 else None

    def words(name: str, form: str) -> str:
        found = value(name)
        return "" if found is None or found == _NULL else form.format(_plain(name, found))

    parts = [
        words("init", "init {}"),
        words("lora_alpha", "lora_alpha {}"),
        words("target_modules", "targets {}"),
        words("head_policy", "head policy {}"),
        words("max_steps", "{} steps") + words("batch_size", " of batch {}"),
        words("lr_scheduler_type", "{} schedule"),
        words("precision", "{}"),
    ]
    return ", ".join(part for part in parts if part)


def _keys(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the panel settings of each cell: nan where its method does not read one, _NULL where it is null."""
    keys = cells[list(_PANEL)].astype(object)
    for name in _PANEL:
        null = keys[name].isna()
        unread = pd.Series([not _reads(method, name) for method in cells["method"]], index=cells.index)
        keys[name] = keys[name].where(~null, _NULL).where(~(null & unread), None)
    return keys


@cache
def _reads(method: str, name: str) -> bool:
    if name not in _METHOD_FIELDS:
        return True
    return method in methods.names() and name in methods.get(method).reads


def _telling(keys: pd.DataFrame, within: Sequence[str]) -> list[str]:
    """Return the settings that take several values among cells which agree in `within` and the ones before."""
    told: list[str] = []
    for name in (name for name in _PANEL if name not in within):
        known = [*within, *told]
        groups = keys.groupby(known, dropna=False)[name] if known else [(None, keys[name])]
        if any(values.nunique() > 1 for _, values in groups) or name in _FIRST[2:]:  # rank and init are always named
            told.append(name)
    return told


def _specific(keys: pd.DataFrame) -> list[tuple[Hashable, ...]]:
    """Return the distinct settings, sorted, without those that a more specific one covers."""
    found = {tuple(None if pd.isna(v) else v for v in row) for row in keys.itertuples(index=False)}
    return sorted((k for k in found if not any(k != other and _covers(k, other) for other in found)), key=_order)


def _covers(general: tuple[Hashable, ...], other: tuple[Hashable, ...]) -> bool:
    return all(g is None or g == o for g, o in zip(general, other, strict=True))


def _order(key: tuple[Hashable, ...]) -> tuple[tuple[bool, bool, Any], ...]:
    return tuple((value is None, isinstance(value, str), 0 if value is None else value) for value in key)


def _matches(keys: pd.DataFrame, key: tuple[Hashable, ...]) -> pd.Series[bool]:
    mask = pd.Series(True, index=keys.index)
    for name, value in zip(keys.columns, key, strict=True):
        mask &= keys[name].isna() | (keys[name] == value)
    return mask


def _title(columns: Sequence[str], key: tuple[Hashable, ...]) -> str:
    named = zip(columns, key, strict=True)
    return ", ".join(f"{_spelled(n)} {_plain(n, v)}".strip() for n, v in named if v is not None)


def _spelled(name: str) -> str:
    return {"task": "", "model": "", "max_steps": "steps", "batch_size": "batch", "lr_scheduler_type": "schedule"}.get(
        name, name if name in _METHOD_FIELDS else name.replace("_", " ")
    )


def _plain(name: str, value: Any) -> str:
    if name in ("target_modules", "layers_to_transform") and value != _NULL:
        found = json.loads(value)
        return ", ".join(map(str, found)) if isinstance(found, list) else str(found)
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
