"""What a sweep runs with on this machine: executor, pack limits, workload, place. Imports torch late."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import devices, provenance
from bench.core.errors import BadInput
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Precision, Trial
from bench.data import causal
from bench.data.splits import TextData
from bench.data.toy import ToyData
from bench.executors.local import LocalExecutor
from bench.models import Located
from bench.schedule import planner, workloads
from bench.schedule.planner import Limits
from bench.tasks import Task

if TYPE_CHECKING:
    from bench.data.splits import Encoded, EncodedData
    from bench.engine.bank import Bank
    from bench.executors.processes import ProcessExecutor
    from bench.models import LoadedModel

LOGS = "logs"
CPU_UNITS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}  # in torch.cpu's names


def local_executor(
    *,
    task: Task,
    data: TextData | ToyData,
    located: Located,
    device: str,
    log_dir: Path,
    state_dir: Path | None = None,
    on_steps: Callable[[int], None] = lambda n: None,
    limits: Limits | None = None,
) -> LocalExecutor[Any]:
    """Return an executor of this machine's device; tokens and model are loaded once, when the first pack runs.

    Packs that last for minutes keep their state below `state_dir`. By `limits`, with which packs are planned,
    the layers of some compute again in backward.
    """
    chosen = devices.resolve(device)
    load: Callable[[Trial], Any]
    train: Callable[..., Sequence[Outcome]]
    train_in: Callable[[Pack, Any, int], Sequence[Outcome]] | None = None
    probe: Callable[[Pack, Any], float] | None = None
    if isinstance(data, ToyData):
        load, train = (lambda _: data), functools.partial(_train_toy, device=chosen, on_steps=on_steps)
    else:
        load = functools.partial(load_for, task=task, data=data, located=located)
        checkpoints = functools.partial(planner.checkpoints, limits=limits or Limits())
        train = functools.partial(
            _train, device=chosen, on_steps=on_steps, state_dir=state_dir, checkpoints=checkpoints
        )
        train_in = train
        probe = functools.partial(_probe, device=chosen, checkpoints=checkpoints)
    return LocalExecutor(
        load=load,
        train=train,
        provenance=provenance.collect(workloads.place_of(device).device),
        metric_name=task.metric,
        log_dir=log_dir,
        free=_free,
        probe=probe,
        train_in=train_in,
    )


def processes_executor(
    *, task: Task, data: TextData | ToyData, located: Located, devices: Sequence[str], log_dir: Path,
    state_dir: Path, limits: Limits, time_limit_seconds: float | None = None,
) -> ProcessExecutor:  # fmt: skip
    """Return an executor of several devices of this machine, a process for each; one of a CPU has one thread."""
    from bench.executors._workers import WorkerOptions
    from bench.executors.processes import Place, ProcessExecutor

    settings: dict[str, Any] = {
        "task": task,
        "data": data,
        "located": located,
        "state_dir": state_dir,
        "limits": limits,
    }
    places = [
        Place(
            name=device,
            make=functools.partial(_made_in_process, device=device, **settings),
            threads=1 if device == "cpu" else None,
        )
        for device in devices
    ]
    return ProcessExecutor(
        places=places,
        provenance=provenance.collect(workloads.place_of(devices[0]).device),
        metric_name=task.metric,
        options=WorkerOptions(time_limit_seconds=time_limit_seconds),
        log_dir=log_dir,
    )


def _made_in_process(log_dir: Path, **settings: Any) -> LocalExecutor[Any]:
    return local_executor(log_dir=log_dir, **settings)


def check_precision(precision: Precision, device: str) -> None:
    """Refuse a precision that the device lacks or would only emulate; imports torch where it must be asked."""
    chosen = devices.resolve(device)
    if chosen == devices.MPS:
        _check_on_mps(precision)
    if chosen.startswith("cuda") and precision in ("tf32", "bf16"):
        _check_on_cuda(precision, devices.capability(devices.index_of(chosen)))
    if chosen == "cpu" and precision == "tf32":
        rule = "must be one the device computes in: tf32 is for CUDA GPUs"
        raise BadInput("--precision", rule, got=precision, way_out="use --precision fp32")
    if chosen != "cpu" or precision not in CPU_UNITS:
        return
    import torch

    if not any(torch.cpu.get_capabilities().get(unit) for unit in CPU_UNITS[precision]):
        rule = f"must be one the device computes in: this CPU has none of {', '.join(CPU_UNITS[precision])}"
        raise BadInput("--precision", rule, got=precision, way_out="use --precision fp32")


def _check_on_cuda(precision: Precision, capability: tuple[int, int]) -> None:
    """Refuse what matrix units before Ampere's do not multiply in, and torch would only emulate."""
    if capability < devices.AMPERE:
        got = f"{precision} on a GPU of capability {capability[0]}.{capability[1]}"
        rule = "must be one the device computes in: tf32 and bf16 need capability 8.0"
        raise BadInput("--precision", rule, got=got, way_out="use --precision fp16 or fp32")


