"""One layer of a study: the checked content of a TOML file, of one of its profiles, or of the command line.

Layers are merged one over another and the last one wins: the base's file, the base's profile, the study's file, the
study's profile, the command line. Each value keeps its origin, so that an error can name the file it stands in.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench import methods
from bench.core import keys, rules
from bench.core.errors import BadInput, one_of
from bench.core.settings import Setting

TABLES = ("train", "adapter", "grid")
DROP = "drop"
BY_DEVICE = "the device"  # the source of what neither a file nor an option gives
Axes = Mapping[str, tuple[Any, ...]]  # key of keys.GRID -> values


@dataclass(frozen=True, slots=True)
class Source:
    """A study file, or one of its profiles."""

    file: str
    profile: str | None = None

    def __str__(self) -> str:
        return self.file if self.profile is None else f"{self.file} [profile.{self.profile}]"

    def before(self, table: str = "") -> str:
        """Return what stands before a key of a table in an error; without a table, before a top-level key."""
        if self.profile is None:
            return f"{self.file} [{table}]." if table else f"{self.file} "
        return f"{self.file} [profile.{self.profile}{table and f'.{table}'}]."


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a value was written: `where` as an error names it (file, table, key), `source` the file or the option."""

    where: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Settings, [train], [adapter] and [grid.<method>] tables, every value in its final form.

    `origins` is by dotted name: `seeds`, `train.max_steps`, `grid.lora.eta_A`.
    `drop` lists the dotted names of values and tables that the layers below lose before this one is merged over them.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    adapter: Axes = field(default_factory=dict)
    grids: Mapping[str, Axes] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    def states(self, name: str) -> bool:
        """Return whether a file or an option gives the value with this dotted name."""
        return name in self.origins and self.origins[name].source != BY_DEVICE

    def where(self, name: str) -> str:
        """Return how an error names the value with this dotted name."""
        return self.origins[name].where

    def axis_origin(self, method: str, key: str) -> Origin:
        """Return where an axis of a method's grid was written: in the grid, else in [adapter] or [train]."""
        names = (f"grid.{method}.{key}", f"adapter.{key}", f"train.{key}")
        return next(self.origins[name] for name in names if name in self.origins)

    @property
    def names(self) -> frozenset[str]:
        """The dotted names of every value and of every grid."""
        return frozenset(self.origins) | {f"grid.{name}" for name in self.grids}


def read(raw: Mapping[str, Any], source: Source) -> Layer:
    """Return the layer that the TOML tables `raw` hold: those of a file, or of one of its profiles.

    Raises:
        BadInput: for an unknown table or key, and for a value that its key cannot hold.
    """
    _check_names(raw, (*TABLES, *keys.TOP, DROP), source.before().rstrip(". "), "key")
    top = {key: value for key, value in raw.items() if key not in (*TABLES, DROP)}
    train, adapter, grids = (raw.get(table, {}) for table in TABLES)
    lists = {key: v for key, v in _table(train, source.before("train").rstrip(". ")).items() if _is_axis(key, v)}
    layer = Layer(
        settings=_values(top, keys.TOP, source.before()),
        train=_values({k: v for k, v in train.items() if k not in lists}, keys.TRAIN, source.before("train")),
        adapter={
            **_values(adapter, keys.ADAPTER, source.before("adapter")),
            **_values(lists, keys.SWEPT, source.before("train")),
        },
        grids={
            name: read_grid(name, axes, source.before(grid_table(name)).rstrip("."))
            for name, axes in _table(grids, source.before("grid").rstrip(".")).items()
        },
        drop=rules.listed(raw[DROP], source.before() + DROP) if DROP in raw else (),
    )
    return with_origins(layer, lambda table, key: Origin(where=source.before(table) + key, source=str(source)))


def _is_axis(key: str, given: object) -> bool:
    return key in keys.SWEPT and isinstance(given, list)


def with_origins(layer: Layer, origin: Callable[[str, str], Origin]) -> Layer:
    """Return the layer with the origin of each value, which `origin` gives by table and key."""
    adapter, lists = ({k: v for k, v in layer.adapter.items() if (k in keys.SWEPT) is of} for of in (False, True))
    tables = [("", "", layer.settings), ("train.", "train", layer.train)]
    tables += [("adapter.", "adapter", adapter), ("adapter.", "train", lists)]
    tables += [(f"grid.{name}.", grid_table(name), axes) for name, axes in layer.grids.items()]
    origins = {prefix + key: origin(table, key) for prefix, table, values in tables for key in values}
    return replace(layer, origins=origins)


