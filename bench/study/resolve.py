"""TOML and command-line text -> Study -> Trials.

A study file holds `task`, `model`, `seeds`, `sampler`, and the tables [train], [adapter] (for all grids),
[grid.<method>] and [profile.quick], [profile.full], which hold any of the others again. With `base` it inherits from
another study file. Every error of bad input is raised here, before anything is downloaded or trained, and names file,
table and key.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import methods, searches, tasks
from bench.core import keys, rules
from bench.core.errors import BadInput, one_of
from bench.core.rules import round_rate
from bench.core.spec import NO_MEANING, Meaning, MethodGrid, Precision, Study, TrainBudget, Trial
from bench.study import inherit, layer
from bench.study.files import DEFAULTS, STUDIES_DIR, StudyFile, chain, find, names
from bench.study.layer import BY_DEVICE, Layer
from bench.study.overrides import read as read_options

__all__ = ["STUDIES_DIR", "cells", "expand", "load", "make_trial", "names", "trace"]

Advise = Callable[[Study], Mapping[str, layer.Axes]]
MAX_TRIALS = 1_000_000
# Names of embeddings in transformers' encoders and decoders. LoRA+ gives an embedding's adapter a rate of its own,
# so at lr_ratio 1 it is LoRA only where none is adapted; taking a Linear for an embedding costs one extra trial.
_EMBEDDING = re.compile(r"emb|wte|wpe")
_EMBEDDING_NAMES = tuple(
    f"{base}.{name}"
    for base in ("roberta.embeddings", "bert.embeddings", "model", "transformer", "model.decoder")
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings", "embed_tokens", "wte", "wpe")
)


def load(
    path_or_name: str | Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    profile: str | None = None,
    data_dir: str | None = None,
    studies_dir: Path = STUDIES_DIR,
) -> Study:
    """Return a study, resolved: its bases, its file and their profiles, then `overrides`; the last one wins.

    `path_or_name` is a TOML file or the name of one in `studies_dir`; without it, the default study of the task in
    `overrides` is taken. `overrides` maps keys of `bench.study.overrides.OPTIONS` to text as on a command line;
    `profile` is used where they do not choose one ("quick" if neither does).

    Raises:
        BadInput: for everything that a study may not hold.
    """
    return trace(path_or_name, overrides=overrides, profile=profile, data_dir=data_dir, studies_dir=studies_dir)[0]


def trace(
    path_or_name: str | Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    profile: str | None = None,
    data_dir: str | None = None,
    studies_dir: Path = STUDIES_DIR,
    advise: Advise | None = None,
    precision: Precision | None = None,
) -> tuple[Study, Layer]:
    """Return a study as `load` does, and the merged layer that says where each of its values was written.

    `precision` is the device's, for a study that neither a file nor an option gives one. The profile "advised" is
    `profile` with the grids that `advise` returns for that study, by method.
    """
    chosen = read_options(overrides or {})
    files = chain(find(path_or_name or chosen.study, chosen.task, studies_dir), studies_dir)
    usual = profile or "quick"
    name = chosen.profile or usual
    below = inherit.merged(files, rules.choice(*rules.PROFILES)(usual if name == rules.ADVISED else name, "profile"))
    below = layer.merge(_of_device(precision), below)
    build = functools.partial(_build, file=files[-1], profile=name, device=chosen.device, data_dir=data_dir)
    if name == rules.ADVISED:
        below = layer.merge(below, _advised(build(chosen.apply(below)), advise))
    merged = chosen.apply(below)
    return build(merged), merged


def _of_device(precision: Precision | None) -> Layer:
    """Return the lowest layer: what the device decides where nobody else does."""
    train = {} if precision is None else {"precision": precision}
    return layer.with_origins(Layer(train=train), lambda table, key: layer.Origin(where="--device", source=BY_DEVICE))


def _advised(study: Study, advise: Advise | None) -> Layer:
    """Return the layer of the grids that are advised for a study."""
    where = f"--profile {rules.ADVISED}"
    if advise is None:
        raise BadInput(where, "needs stored rows, which nothing gives here", way_out="give quick or full")
    found = Layer(grids=advise(study))
    return layer.with_origins(found, lambda table, key: layer.Origin(where=where, source=where))


def expand(
    study: Study,
    *,
    data_hash: str,
    model_hash: str,
    default_targets: str | tuple[str, ...],
    meaning: Meaning = NO_MEANING,
    task_name: str | None = None,
    model_name: str | None = None,
) -> tuple[Trial, ...]:
    """Return the trials of a study, each once: grid by grid, axis by axis, seeds innermost.

    Cells below the study's min_lr_ratio are left out. `default_targets` are the architecture's target_modules; the
    names are those of the rows where the study gives a path instead. LoRA+ at lr_ratio 1 is LoRA and comes out as
    such, so a trial that both grids hold comes out once.
    """
    shared = {
        "task": task_name or study.task,
        "model": model_name or study.model,
        "data_hash": data_hash,
        "model_hash": model_hash,
        "budget": study.budget,
        "meaning": meaning,
    }
    every = (
        make_trial(grid.method, {**cell, "seed": seed}, shared=shared, default_targets=default_targets)
        for grid in study.grids
        for cell in cells(grid)
        for seed in study.seeds
    )
    return tuple(dict.fromkeys(trial for trial in every if _is_wanted(trial, study.min_lr_ratio)))


def cells(grid: MethodGrid) -> Iterator[dict[str, Any]]:
    """Yield the cells of one grid, the last axis fastest."""
    names = [key for key, _ in grid.axes]
    for values in itertools.product(*(values for _, values in grid.axes)):
        yield dict(zip(names, values, strict=True))


def make_trial(
    method: str, cell: Mapping[str, Any], *, shared: Mapping[str, Any], default_targets: str | tuple[str, ...]
) -> Trial:
    """Return the trial of one cell: defaults filled in, fields that the method does not read None.

    `cell` holds seed, eta_A and whatever the grid names; `shared` task, model, data_hash, model_hash and budget.
    """
    reads = methods.get(method).reads
    values = {key: value for key, value in {**keys.DEFAULTS, **cell}.items() if key in reads}
    if "target_modules" in reads and values["target_modules"] is None:
        values["target_modules"] = default_targets
    if values.get("lora_alpha") == "rank":
        values["lora_alpha"] = float(values["rank"])
    if "eta_B" in reads:
        values["eta_B"] = _eta_B(cell)
    at_equal_rates = methods.get(method).at_equal_rates
    if at_equal_rates is not None and values["eta_B"] == cell["eta_A"] and not _adapts_embedding(values):
        method = at_equal_rates
        values["loraplus_lr_embedding"] = None
    values |= {key: cell.get(key, keys.DEFAULTS[key]) for key in keys.EVERY_METHOD}
    shared = {**shared, "budget": _budget_of(shared["budget"], cell)}
    return Trial(**shared, **values, method=method, seed=cell["seed"], eta_A=cell["eta_A"])


def _is_wanted(trial: Trial, min_lr_ratio: float | None) -> bool:
    """Return whether eta_B / eta_A is large enough; a trial without eta_B is always wanted."""
    return min_lr_ratio is None or trial.lr_ratio is None or trial.lr_ratio >= min_lr_ratio


def _eta_B(cell: Mapping[str, Any]) -> float:
    if "eta_B" in cell:
        return float(cell["eta_B"])
    ratio = cell.get("lr_ratio", 1.0)
    return float(cell["eta_A"]) if ratio == 1 else round_rate(ratio * cell["eta_A"])


def _adapts_embedding(values: Mapping[str, Any]) -> bool:
    targets = values["target_modules"]
    if targets == "all-linear":
        return False
    if isinstance(targets, str):
        return bool(_EMBEDDING.search(targets)) or any(re.fullmatch(targets, name) for name in _EMBEDDING_NAMES)
    return any(_EMBEDDING.search(target) for target in targets)


def _build(merged: Layer, file: StudyFile, *, profile: str, device: str, data_dir: str | None) -> Study:
    settings, shown = merged.settings, file.shown
    if "task" not in settings:
        raise BadInput(f"{shown} task", "must be given", way_out='add a line such as task = "sst2" at the top')
    task = tasks.get(settings["task"], where=merged.where("task"))
    model = settings.get("model", task.default_model)
    grids = _grids(merged, shown)
    study = Study(
        name=_name(file.path, task, model),
        task=settings["task"],
        model=model,
        seeds=settings.get("seeds", (0,)),
        grids=grids,
        budget=_budget(merged, shown),
        profile=profile,
        device=device,
        sampler=settings.get("sampler", "grid"),
        rungs=settings.get("rungs"),
        keep=settings.get("keep"),
        widen=settings.get("widen"),
        max_extra=settings.get("max_extra", 0.3),
        n_trials=settings.get("n_trials"),
        pruner=settings.get("pruner"),
        pack_size=settings.get("pack_size"),
        gradient_checkpointing=settings.get("gradient_checkpointing"),
        figure=file.figure,
        rows_from=settings.get("rows_from"),
        clip=settings.get("clip"),
        min_lr_ratio=settings.get("min_lr_ratio"),
        precision_by_device="precision" in merged.train and not merged.states("train.precision"),
        data_dir=data_dir,
        origins=_origins(merged, grids),
    )
    _check_sampler(study, merged, shown)
    _check_size(study, shown)
    _check_min_lr_ratio(study, merged)
    return study


def _name(path: Path, task: tasks.Task, model: str) -> str:
    """Return the study's name, which is its directory under results/: `<task>-<model>` for a task's default study."""
    if path.stem in (DEFAULTS, task.default_study, task.name):
        last = Path(model).expanduser().resolve().name if os.path.isdir(Path(model).expanduser()) else model
        slug = re.sub(r"[^a-z0-9._+-]+", "-", f"{task.name}-{last}".lower())
        return rules.plain_name(slug.strip("-."), "--model")
    return rules.plain_name(path.stem, "--study")


def _grids(merged: Layer, shown: str) -> tuple[MethodGrid, ...]:
    if not merged.grids:
        raise BadInput(f"{shown} [grid]", "must hold a grid", way_out="add a table such as [grid.lora] with its eta_A")
    return tuple(_grid(name, merged, shown) for name in merged.grids)


def _grid(name: str, merged: Layer, shown: str) -> MethodGrid:
    axes, adapter = merged.grids[name], merged.adapter
    where = f"{shown} [{layer.grid_table(name)}]"
    allowed = layer.grid_keys(name, where)
    if "eta_A" not in axes:
        raise BadInput(f"{where}.eta_A", "must be given", way_out="add eta_A = [1e-4, 1e-3] or other learning rates")
    if layer.has_free_eta_B(name) and "eta_B" not in axes and "lr_ratio" not in axes:
        raise BadInput(f"{where}.lr_ratio", "must be given, or eta_B", way_out="add lr_ratio = [1, 4, 16] or eta_B")
    full = {**{key: adapter[key] for key in adapter if key in allowed}, **axes}
    warmup = merged.train.get("warmup_steps")
    if isinstance(warmup, float) and "max_steps" in full:
        full = {"warmup_steps": (warmup,), **full}  # a share of each trial's own steps
    _check_warmup(full, name, merged)
    if "lr_ratio" in full:
        _check_rates(full, merged.where(f"grid.{name}.lr_ratio"))
    return MethodGrid(method=name, axes=tuple((key, full[key]) for key in keys.AXES if key in full))


def _check_warmup(axes: Mapping[str, tuple[Any, ...]], method: str, merged: Layer) -> None:
    """Refuse a warm-up that is longer than the shortest training of a grid."""
    steps = min(axes.get("max_steps", (merged.train.get("max_steps", math.inf),)))
    longest = max(axes.get("warmup_steps", (merged.train.get("warmup_steps", 0),)))
    if longest > steps:
        where = merged.axis_origin(method, "warmup_steps").where
        way_out = "shorten it, or give a share of the steps, such as 0.1"
        raise BadInput(where, f"must be <= max_steps ({steps})", got=longest, way_out=way_out)


def _check_rates(axes: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Refuse ratios whose eta_B leaves the range of a float."""
    for eta_A, ratio in itertools.product(axes["eta_A"], axes["lr_ratio"]):
        if not 0 < eta_A * ratio < math.inf:
            got = f"eta_A={eta_A:g}, lr_ratio={ratio:g}"
            raise BadInput(where, "lr_ratio * eta_A must be a finite rate > 0", got=got, way_out="mend one")


