"""bench deploy: several saved adapters on one base, merged, unmerged, swapped and mixed in one batch."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput

if TYPE_CHECKING:
    from bench.commands._resolve import Resolved
    from bench.core.spec import TrainBudget
    from bench.data.splits import EncodedData
    from bench.models import LoadedModel
    from bench.timing.deploy.rows import Context, Row
    from bench.timing.deploy.saved import Saved
    from bench.timing.load import Load

ADAPTERS_HELP = "directories that recommend --save wrote for this base: LoRA or LoRA+, separated by commas"


@study_command
def command(
    selection: Selection,
    adapters: Annotated[str, typer.Option("--adapters", help=ADAPTERS_HELP)] = "",
    requests: Annotated[int, typer.Option("--requests", min=1, help="prompts of the task that wait at once")] = 12,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="rounds of interleaved repeats")] = 5,
    clock: Annotated[str, typer.Option("--clock", help="wall, or cpu: the process's, on a busy CPU")] = "wall",
    bottleneck: Annotated[
        bool, typer.Option("--bottleneck", help="also sequential and parallel adapters, with made-up weights")
    ] = False,
) -> int:
    """Serve saved adapters on one base, merged, unmerged, swapped, mixed in one batch: times, bytes, equality."""
    from bench.commands import _deploy, _resolve
    from bench.core import devices
    from bench.timing.deploy import rows, saved
    from bench.timing.load import load_of
    from bench.timing.peers.contenders import _peer
    from bench.timing.peers.setup import clock_of

    # PEFT's business with transformers, said again for every model
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
    clock_of(clock)
    found = saved.read(_directories(adapters))
    _peer.require(("peft",), command="deploy")
    study = selection.study()
    load = load_of(devices.resolve(study.device))
    resolved = _resolve.resolve(study)
    budget = _checked(found, resolved)
    context = _context(resolved, budget, load, n=len(found), requests=requests, clock=clock)
    table_rows, problems = _measured(
        found, resolved, budget, requests=requests, repeats=repeats, clock=clock, bottleneck=bottleneck
    )
    table = rows.to_table(table_rows, context)
    directory = selection.directory(study)
    path = rows.write(directory, table)
    print(f"\n{_deploy.text(table)}\n\n{_deploy.how_to(found, _deploy.base_name(found[0]))}\n\nrows: {path}")
    print(f"figure: {_deploy.draw(table, directory / 'figures')}")
    for line in problems:
        print(f"NOT EQUAL: {line}")
    return int(bool(problems))


def _directories(text: str) -> list[Path]:
    """Return the directories that are named."""
    found = [Path(part.strip()).expanduser() for part in text.split(",") if part.strip()]
    if not found:
        way_out = "save some by make recommend SAVE=a, then give --adapters a,b"
        raise BadInput("--adapters", "must name directories of saved adapters", got=repr(text), way_out=way_out)
    return found


def _checked(found: tuple[Saved, ...], resolved: Resolved) -> TrainBudget:
    """Return the study's budget with the adapters' base precision; refuse another base model or no language model."""
    first, located = found[0], resolved.located
    if resolved.study.budget.precision == "tf32":
        rule = "must be one that every way to serve multiplies in"
        raise BadInput("--precision", rule, got="tf32", way_out="use --precision bf16 or fp32")
    if resolved.task.causal is None:
        rule = "must be a language model's task, whose prompts are served"
        raise BadInput("--task", rule, got=repr(resolved.task.name), way_out="give the task that they were trained for")
    if first.model_hash != located.model_hash:
        rule, got = "must stand on the model that is served", f"{located.name}, which is another one"
        raise BadInput(f"--adapters {first.directory}", rule, got=got, way_out="give their base by --model")
    return replace(resolved.study.budget, base_precision=first.base_precision)


def _measured(
    found: tuple[Saved, ...], resolved: Resolved, budget: TrainBudget, *, requests: int, repeats: int, clock: str,
    bottleneck: bool,
) -> tuple[list[Row], list[str]]:  # fmt: skip
    """Return the rows of a run, and what is not equal."""
    import torch

    from bench.core import devices
    from bench.engine.batching import Batches
    from bench.timing.deploy import run, saved, ways
    from bench.timing.peers.setup import timer_of

    device = torch.device(devices.resolve(resolved.study.device))
    timer = timer_of(device, clock)
    trials = saved.trials_of(found, budget)
    data, loaded = _loaded(resolved, budget)
    loaded.model.to(device)
    split = Batches(data.eval, device=device)
    some = run.requests_of(split, requests, len(found))
    print(
        f"{len(found)} adapters on {resolved.located.name}, {device}, {budget.precision}: {len(some)} prompts of "
        f"{resolved.task.name}, {some.tokens / len(some):.1f} tokens each, {repeats} interleaved rounds", flush=True,
    )  # fmt: skip
    built = ways.build(found, trials, loaded, timer, bottleneck=bottleneck)
    equal = run.equalities(built.ways, some)
    made = run.measure(
        built, found, some, equal, repeats=repeats, timer=timer, tell=lambda line: print(f"  {line}", flush=True)
    )
    return made, run.unequal(equal, budget.precision)


def _loaded(resolved: Resolved, budget: TrainBudget) -> tuple[EncodedData, LoadedModel]:
    from bench import methods
    from bench.executors import runtime

    data: Any = resolved.data
    trial = replace(resolved.trials[0], budget=budget)
    baseline = [replace(trial, method=methods.BASELINE)]
    runtime.check_base(baseline, is_causal=True, device=resolved.study.device)
    return runtime.load_for(trial, task=resolved.task, data=data, located=resolved.located)


def _context(
    resolved: Resolved, budget: TrainBudget, load: Load, *, n: int, requests: int, clock: str
) -> Context:  # fmt: skip
    import torch

    from bench.core import provenance
    from bench.schedule import workloads
    from bench.timing.deploy.rows import Context

    made = provenance.collect(workloads.place_of(resolved.study.device).device)
    return Context(
        task=resolved.task.name, model=resolved.located.name, batch_size=requests, n_adapters=n,
        precision=budget.precision, base_precision=budget.base_precision, clock=clock,
        timing_mode="busy" if load.busy else "isolated", threads=torch.get_num_threads(), load_share=load.share,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"), **asdict(made),
    )  # fmt: skip
