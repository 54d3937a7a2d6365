"""The settings of a method that are numbers, as axes: what Optuna sees of a trial, and what a search may choose."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.core import keys
from bench.core.errors import BadInput
from bench.core.rules import round_rate
from bench.core.spec import MethodGrid, Trial

SAME = 1e-9  # relative: a ratio is known to 12 digits, so a bound that it lies on is met to these
AXES = {key: setting for key, setting in keys.TRIAL.items() if setting.axis is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One numeric setting: its bounds, both included."""

    name: str
    low: float
    high: float
    log: bool
    integer: bool

    def holds(self, value: float | None) -> bool:
        """Return whether a value lies between the bounds."""
        return value is not None and self.low - SAME * abs(self.low) <= value <= self.high + SAME * abs(self.high)

    def met(self, value: float) -> float:
        """Return a value, or the bound that it misses by its last digits."""
        return min(max(value, self.low), self.high) if self.holds(value) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The numeric axes of one method's trials, named as the columns of a row."""

    axes: tuple[Axis, ...]

    def params(self, settings: Mapping[str, Any]) -> dict[str, float | int]:
        """Return the values of a row (or of `settings_of` a trial) on the axes."""
        met = {a.name: a.met(settings[a.name]) for a in self.axes}
        return {a.name: int(met[a.name]) if a.integer else float(met[a.name]) for a in self.axes}

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Return whether settings lie within the bounds of every axis."""
        return all(axis.holds(settings[axis.name]) for axis in self.axes)


def settings_of(trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial that an axis may name."""
    return {name: getattr(trial, name) for name in AXES}


def space_of(settings: Sequence[Mapping[str, Any]], grid: MethodGrid | None) -> Space:
    """Return the axes that these trials of one method span; `grid` says whether B's rate is given as lr_ratio.

    eta_A and settings declared so are axes wherever the method reads them, B's rate where it is not A's throughout,
    other numbers where they differ between trials.
    """
    b_rate = "lr_ratio" if grid is not None and grid.axis("lr_ratio") is not None else "eta_B"
    names = ["eta_A"]
    if _has(settings, "eta_B") and any(s["eta_B"] != s["eta_A"] for s in settings):
        names.append(b_rate)
    read = [name for name in AXES if _has(settings, name)]
    names += [name for name in read if AXES[name].axis == "always"]
    names += [name for name in read if AXES[name].axis == "varied" and len({s[name] for s in settings}) > 1]
    return Space(axes=tuple(_axis(name, settings) for name in names))


def variants(trials: Iterable[Trial]) -> dict[str, tuple[Trial, ...]]:
    """Return the trials of one method by what a search holds fixed (mora_type, init, ...): name of it -> trials.

    The name is empty where there is one variant only.
    """
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_fixed(trial), []).append(trial)
    if len(groups) == 1:
        return {"": tuple(next(iter(groups.values())))}
    names = [name for name in _FIXED if len({getattr(g[0], name) for g in groups.values()}) > 1]
    return {",".join(f"{n}={getattr(g[0], n)}" for n in names): tuple(g) for g in groups.values()}


def by_search(trials: Iterable[Trial], methods: Container[str]) -> dict[str, tuple[Trial, ...]]:
    """Return the trials of a grid by what is searched on its own: each of these methods, or each variant of it.

    LoRA+'s trials of ratio 1 are LoRA's: LoRA is searched only where it has a grid.
    """
    by_method: dict[str, list[Trial]] = {}
    for trial in trials:
        by_method.setdefault(trial.method, []).append(trial)
    return {
        f"{method}/{variant}" if variant else method: members
        for method, of_method in by_method.items()
        if method in methods
        for variant, members in variants(of_method).items()
    }


def trial_at(template: Trial, params: Mapping[str, float], *, seed: int, alpha_of_rank: float | None) -> Trial:
    """Return the trial at a point of the space; what is no axis is the template's.

    `alpha_of_rank` is lora_alpha / rank where the grid keeps that fixed while the rank varies; None: as the template.
    """
    values: dict[str, Any] = {name: value for name, value in params.items() if name != "lr_ratio"}
    values["eta_A"] = round_rate(params["eta_A"])
    if "lr_ratio" in params:
        values["eta_B"] = round_rate(values["eta_A"] * params["lr_ratio"])
    elif "eta_B" in params:
        values["eta_B"] = round_rate(params["eta_B"])
    elif template.eta_B is not None:
        values["eta_B"] = values["eta_A"]
    if alpha_of_rank is not None:
        values["lora_alpha"] = float(alpha_of_rank * values["rank"])
    return replace(template, seed=seed, **values)


def is_in(space: Space, template: Trial, row: Mapping[str, Any], *, alpha_of_rank: float | None) -> bool:
    """Return whether a row is of a trial that `trial_at` could have made: within bounds, all else the template's."""
    names = {a.name for a in space.axes}
    if not space.holds(row):
        return False
    values = {name: row[name] for name in (*names, "eta_A", "seed") if name != "lr_ratio"}
    if template.eta_B is not None:
        values["eta_B"] = row["eta_B"] if names & {"eta_B", "lr_ratio"} else row["eta_A"]
    if alpha_of_rank is not None:
        values["lora_alpha"] = float(alpha_of_rank * row["rank"])
    return bool(replace(template, **values).trial_id == row["trial_id"])


def alpha_by_rank(trials: Sequence[Trial]) -> float | None:
    """Return lora_alpha / rank if it is the same in all trials and their ranks differ; else None."""
    ratios = {t.lora_alpha / t.rank for t in trials if t.lora_alpha is not None and t.rank is not None}
    return ratios.pop() if len(ratios) == 1 and len({t.rank for t in trials}) > 1 else None


def searchable(trials: Sequence[Trial], grid: MethodGrid | None, *, sampler: str) -> Space:
    """Return the space that `sampler` searches: the grid's, from its smallest to its largest value on each axis.

    Raises:
        BadInput: where the grid is a single point, which leaves nothing to search.
    """
    settings = [settings_of(trial) for trial in trials]
    full = space_of(settings, grid)
    tied = alpha_by_rank(trials) is not None
    held = {name for name in AXES if not AXES[name].searched or (tied and name == "lora_alpha")}
    axes = tuple(_widened(a, grid) for a in full.axes if a.name not in held)
    if all(axis.low == axis.high for axis in axes):
        where, rule = f"method {trials[0].method}", f"sampler {sampler} must have a range to search"
        raise BadInput(where, rule, got="one value on each axis", way_out="give eta_A a smallest and a largest value")
    return Space(axes=axes)


def _axis(name: str, settings: Sequence[Mapping[str, Any]]) -> Axis:
    values = [s[name] for s in settings]
    one = AXES[name]
    return Axis(name=name, low=min(values), high=max(values), log=one.log, integer=one.kind is int)


def _widened(axis: Axis, grid: MethodGrid | None) -> Axis:
    """Return the axis with the bounds that the grid gives: its trials of ratio 1 are LoRA's and not among LoRA+'s."""
    given = None if grid is None else grid.axis(axis.name)
    if not given:
        return axis
    return replace(axis, low=min(*given, axis.low), high=max(*given, axis.high))


def _has(settings: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(s.get(name) is not None for s in settings)


# What a search holds, lists after the others.
_HELD = [s for s in keys.GRID.values() if s.axis is None or not s.searched]
_FIXED = (*(s.key for s in sorted(_HELD, key=lambda s: s.kind is tuple)), "budget")


def _fixed(trial: Trial) -> tuple[Any, ...]:
    return tuple(getattr(trial, name) for name in _FIXED)