def _origins(merged: Layer, grids: tuple[MethodGrid, ...]) -> dict[str, str]:
    """Return where each value stands in a file, by dotted name; what options give is left out."""
    origins = {name: merged.origins[name] for name in (*merged.settings, *(f"train.{key}" for key in merged.train))}
    for grid in grids:
        origins |= {f"grid.{grid.method}.{key}": merged.axis_origin(grid.method, key) for key, _ in grid.axes}
    return {name: origin.where for name, origin in origins.items() if origin.source not in (origin.where, BY_DEVICE)}


def _budget(merged: Layer, shown: str) -> TrainBudget:
    swept = {key: values for key, values in merged.adapter.items() if key in keys.SWEPT}
    train = {**{key: _largest(values) for key, values in swept.items()}, **merged.train}
    if "max_steps" not in train:
        raise BadInput(f"{shown} [train].max_steps", "must be given", way_out="add max_steps = 300")
    steps = train["max_steps"]
    values = {"eval_steps": steps, **train}
    warmup = values.get("warmup_steps", 0)
    if isinstance(warmup, float):
        values["warmup_steps"] = math.ceil(warmup * steps)
    for key in ("eval_steps", "warmup_steps"):
        if values.get(key, 0) > steps:
            rule, way_out = (
                f"must be <= max_steps ({steps})",
                f"give a smaller {key} or raise {merged.where('train.max_steps')}",
            )
            raise BadInput(merged.where(f"train.{key}"), rule, got=f"{key}={values[key]}", way_out=way_out)
    return TrainBudget(**values)


