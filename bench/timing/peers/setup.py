"""From the options of `bench bench` to the work: data encoded, model built, provenance collected."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import models, study, tasks
from bench.core import devices, provenance
from bench.core.errors import BadInput
from bench.core.spec import Precision, TrainBudget, Trial
from bench.data import causal, splits, text
from bench.engine import hardware
from bench.engine.run import settle_process
from bench.executors import runtime
from bench.methods import BASELINE
from bench.models import LoadedModel, Located
from bench.models import _targets as targets
from bench.schedule import workloads
from bench.schedule.estimate import matmul_params
from bench.study import overrides
from bench.tasks import TEXT_CLASSIFICATION, Task
from bench.timing.load import Load
from bench.timing.peers import made_up
from bench.timing.peers import model as shapes
from bench.timing.peers.rows import Context
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import Work, representative

COMPARED: tuple[Precision, ...] = ("fp32", "bf16")
PEER_PACKAGES = ("peft", "accelerate", "trl")
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The options, each of them checked."""

    task: str = "demo"
    model: str | None = None
    steps: int = 50  # as many batches as group_by_length sorts at once
    batch_size: int = 32
    rank: int = 8
    lora_dropout: float = 0.1
    target_modules: str | tuple[str, ...] | None = None  # None: the architecture's
    max_length: int = 128
    device: str = "auto"
    random_weights: bool = False
    clock: str = "wall"
    precision: Precision | None = None  # None: fp32, and bf16 where the device computes in it
    data_dir: Path | None = None


def read(
    texts: Mapping[str, str], *, random_weights: bool, data_dir: Path | None, clock: str = "wall"
) -> Chosen:  # fmt: skip
    """Return the options given as text, by key of `bench.study.overrides.OPTIONS`.

    Raises:
        BadInput: for a value that its key cannot hold, and for several where one is needed.
    """
    clock_of(clock)
    line = overrides.read(texts)
    given: dict[str, Any] = {**line.settings, "device": line.device}
    given |= {"steps" if key == "max_steps" else key: value for key, value in line.train.items()}
    for key, values in line.axes.items():
        if len(values) != 1:
            flag = overrides.BY_KEY[key].flags[0]
            raise BadInput(flag, "must be one value", got=texts[key], way_out="run the command once for each")
        given[key] = values[0]
    if line.task is not None:
        given["task"] = line.task
    return Chosen(**given, random_weights=random_weights, data_dir=data_dir, clock=clock)


def clock_of(name: str) -> Callable[[], float]:
    """Return what reads the seconds of this clock.

    Raises:
        BadInput: for a name that is none.
    """
    if name not in CLOCKS:
        way_out = "cpu on a machine that others use, too"
        raise BadInput("--clock", "must be wall or cpu", got=repr(name), way_out=way_out)
    return CLOCKS[name]


