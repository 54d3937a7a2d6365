"""What a sweep runs with on this machine: executor, pack limits, workload, place. Imports torch late."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import devices, provenance
from bench.core.errors import BadInput
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Trial
from bench.data import causal
from bench.data.text import Split, TextData
from bench.data.toy import MODEL_TYPE as TOY
from bench.data.toy import ToyData
from bench.executors.local import LocalExecutor
from bench.models import Located
from bench.schedule.estimate import Place, Workload, matmul_params
from bench.schedule.planner import Limits, Shape
from bench.tasks import Task

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from bench.data.text import EncodedData
    from bench.engine.bank import Bank
    from bench.models import LoadedModel

SAMPLE = 500  # texts of a split whose tokens are counted: the standard error of their mean is about 3 %
TOKENS_PER_WORD = 1.3  # where there is no tokenizer.json; only time estimate and pack size rest on it
LOGS = "logs"
STACKABLE = ("bert", "roberta", "xlm-roberta")  # those that take the engine's unpadded path
CPU_UNITS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}  # in torch.cpu's names
TOY_PACK = 1024  # the toy's trials are small, and few large parts are read faster than many small ones
TOY_PARAMS = 1000  # P of the toy: its five products of width x rank take 4P FLOP for each training example


def place_of(device: str) -> Place:
    """Return where trials run: the device's name, as rows tell it, and its kind."""
    chosen = devices.resolve(device)
    if chosen == "cpu":
        return Place(device=provenance.cpu_name(), kind="cpu")
    return Place(device=devices.gpu_name(devices.index_of(chosen)), kind="cuda")