def _largest(values: tuple[Any, ...]) -> Any:
    """Return what a study says of a setting that differs among its trials: the largest number, or the first word."""
    return values[0] if any(isinstance(value, str) or value is None for value in values) else max(values)


def _budget_of(budget: TrainBudget, cell: Mapping[str, Any]) -> TrainBudget:
    """Return the budget of a cell, whose grid may name settings of [train]."""
    own = {key: cell[key] for key in keys.SWEPT if key in cell}
    if not own:
        return budget
    steps = own.get("max_steps", budget.max_steps)
    if isinstance(own.get("warmup_steps"), float):
        own["warmup_steps"] = math.ceil(own["warmup_steps"] * steps)
    return replace(budget, **own, eval_steps=min(budget.eval_steps, steps))


def _check_sampler(study: Study, merged: Layer, shown: str) -> None:
    """Refuse n_trials where every cell is run; require it, and refuse min_lr_ratio, where trials are chosen."""
    setting, planned = f'sampler = "{study.sampler}"', searches.get(study.sampler).planned
    for key in ("rungs", "keep"):
        if searches.get(study.sampler).rungs is None and getattr(study, key) is not None:
            stopping = one_of(f'"{name}"' for name in searches.names() if searches.get(name).rungs is not None)
            rule, way_out = f"must be left out with {setting}, which stops no trial", f"set sampler = {stopping}"
            raise BadInput(merged.where(key), rule, got=getattr(study, key), way_out=way_out)
    if study.pruner is not None:
        _check_pruner(study, merged, setting)
    if planned and study.n_trials is not None:
        rule = f"must be left out with {setting}, whose trials are the grid's"
        choosing = one_of(f'"{name}"' for name in searches.names() if not searches.get(name).planned)
        way_out = f"remove it or set sampler = {choosing}"
        raise BadInput(merged.where("n_trials"), rule, got=study.n_trials, way_out=way_out)
    if not planned and study.n_trials is None:
        raise BadInput(f"{shown} n_trials", f"must be given with {setting}", way_out="add n_trials = 50")
    if not planned and study.min_lr_ratio is not None:
        rule = f"must be left out with {setting}, which searches the whole range"
        way_out = "give lr_ratio in place of eta_B"
        raise BadInput(merged.where("min_lr_ratio"), rule, got=study.min_lr_ratio, way_out=way_out)


