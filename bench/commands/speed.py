"""bench speed: seconds per step, memory and merging of each method, timed alone on an idle device, interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput

if TYPE_CHECKING:
    from bench.commands._resolve import Resolved
    from bench.core.spec import Trial
    from bench.methods import LayerShape
    from bench.models import LoadedModel
    from bench.timing.load import Load
    from bench.timing.methods.cases import Case
    from bench.timing.methods.rows import Context
    from bench.timing.methods.turn import Bench

STEPS = 10


@study_command
def command(
    selection: Selection,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="rounds of interleaved repeats")] = 7,
    busy: Annotated[bool, typer.Option("--busy", help="measure although the device is busy; the rows say so")] = False,
) -> int:
    """Time each method at the study's model, batch, length and precision: LoRA, LoRA+, MoRA, full fine-tuning."""
    from bench.commands import _resolve, _speed
    from bench.core import devices
    from bench.timing.load import load_of, refuse_if_busy
    from bench.timing.methods import rows, run

    study = selection.study()
    load = load_of(devices.resolve(study.device))
    mode = refuse_if_busy(load, allowed=busy)
    resolved = _resolve.resolve_to_train(study)
    steps, ranks, only = _wanted(selection, resolved)
    chosen, bench = _prepare(resolved, steps=steps, ranks=ranks, only=only)
    context = _context(resolved, mode, load)
    found = run.measure(
        chosen, bench, repeats=repeats, arm_of=lambda case: _arm(case, resolved, mode),
        tell=lambda line: print(f"  {line}", flush=True),
    )  # fmt: skip
    table = rows.to_table(found, context)
    directory = selection.directory(study)
    path = rows.write(directory, table)
    print(_speed.text(table))
    print(f"rows: {path}")
    print(f"figure: {_speed.draw(table, directory / 'figures')}")
    return 0


def _wanted(selection: Selection, resolved: Resolved) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
    """Return the steps of a turn, the ranks (those given, else RANKS and the study's own), the methods if some are."""
    from bench.study import overrides
    from bench.timing.methods.cases import RANKS

    given = overrides.read(selection.overrides)
    rank = _study_rank(resolved)
    ranks = given.axes.get("rank") or sorted({*RANKS, *(() if rank is None else (rank,))})
    return given.train.get("max_steps", STEPS), tuple(ranks), given.methods or ()


def _prepare(
    resolved: Resolved, *, steps: int, ranks: tuple[int, ...], only: tuple[str, ...]
) -> tuple[tuple[Case, ...], Bench]:
    """Return the cases that the model allows, said which it does not, and what their turns share."""
    import torch

    from bench import models
    from bench.core import devices
    from bench.data import splits, text
    from bench.engine import memory
    from bench.engine.run import DTYPES, settle_process
    from bench.models import _targets as targets
    from bench.timing.methods import cases
    from bench.timing.methods.turn import Bench
    from bench.timing.peers.setup import timer_of

    study, located, task = resolved.study, resolved.located, resolved.task
    if not isinstance(resolved.data, splits.TextData):
        rule = "must be a text classification"
        raise BadInput("--task", rule, got=repr(task.name), way_out="choose demo or sst2, say")
    settle_process()
    device = torch.device(devices.resolve(study.device))
    budget = replace(study.budget, max_steps=10 * steps + 100, eval_steps=10 * steps + 100, warmup_steps=0, n_select=0)
    shared = {"task": task.name, "model": located.name, "data_hash": "", "model_hash": "", "budget": budget}
    adapted = next((t.target_modules for t in resolved.trials if t.target_modules is not None), None)
    every = cases.cases(
        ranks, shared=shared, default_targets=adapted or targets.default_targets(located.model_type), only=only
    )
    data = text.encode(
        resolved.data, located, n_labels=task.n_labels, metric=task.metric, max_length=budget.max_length, n_select=0
    )
    loaded = models.load_model(located, task.n_labels, DTYPES[budget.precision])
    loaded.model.to(device)
    chosen, left_out = cases.fitting(every, _shapes(loaded, every[0].trial))
    size = f"{steps} steps of {budget.batch_size} in each turn"
    where = f"adapters on {every[0].trial.target_modules}"
    print(f"{task.name} on {located.name}, {device}, {budget.precision}: {size}, {where}")
    for line in left_out:
        print(f"left out: {line}")
    return chosen, Bench(
        data=data, loaded=loaded, device=device, steps=steps, timer=timer_of(device), meter=memory.meter_of(device)
    )


def _shapes(loaded: LoadedModel, trial: Trial) -> Sequence[LayerShape]:
    from bench import methods
    from bench.engine.layers import adapted_layers

    return adapted_layers(loaded.model, methods.get(trial.method), trial, loaded.full_names)


def _context(resolved: Resolved, mode: str, load: Load) -> Context:
    import torch

    from bench.core import provenance
    from bench.schedule import workloads
    from bench.timing.methods.rows import Context

    study = resolved.study
    made = provenance.collect(workloads.place_of(study.device).device)
    return Context(
        study=study.name, timing_mode=mode, task=resolved.task.name, model=resolved.located.name,
        batch_size=study.budget.batch_size, max_length=study.budget.max_length, precision=study.budget.precision,
        threads=torch.get_num_threads(), load_share=load.share,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"), **asdict(made),
    )  # fmt: skip


def _arm(case: Case, resolved: Resolved, mode: str) -> str | None:
    """Return the name under which a comparison reads the case: only isolated, at the study's own rank and dropout."""
    trial = case.trial
    if mode != "isolated":
        return None
    if trial.rank is None:
        return case.arm
    dropout = next((t.lora_dropout for t in resolved.trials if t.lora_dropout is not None), 0.0)
    at_home = trial.rank == _study_rank(resolved) and (trial.lora_dropout or 0.0) == dropout
    return case.arm if at_home else None


def _study_rank(resolved: Resolved) -> int | None:
    """Return the study's rank, the largest where it has several: comparisons are made at one."""
    return max((t.rank for t in resolved.trials if t.rank is not None), default=None)