def build(chosen: Chosen) -> Work:
    """Return the work that the options describe.

    Raises:
        BadInput: for a task without peers, data or a model out of reach, a rank that does not fit.
    """
    task = made_up.TASK if chosen.task == made_up.TASK.name else tasks.get(chosen.task, where="--task")
    if task.kind not in (TEXT_CLASSIFICATION, causal.KIND):
        rule = "must be a text classification or a causal task, for which peers exist"
        raise BadInput("--task", rule, got=repr(task.name), way_out="choose demo or uuid, say")
    settle_process()
    name = chosen.model or task.default_model
    loaded, config, located, model_name = _model(name, task, random_weights=chosen.random_weights)
    device = torch.device(devices.resolve(chosen.device))
    trial = _trial(chosen, task, model_name, config)
    encoded = _encode(task, located, chosen, config)
    block = replace(encoded, train=representative(encoded.train, chosen.steps * chosen.batch_size))
    _check_rank(chosen.rank, config)
    is_causal = task.kind == causal.KIND
    body, head = shapes.products_of(loaded.model) if is_causal else (matmul_params(config), 0)
    return Work(
        trial=trial, data=block, loaded=loaded, matmul_params=body, head_params=head, device=device,
        steps=-(-len(block.train) // chosen.batch_size), pad_to=chosen.max_length,
    )  # fmt: skip


def precisions(device: str, wanted: Precision | None = None) -> tuple[Precision, ...]:
    """Return what is wanted; else fp32, and bf16 where the device computes in it.

    Raises:
        BadInput: for a precision that the peers do not train in.
    """
    if wanted is not None and wanted not in COMPARED:
        rule = f"must be one that the contenders train in: {', '.join(COMPARED)}"
        raise BadInput("--precision", rule, got=wanted, way_out="give one of them, or none for both")
    if wanted is not None:
        return (wanted,)
    try:
        runtime.check_precision("bf16", device)
    except BadInput:
        return ("fp32",)
    return ("fp32", "bf16")


def timer_of(device: torch.device, clock: str = "wall") -> Timer:
    """Return a clock that waits for the device; `cpu` counts the process's seconds on all its cores.

    Raises:
        BadInput: for the CPU's seconds of work that a GPU does.
    """
    if device.type == "cpu":
        return Timer(now=CLOCKS[clock])
    if clock != "wall":
        raise BadInput("--clock", "must be wall on a GPU", got=clock, way_out="leave it out")
    return Timer(synchronize=hardware.waiting_for(device))


def context_of(work: Work, chosen: Chosen, load: Load, now: datetime | None = None) -> Context:
    """Return what all rows of the run share; its id begins with task and model and ends with the time."""
    began = now or datetime.now(UTC)
    made = provenance.collect(workloads.place_of(chosen.device).device)
    trial = work.trial
    return Context(
        run_id=f"{trial.task}-{trial.model}-{began:%Y%m%dT%H%M%S}".replace("/", "-"),
        matmul_params=work.matmul_params,
        head_params=work.head_params,
        clock=chosen.clock,
        task=trial.task,
        model=trial.model,
        random_weights=chosen.random_weights,
        batch_size=work.batch_size,
        lora_dropout=trial.lora_dropout or 0.0,
        target_modules=json.dumps(trial.target_modules),
        threads=torch.get_num_threads(),
        load_share=load.share,
        started_at=began.isoformat(timespec="seconds"),
        **asdict(replace(made, versions=json.dumps({**json.loads(made.versions), **_peer_versions()}))),
    )


def _model(name: str, task: Task, *, random_weights: bool) -> tuple[LoadedModel, dict[str, Any], Located, str]:
    """Return the model, its configuration, whose tokenizer is used, and its name in the rows."""
    if random_weights or name in shapes.DECODERS:
        config = shapes.config_of(name)
        return shapes.random_model(config, task.n_labels), config, shapes.tokenizer_of(name, config), name
    located = models.locate(name, where="--model")
    is_causal = task.kind == causal.KIND
    loaded = models.load_causal_lm(located) if is_causal else models.load_model(located, task.n_labels)
    return loaded, dict(located.config), located, located.name


def _trial(chosen: Chosen, task: Task, model_name: str, config: dict[str, Any]) -> Trial:
    budget = TrainBudget(
        max_steps=chosen.steps, eval_steps=chosen.steps, batch_size=chosen.batch_size, max_length=chosen.max_length,
        n_select=0,
    )  # fmt: skip
    shared = {"task": task.name, "model": model_name, "data_hash": "", "model_hash": "", "budget": budget}
    cell = {
        "seed": 0, "eta_A": 1e-6, "rank": chosen.rank, "lora_dropout": chosen.lora_dropout,
        "target_modules": chosen.target_modules,
    }  # fmt: skip
    if task.kind == causal.KIND and not chosen.target_modules:
        cell["target_modules"] = targets.ALL_LINEAR
    default = () if cell["target_modules"] else targets.default_targets(str(config["model_type"]))
    return study.make_trial(BASELINE, cell, shared=shared, default_targets=default)


def _encode(task: Task, located: Located, chosen: Chosen, config: dict[str, Any]) -> splits.EncodedData:
    if task is made_up.TASK:
        return made_up.data_of(chosen.steps * chosen.batch_size, int(config["vocab_size"]))
    data = tasks.load(task, chosen.data_dir)
    assert isinstance(data, splits.TextData)  # as its kind says
    if task.causal is not None:
        return causal.encode(
            data, located, task.causal, metric=task.metric, max_length=chosen.max_length, n_select=0
        )  # fmt: skip
    encoded = text.encode(
        data, located, n_labels=task.n_labels, metric=task.metric, max_length=chosen.max_length, n_select=0
    )
    if int(config.get("type_vocab_size") or 0) > 1:
        return encoded
    # another model's tokenizer may know token types that this model has no embedding for
    train, evaluation = replace(encoded.train, type_ids=None), replace(encoded.eval, type_ids=None)
    return replace(encoded, train=train, eval=evaluation)


def _check_rank(rank: int, config: dict[str, Any]) -> None:
    hidden = int(config.get("hidden_size") or config.get("dim") or config.get("n_embd") or rank)
    if rank > hidden:
        way_out = "choose a smaller rank"
        raise BadInput("--rank", f"must be <= {hidden}, the model's width", got=rank, way_out=way_out)


def _peer_versions() -> dict[str, str]:
    found = {}
    for name in PEER_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