def read_grid(name: str, axes: object, where: str) -> Axes:
    """Return the axes of one method's grid, checked; keys that the method does not read are refused."""
    allowed = grid_keys(name, where)
    if {"eta_B", "lr_ratio"} <= _table(axes, where).keys():
        raise BadInput(where, "must give eta_B or lr_ratio, not both", way_out="remove one: eta_B = lr_ratio * eta_A")
    return _values(axes, {key: keys.AXES[key] for key in allowed}, f"{where}.")


def grid_keys(method: str, where: str) -> tuple[str, ...]:
    """Return the keys that a grid of this method may have: what the method reads, and its free learning rates."""
    reads = methods.get(method, where=where).reads
    always = (*keys.EVERY_METHOD, *(keys.RATES if has_free_eta_B(method) else ("eta_A",)))
    always += tuple(keys.SWEPT)
    return tuple(key for key in keys.AXES if key in always or (key in reads and key != "eta_B"))


def has_free_eta_B(method: str) -> bool:
    """Return whether eta_B is an axis of the method. LoRA has an eta_B too, but it is eta_A."""
    return methods.get(method).at_equal_rates is not None


def grid_table(method: str) -> str:
    """Return the TOML name of a method's table, quoted where TOML asks for it."""
    return f"grid.{method}" if method.replace("-", "").replace("_", "").isalnum() else f'grid."{method}"'


def merge(base: Layer, over: Layer) -> Layer:
    """Return `base` without what `over` drops, and with what `over` holds in place of its own.

    A new eta_B replaces an lr_ratio, and the reverse; a value of [train] a list of it, and the reverse.
    """
    base = _without(base, over.drop)
    lists = [f"adapter.{key}" for key in over.train if key in keys.SWEPT]
    base = _without(base, (*lists, *(f"train.{key}" for key in over.adapter if key in keys.SWEPT)))
    names = [*base.grids, *(name for name in over.grids if name not in base.grids)]
    return Layer(
        settings={**base.settings, **over.settings},
        train={**base.train, **over.train},
        adapter={**base.adapter, **over.adapter},
        grids={name: _merge_axes(base.grids.get(name, {}), over.grids.get(name, {})) for name in names},
        origins={**base.origins, **over.origins},
    )


def check_drop(layer: Layer, source: Source, given: Collection[str]) -> None:
    """Refuse to drop what no layer below gives; `given` are their dotted names, under every profile."""
    for name in layer.drop:
        if not any(_is_in(one, name) for one in given):
            near = difflib.get_close_matches(name, given, n=3)
            way_out = f"did you mean {' or '.join(near)}?" if near else "remove it"
            rule = "must name what a base gives, such as clip, train.precision or grid.full"
            raise BadInput(source.before() + DROP, rule, got=rules.shown(name), way_out=way_out)


def _without(layer: Layer, drop: tuple[str, ...]) -> Layer:
    if not drop:
        return layer

    def kept(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        return {key: value for key, value in values.items() if not any(_is_in(prefix + key, name) for name in drop)}

    return Layer(
        settings=kept(layer.settings),
        train=kept(layer.train, "train."),
        adapter=kept(layer.adapter, "adapter."),
        grids={name: kept(axes, f"grid.{name}.") for name, axes in kept(layer.grids, "grid.").items()},
        origins=kept(layer.origins),
    )


def _is_in(name: str, dropped: str) -> bool:
    return name == dropped or name.startswith(f"{dropped}.")


def _merge_axes(base: Axes, over: Axes) -> Axes:
    dropped = {"eta_B": "lr_ratio", "lr_ratio": "eta_B"}
    gone = {dropped[key] for key in over if key in dropped}
    return {**{key: values for key, values in base.items() if key not in gone}, **over}


def _values(raw: object, known: Mapping[str, Setting], where: str) -> dict[str, Any]:
    """Return every key's value, checked; `where` is what stands before a key in an error."""
    place = where.rstrip(". ")
    table = _table(raw, place)
    _check_names(table, tuple(known), place, "key")
    checks = {key: s.values if s.place == "grid" else s.value for key, s in known.items()}
    return {key: checks[key](value, where + key) for key, value in table.items()}


def _table(raw: object, where: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        way_out = "write it as [table] with its keys below"
        raise BadInput(where, "must be a table", got=rules.shown(raw), way_out=way_out)
    return raw


def _check_names(given: Mapping[str, Any], known: tuple[str, ...], where: str, kind: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise BadInput(
            where, f"must hold known {kind}s only", got=rules.shown(unknown[0]), way_out=f"known: {one_of(known)}"
        )