def _check_on_mps(precision: Precision) -> None:
    """Refuse what Metal has no numbers for: fp64, and a half precision in which one small product fails."""
    if precision == "fp32":
        return
    from bench.engine import hardware
    from bench.engine.run import DTYPES

    if precision in ("fp64", "tf32") or not hardware.computes(DTYPES[precision], devices.MPS):
        rule = f"must be one the device computes in: mps has no {precision} here"
        raise BadInput("--precision", rule, got=precision, way_out="use --precision fp32, or --device cpu")


def check_base(trials: Sequence[Trial], *, is_causal: bool, device: str) -> None:
    """Refuse a base in 4 bits where it is trained itself, without a language model or bitsandbytes, and on mps.

    Raises:
        BadInput: by whichever of these comes first.
    """
    from bench import methods, models

    if all(trial.budget.base_precision == "same" for trial in trials):
        return
    where, way_out = "base_precision", "leave base_precision out, or leave those trials out with --methods"
    if not is_causal:
        rule = "nf4 is for language models, whose Linear layers are large"
        raise BadInput(where, rule, got="a task that is read, not written", way_out="leave base_precision out")
    trained = next((t.method for t in trials if methods.get(t.method).trains_base), None)
    if trained is not None:
        raise BadInput(where, "a base in 4 bits cannot be trained itself", got=f"method {trained}", way_out=way_out)
    if devices.resolve(device) == devices.MPS:
        raise BadInput(where, "nf4 is for cpu and cuda", got=f"device {device}", way_out="leave base_precision out")
    models.require_nf4()


def load_for(trial: Trial, *, task: Task, data: TextData, located: Located) -> tuple[EncodedData, LoadedModel]:
    """Return the tokens and the base model of trials like this one, on the CPU."""
    from bench import methods, models
    from bench.data import text
    from bench.engine.run import DTYPES, settle_process
    from bench.methods._base import base_precision

    settle_process()
    budget = trial.budget
    precision = base_precision(budget.precision, methods.get(trial.method))
    if task.causal is not None:
        tokens = causal.encode(
            data, located, task.causal, metric=task.metric, max_length=budget.max_length, n_select=budget.n_select
        )
        _check_ids(tokens, located)
        tokens = replace(tokens, other_metrics=task.other_metrics, text=_fixed_text(trial, tokens, task, located))
        return tokens, models.load_causal_lm(located, DTYPES[precision], budget.base_precision)
    encoded = text.encode(
        data,
        located,
        n_labels=task.n_labels,
        metric=task.metric,
        max_length=budget.max_length,
        n_select=budget.n_select,
    )
    encoded = replace(encoded, other_metrics=task.other_metrics, classes=task.labels)
    _check_ids(encoded, located)
    return encoded, models.load_model(located, task.n_labels, DTYPES[precision], task.labels)