def workload_of(data: TextData | ToyData, located: Located, n_select: int) -> Workload:
    """Return what the work of a trial depends on; tokens are counted on a sample of the texts."""
    if isinstance(data, ToyData):
        return Workload(matmul_params=TOY_PARAMS, train_tokens=1.0, n_eval=len(data.eval), eval_tokens=1.0)
    return Workload(
        matmul_params=matmul_params(located.config),
        train_tokens=mean_tokens(data.train, located),
        n_eval=len(data.eval),
        eval_tokens=mean_tokens(data.eval, located),
        n_select=min(n_select, len(data.train) // 10),
    )


def limits_of(device: str, located: Located, train_tokens: float) -> Limits:
    """Return what bounds a pack on a device.

    By its whole memory, not what happens to be free: a resumed sweep must form the same packs.
    """
    chosen = devices.resolve(device)
    sizes = {key: int(str(located.config.get(key) or 0)) for key in ("num_hidden_layers", "n_layers", "n_layer")}
    hidden = next(
        (int(str(located.config[key])) for key in ("hidden_size", "dim", "n_embd") if key in located.config), 0
    )
    shape = Shape(
        n_layers=max(sizes.values()),
        hidden_size=hidden,
        train_tokens=train_tokens,
        n_weights=_stackable(located, hidden),
    )
    return Limits(
        max_pack_size=TOY_PACK if located.model_type == TOY else None,
        device_kind=chosen.partition(":")[0],
        memory_bytes=devices.memory_bytes(chosen),
        shape=shape if shape.n_layers and shape.hidden_size else None,
    )


def _stackable(located: Located, hidden: int) -> int:
    """Return the weights of a base that can be trained K times side by side, embeddings included; 0 if it cannot."""
    if located.model_type not in STACKABLE:
        return 0
    return matmul_params(located.config) + int(located.config.get("vocab_size") or 0) * hidden


def mean_tokens(split: Split, located: Located) -> float:
    """Return the mean number of tokens of an example, special tokens included, from a sample of SAMPLE examples."""
    places = range(0, len(split), max(1, len(split) // SAMPLE))
    pairs = split.pairs
    examples = [(split.texts[i],) if pairs is None else (split.texts[i], pairs[i]) for i in places]
    tokenizer = _tokenizer(located.directory / "tokenizer.json")
    if tokenizer is None:
        return sum(2 + TOKENS_PER_WORD * len(" ".join(texts).split()) for texts in examples) / len(examples)
    encoded = tokenizer.encode_batch([texts if len(texts) > 1 else texts[0] for texts in examples])
    return sum(len(encoding.ids) for encoding in encoded) / len(encoded)


def local_executor(
    *,
    task: Task,
    data: TextData | ToyData,
    located: Located,
    device: str,
    log_dir: Path,
    state_dir: Path | None = None,
    on_steps: Callable[[int], None] = lambda n: None,
) -> LocalExecutor[Any]:
    """Return an executor of this machine's device; tokens and model are loaded once, when the first pack runs.

    Packs that last for minutes keep their state below `state_dir`.
    """
    chosen = devices.resolve(device)
    load: Callable[[Trial], Any]
    train: Callable[[Pack, Any], Sequence[Outcome]]
    probe: Callable[[Pack, Any], float] | None = None
    if isinstance(data, ToyData):
        load, train = (lambda _: data), functools.partial(_train_toy, device=chosen, on_steps=on_steps)
    else:
        load = functools.partial(_load, task=task, data=data, located=located)
        train = functools.partial(_train, device=chosen, on_steps=on_steps, state_dir=state_dir)
        probe = functools.partial(_probe, device=chosen)
    return LocalExecutor(
        load=load,
        train=train,
        provenance=provenance.collect(place_of(device).device),
        metric_name=task.metric,
        log_dir=log_dir,
        free=_free,
        probe=probe,
    )


def check_precision(precision: str, device: str) -> None:
    """Refuse a precision that the device would only emulate; imports torch where it must be asked."""
    if devices.resolve(device) != "cpu" or precision not in CPU_UNITS:
        return
    import torch

    if not any(torch.cpu.get_capabilities().get(unit) for unit in CPU_UNITS[precision]):
        rule = f"must be one the device computes in: this CPU has none of {', '.join(CPU_UNITS[precision])}"
        raise BadInput("--precision", rule, got=precision, way_out="use --precision fp32")


def _load(trial: Trial, *, task: Task, data: TextData, located: Located) -> tuple[EncodedData, LoadedModel]:
    from bench import methods, models
    from bench.data import text
    from bench.engine.run import DTYPES, settle_cpu
    from bench.methods._base import base_precision

    settle_cpu()
    budget = trial.budget
    precision = base_precision(budget.precision, methods.get(trial.method))
    if task.causal is not None:
        tokens = causal.encode(
            data, located, task.causal, metric=task.metric, max_length=budget.max_length, n_select=budget.n_select
        )
        _check_ids(tokens, located)
        return replace(tokens, other_metrics=task.other_metrics), models.load_causal_lm(located, DTYPES[precision])
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


def _check_ids(data: EncodedData, located: Located) -> None:
    from bench import models

    for split in (data.train, data.eval):
        models.check_ids(located, split.ids)


def _train(
    pack: Pack, loaded: tuple[EncodedData, LoadedModel], *, device: str, on_steps: Callable[[int], None],
    state_dir: Path | None = None,
) -> Sequence[Outcome]:  # fmt: skip
    import torch

    from bench.core.clock import Clock
    from bench.engine.memory import meter_of
    from bench.engine.run import EngineOptions, run_pack

    chosen = torch.device(device)
    clock = Clock(synchronize=_waiting_for(chosen))
    data, model = loaded
    options, meter = EngineOptions(device=chosen), meter_of(chosen)
    return run_pack(pack, data, model, options, clock=clock, on_steps=on_steps, meter=meter, state_dir=state_dir)


def _probe(pack: Pack, loaded: tuple[EncodedData, LoadedModel], *, device: str) -> float:
    import torch

    from bench.core.clock import Clock
    from bench.engine.probe import seconds_per_trial_step
    from bench.engine.run import EngineOptions

    chosen, (data, model) = torch.device(device), loaded
    clock = Clock(synchronize=_waiting_for(chosen))
    return seconds_per_trial_step(pack, data, model, EngineOptions(device=chosen), clock=clock)


def train_once(
    trial: Trial, *, task: Task, data: TextData, located: Located, device: str,
    keep: Callable[[Bank, LoadedModel], None],
) -> Outcome:  # fmt: skip
    """Train a trial alone, in no study; `keep` gets its weights and its base model unless it has diverged."""
    import torch

    from bench.core.clock import Clock
    from bench.engine.run import EngineOptions, run_pack

    chosen = torch.device(devices.resolve(device))
    encoded, loaded = _load(trial, task=task, data=data, located=located)
    banks: list[Bank] = []
    (outcome,) = run_pack(
        Pack(trials=(trial,)), encoded, loaded, EngineOptions(device=chosen),
        clock=Clock(synchronize=_waiting_for(chosen)), on_trained=banks.append,
    )  # fmt: skip
    if outcome.status is Status.OK:
        keep(banks[0], loaded)
    return outcome


def _train_toy(pack: Pack, data: ToyData, *, device: str, on_steps: Callable[[int], None]) -> Sequence[Outcome]:
    import torch

    from bench.core.clock import Clock
    from bench.engine import toy

    chosen = torch.device(device)
    return toy.run_pack(pack, data, device=chosen, clock=Clock(synchronize=_waiting_for(chosen)), on_steps=on_steps)


def _waiting_for(device: torch.device) -> Callable[[], None]:
    import torch

    return functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _free() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tokenizer(path: Path) -> Tokenizer | None:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # the library raises plain Exception; the run itself names what is wrong with the file
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
