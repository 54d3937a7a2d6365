"""One layer of a study: the checked content of a TOML file, of one of its profiles, or of the command line.

Layers are laid over one another, last wins: file, then profile, then command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import methods
from bench.errors import BadInput, one_of
from bench.settings import fields

TABLES = ("train", "adapter", "grid")
Axes = Mapping[str, tuple[Any, ...]]  # key of fields.GRID_KEYS -> values


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Settings, [train], [adapter] and [grid.<method>] tables, every value in its final form."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    adapter: Axes = field(default_factory=dict)
    grids: Mapping[str, Axes] = field(default_factory=dict)


def read(raw: Mapping[str, Any], file: str, prefix: str = "") -> Layer:
    """Return the layer that the TOML tables `raw` hold; `prefix` is `profile.<name>.` inside a profile.

    Raises:
        BadInput: for an unknown table or key, and for a value that its key cannot hold.
    """
    tables = {name: value for name, value in raw.items() if isinstance(value, dict)}
    top = {name: value for name, value in raw.items() if not isinstance(value, dict)}
    where = f"{file} [{prefix.rstrip('.')}]" if prefix else file
    _check_names({**tables, **top}, (*TABLES, *fields.SETTING_KEYS), where, "key")
    _check_names(top, tuple(fields.SETTING_KEYS), where, "key")
    grids = tables.get("grid", {})
    return Layer(
        settings=_values(top, fields.setting, fields.SETTING_KEYS, f"{where}." if prefix else f"{where} "),
        train=_values(tables.get("train", {}), _train, fields.TRAIN_KEYS, f"{file} [{prefix}train]."),
        adapter=_values(tables.get("adapter", {}), fields.axis, fields.ADAPTER_KEYS, f"{file} [{prefix}adapter]."),
        grids={name: read_grid(name, axes, f"{file} [{prefix}{grid_table(name)}]") for name, axes in grids.items()},
    )


def read_grid(name: str, axes: object, where: str) -> Axes:
    """Return the axes of one method's grid, checked; keys that the method does not read are refused."""
    allowed = grid_keys(name, where)
    if not isinstance(axes, dict):
        raise BadInput(
            where, "must be a table", got=fields.shown(axes), way_out=f"write [{grid_table(name)}] and its keys below"
        )
    if "eta_B" in axes and "lr_ratio" in axes:
        raise BadInput(where, "must give eta_B or lr_ratio, not both", way_out="remove one: eta_B = lr_ratio * eta_A")
    return _values(axes, fields.axis, {key: fields.GRID_KEYS[key] for key in allowed}, f"{where}.")


def grid_keys(method: str, where: str) -> tuple[str, ...]:
    """Return the keys that a grid of this method may have: what the method reads, and its free learning rates."""
    reads = methods.get(method, where=where).reads
    rates = ("eta_A", "eta_B", "lr_ratio") if has_free_eta_B(method) else ("eta_A",)
    always = ("head_policy", *rates)
    return tuple(key for key in fields.GRID_KEYS if key in always or (key in reads and key != "eta_B"))


def has_free_eta_B(method: str) -> bool:
    """Return whether eta_B is an axis of the method. LoRA has an eta_B too, but it is eta_A."""
    return {"eta_B", "loraplus_lr_embedding"} <= methods.get(method).reads


def grid_table(method: str) -> str:
    """Return the TOML name of a method's table, quoted where TOML asks for it."""
    return f"grid.{method}" if method.replace("-", "").replace("_", "").isalnum() else f'grid."{method}"'


def merge(base: Layer, over: Layer) -> Layer:
    """Return `base` with what `over` holds in place of its own; a new eta_B drops an lr_ratio, and the reverse."""
    names = [*base.grids, *(name for name in over.grids if name not in base.grids)]
    return Layer(
        settings={**base.settings, **over.settings},
        train={**base.train, **over.train},
        adapter={**base.adapter, **over.adapter},
        grids={name: _merge_axes(base.grids.get(name, {}), over.grids.get(name, {})) for name in names},
    )


def _merge_axes(base: Axes, over: Axes) -> Axes:
    dropped = {"eta_B": "lr_ratio", "lr_ratio": "eta_B"}
    gone = {dropped[key] for key in over if key in dropped}
    return {**{key: values for key, values in base.items() if key not in gone}, **over}


def _values(raw: object, read_one: Callable[..., Any], keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return every key's value, checked; `where` is what stands before a key in an error."""
    place = where.rstrip(". ")
    if not isinstance(raw, dict):
        raise BadInput(
            place, "must be a table", got=fields.shown(raw), way_out="write it as [table] with its keys below"
        )
    _check_names(raw, tuple(keys), place, "key")
    return {key: read_one(key, value, where + key) for key, value in raw.items()}


def _train(key: str, value: Any, where: str) -> Any:
    return fields.TRAIN_KEYS[key](value, where)


def _check_names(given: Mapping[str, Any], known: tuple[str, ...], where: str, kind: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise BadInput(
            where, f"must hold known {kind}s only", got=fields.shown(unknown[0]), way_out=f"known: {one_of(known)}"
        )