def _check_pruner(study: Study, merged: Layer, setting: str) -> None:
    """Refuse a pruner where no search chooses trials, and where there is no evaluation at which one may stop."""
    choosing = one_of(f'"{name}"' for name in searches.names() if not searches.get(name).planned)
    if searches.get(study.sampler).planned:
        rule, way_out = f"must be left out with {setting}, whose trials are the grid's", f"set sampler = {choosing}"
        raise BadInput(merged.where("pruner"), rule, got=study.pruner, way_out=way_out)
    steps = min(min(grid.axis("max_steps") or (study.budget.max_steps,)) for grid in study.grids)
    if study.budget.eval_steps >= steps:
        rule, way_out = f"needs an evaluation before the last step ({steps})", "give a smaller eval_steps"
        got = f"eval_steps={study.budget.eval_steps}"
        raise BadInput(merged.where("pruner"), rule, got=got, way_out=way_out)


def _check_size(study: Study, shown: str) -> None:
    n = len(study.seeds) * sum(math.prod(len(values) for _, values in grid.axes) for grid in study.grids)
    if n > MAX_TRIALS:
        way_out = "shorten the axes or split the study"
        raise BadInput(f"{shown} [grid]", f"must hold at most {MAX_TRIALS:,} trials", got=f"{n:,}", way_out=way_out)


def _check_min_lr_ratio(study: Study, merged: Layer) -> None:
    """Refuse a grid of which min_lr_ratio leaves no cell: it would run nothing and say nothing."""
    for grid in study.grids:
        if study.min_lr_ratio is None or "eta_B" not in methods.get(grid.method).reads:
            continue
        largest = max(_ratios(grid))
        if largest < study.min_lr_ratio:
            rule = f"must leave a cell of [{layer.grid_table(grid.method)}], whose largest eta_B / eta_A is {largest:g}"
            way_out = "lower it or leave that grid out"
            raise BadInput(merged.where("min_lr_ratio"), rule, got=study.min_lr_ratio, way_out=way_out)


def _ratios(grid: MethodGrid) -> Iterator[float]:
    """Yield eta_B / eta_A of every pair of rates, as the trials will have it."""
    pairs = MethodGrid(method=grid.method, axes=tuple(axis for axis in grid.axes if axis[0] in keys.RATES))
    for cell in cells(pairs):
        yield round_rate(_eta_B(cell) / cell["eta_A"])
