"""Reads results/<study>/comparison.json back into a Comparison: every field checked, unknown versions refused."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bench.comparison.numbers import COMPARISON_VERSION, Comparison
from bench.core.errors import BadInput

FILE_NAME = "comparison.json"


def read(directory: Path) -> Comparison | None:
    """Return the comparison of a study's results directory, None where none was run.

    Raises:
        BadInput: for a file that is not one of ours, or of another version.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("version") if isinstance(raw, dict) else None
        if version != COMPARISON_VERSION:
            raise ValueError(f"version {version!r} instead of {COMPARISON_VERSION}")
        document = {key: value for key, value in raw.items() if key != "verdict"}  # sentences, made anew where needed
        found: Comparison = parse(Comparison, document, "comparison")
    except (OSError, ValueError, RecursionError) as error:
        way_out = "run bench compare again, or remove the file"
        raise BadInput(
            str(path), "must be a comparison of this version", got=str(error)[:200], way_out=way_out
        ) from None
    return found


def parse(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value as `kind`: dataclasses, tuples, mappings, unions, literals and plain types.

    "inf" stands for an infinite number (see bench/comparison/numbers.py).

    Raises:
        ValueError: naming the field that does not fit.
    """
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else parse(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal and value in arguments:
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    return _plain(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    names = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    if not isinstance(value, dict) or not needed <= set(value) <= names:
        raise ValueError(f"{where} must have the fields {', '.join(sorted(needed))}")
    hints = get_type_hints(kind)
    return kind(**{name: parse(hints[name], value[name], f"{where}.{name}") for name in value})


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and value == "inf":
        return math.inf
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where} must be {getattr(kind, '__name__', kind)}, but is {value!r}")
