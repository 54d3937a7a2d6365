"""A resolved study as TOML: every value, followed by the file, the profile or the option that gives it. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from bench import methods
from bench.core import keys
from bench.core.spec import MethodGrid, Study
from bench.study import layer
from bench.study.layer import Layer

DEFAULT = "default"
WIDTH = 100  # a longer list is written over several lines
UNSET = {"target_modules": "those of the architecture", "layers_to_transform": "all"}  # where the default is None
Line = tuple[str, str]  # what a line of TOML says, and where it comes from


def text(study: Study, merged: Layer) -> str:
    """Return TOML that gives the same study under every profile, with the origin of each value in a comment.

    What a grid leaves to the method's defaults stands there as a comment: a value would be a new axis.
    """
    blocks = ["\n".join([*_heading(study), *_aligned(_settings(study, merged))])]
    blocks.append("\n".join(["[train]", *_aligned(_train(study, merged))]))
    for grid in study.grids:
        blocks.append("\n".join([f"[{layer.grid_table(grid.method)}]", *_aligned(_grid(grid, merged))]))
    return "\n\n".join(blocks) + "\n"


def value(given: object) -> str:
    """Return a value as TOML writes it; JSON's texts, lists and numbers are TOML's too.

    None, alone or in a list, is "no clipping", which a file gives as 0.

    Raises:
        ValueError: for a number that is not finite.
    """
    if isinstance(given, float) and not isinstance(given, bool):
        if not math.isfinite(given):
            raise ValueError(f"a study holds finite numbers, but got {given}")
        digits = repr(given)
        return digits if "." in digits or "e" in digits else f"{digits}.0"
    if isinstance(given, list | tuple):
        given = [0 if one is None else one for one in given]
    return json.dumps(0 if given is None else given, ensure_ascii=False)


def _heading(study: Study) -> Iterator[str]:
    """Yield the comments at the top; line 1 stays empty where the file has no figure there."""
    yield f"# {study.figure}" if study.figure else ""
    yield f"# Profile {study.profile}. Each value is followed by the file or the option that gives it."


def _settings(study: Study, merged: Layer) -> Iterator[Line]:
    for key in keys.TOP:
        given = getattr(study, key)
        if given is not None:
            by_default = f"{DEFAULT} of task {study.task}" if key == "model" else DEFAULT
            yield f"{key} = {_wrapped(given)}", _source(merged, key, by_default)


def _train(study: Study, merged: Layer) -> Iterator[Line]:
    for key in keys.TRAIN:
        given = merged.train[key] if key in merged.train else getattr(study.budget, key)
        by_default = f"{DEFAULT}, max_steps" if key == "eval_steps" else DEFAULT
        yield f"{key} = {value(given)}", _source(merged, f"train.{key}", by_default)


def _grid(grid: MethodGrid, merged: Layer) -> Iterator[Line]:
    reads = methods.get(grid.method).reads
    for key in layer.grid_keys(grid.method, grid.method):
        values = grid.axis(key)
        if values is not None:
            yield f"{key} = {_wrapped(_axis(values))}", merged.axis_origin(grid.method, key).source
        elif key in keys.DEFAULTS and (key in reads or key in keys.EVERY_METHOD):
            default = keys.DEFAULTS[key]
            said = UNSET.get(key, "none") if default is None else value(default)
            yield f"# {key} = {said}", DEFAULT


def _source(merged: Layer, name: str, by_default: str) -> str:
    return merged.origins[name].source if name in merged.origins else by_default


def _axis(values: tuple[Any, ...]) -> Any:
    """Return an axis as a grid holds it: one value, or a list; of target_modules a list is one value."""
    if len(values) == 1:
        return values[0]
    return [list(one) if isinstance(one, tuple) else one for one in values]


def _wrapped(given: Any) -> str:
    """Return a value as TOML, a long list over several lines."""
    line = value(given)
    if len(line) <= WIDTH or not isinstance(given, list | tuple):
        return line
    lines = [""]
    for item in (f"{value(one)}, " for one in given):
        if len(lines[-1]) + len(item) > WIDTH:
            lines.append("")
        lines[-1] += item
    return "\n".join(["[", *(f"    {one.rstrip()}" for one in lines if one), "]"])


def _aligned(lines: Iterator[Line]) -> list[str]:
    """Return the lines, their origins as comments in one column beside all but the long ones."""
    given = list(lines)
    width = max((len(said) for said, _ in given if len(said) <= WIDTH // 2), default=0)
    return [f"{said.ljust(width)}  # {source}" for said, source in given]