def _fixed_text(trial: Trial, tokens: EncodedData, task: Task, located: Located) -> Encoded | None:
    """Return as much of the task's fixed text as the trial's training may be charged for."""
    from bench import models
    from bench.data import forgetting

    if task.fixed_text is None:
        return None
    budget = trial.budget
    most = forgetting.most_tokens(budget.max_steps * budget.batch_size * float(tokens.train.lengths.mean()))
    tokenizer = models.load_tokenizer(located)
    return forgetting.encode(task.fixed_text, tokenizer, most=most, max_length=budget.max_length)


def _check_ids(data: EncodedData, located: Located) -> None:
    from bench import models

    for split in (data.train, data.eval):
        models.check_ids(located, split.ids)


def _train(
    pack: Pack, loaded: tuple[EncodedData, LoadedModel], more_chunks: int = 1, *, device: str,
    on_steps: Callable[[int], None], state_dir: Path | None = None,
    checkpoints: Callable[[Trial], bool] = lambda trial: False,
) -> Sequence[Outcome]:  # fmt: skip
    import torch

    from bench.core.clock import Clock
    from bench.engine import hardware
    from bench.engine.memory import meter_of
    from bench.engine.run import EngineOptions, run_pack

    chosen = torch.device(device)
    clock = Clock(synchronize=hardware.waiting_for(chosen))
    data, model = loaded
    options = EngineOptions(device=chosen, gradient_checkpointing=checkpoints(pack.trials[0]), more_chunks=more_chunks)
    meter = meter_of(chosen)
    return run_pack(pack, data, model, options, clock=clock, on_steps=on_steps, meter=meter, state_dir=state_dir)


def _probe(
    pack: Pack, loaded: tuple[EncodedData, LoadedModel], *, device: str, checkpoints: Callable[[Trial], bool]
) -> float:
    import torch

    from bench.core.clock import Clock
    from bench.engine import hardware
    from bench.engine.probe import seconds_per_trial_step
    from bench.engine.run import EngineOptions

    chosen, (data, model) = torch.device(device), loaded
    # On a CPU the time in which this thread computes: a machine that is busy elsewhere would make any size the fastest.
    now = time.thread_time if chosen.type == "cpu" else time.perf_counter
    clock = Clock(now=now, synchronize=hardware.waiting_for(chosen))
    options = EngineOptions(device=chosen, gradient_checkpointing=checkpoints(pack.trials[0]))
    return seconds_per_trial_step(pack, data, model, options, clock=clock)


def train_once(
    trial: Trial, *, task: Task, data: TextData, located: Located, device: str,
    keep: Callable[[Bank, LoadedModel], None],
) -> Outcome:  # fmt: skip
    """Train a trial alone, in no study; `keep` gets its weights and its base model unless it has diverged."""
    import torch

    from bench.core.clock import Clock
    from bench.engine import hardware
    from bench.engine.run import EngineOptions, run_pack

    chosen = torch.device(devices.resolve(device))
    encoded, loaded = load_for(trial, task=task, data=data, located=located)
    banks: list[Bank] = []
    (outcome,) = run_pack(
        Pack(trials=(trial,)), encoded, loaded, EngineOptions(device=chosen),
        clock=Clock(synchronize=hardware.waiting_for(chosen)), on_trained=banks.append,
    )  # fmt: skip
    if outcome.status is Status.OK:
        keep(banks[0], loaded)
    return outcome


def _train_toy(pack: Pack, data: ToyData, *, device: str, on_steps: Callable[[int], None]) -> Sequence[Outcome]:
    import torch

    from bench.core.clock import Clock
    from bench.engine import hardware, toy

    chosen = torch.device(device)
    return toy.run_pack(
        pack, data, device=chosen, clock=Clock(synchronize=hardware.waiting_for(chosen)), on_steps=on_steps
    )


def _free() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if devices.has_mps():
        torch.mps.empty_cache()
