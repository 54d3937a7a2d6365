"""`run_pack`: a pack, its data and its model in; one Outcome for each trial out."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any, Literal

import numpy as np
import torch

from bench import methods
from bench.core import metrics, provenance
from bench.core.clock import Clock, Phase
from bench.core.record import Outcome, Status, known
from bench.core.spec import Pack, Precision
from bench.data import causal, forgetting, predictions
from bench.data.splits import Encoded, EncodedData
from bench.engine import guard, hardware, kernel_probe, legs, packed, state, unpadded
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.causal import NextTokens, Written
from bench.engine.checkpointing import checkpoint_layers
from bench.engine.chunking import CHUNK_WIDTH, least_chunks, memory_rows, n_chunks
from bench.engine.dropout import Together
from bench.engine.loop import Loop, Training
from bench.engine.memory import Meter, give_back, settle_base
from bench.engine.objective import Classification, Objective, Regression, Scored
from bench.engine.paths import BankPath, Path, settle_masks
from bench.engine.sizes import shape_of, writes_texts
from bench.models._base import LoadedModel

DTYPES: dict[Precision, torch.dtype] = {  # of the base; adapters, head and optimizer are at least float32
    "fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
KERNELS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How a pack is run, without effect on what comes out (up to float order)."""

    device: torch.device
    path: Literal["auto", "bank", "unpadded", "packed"] = "auto"
    n_chunks: int | None = None  # None: chosen by the number of tokens
    more_chunks: int = 1  # times as many as are chosen by the number of tokens
    gradient_checkpointing: bool = False  # layers keep their inputs alone, and compute again in backward
    isolated: bool = False  # the device does nothing else: times may be compared


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A pack that is built and has not trained."""

    bank: Bank
    path: Path
    objective: Objective
    train: Batches
    n_chunks: int


def settle_process() -> None:
    """Set how torch computes, for the whole process; before it starts its threads, compiles a kernel or uses a GPU.

    Numbers below 1.2e-38 count as 0: gradients and moments of trials that have saturated get there, and many CPUs
    compute with them far more slowly. And oneDNN keeps KERNELS of the kernels that it compiles for each shape of a
    product in half precision; with its usual 1,024 it drops kernels that the next batches need (docs/log.md for both).
    """
    torch.set_flush_denormal(True)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    hardware.settle_allocator()


def prepare(pack: Pack, data: EncodedData, loaded: LoadedModel, options: EngineOptions) -> Ready:
    """Return the pack built for training on `data.train`: the same for a sweep and for whatever times its steps.

    Raises:
        BadInput: where a setting does not fit the model, and where the model would not train as itself (guard.py).
    """
    trial, device = pack.trials[0], options.device
    kernel_probe.settle(device)
    dtype = DTYPES[trial.budget.precision]
    bank = Bank(loaded, pack.trials, methods.get(trial.method), device=device, dtype=dtype)
    kind: Literal["causal", "classification"] = "causal" if data.reading else "classification"
    writes = data.reading is not None and causal.writes(data.metric, *data.other_metrics)
    path = choose_path(
        bank, options.path, functools.partial(guard.problem, loaded, trial, bank.shapes, kind, writes=writes)
    )
    guard.require(loaded, trial, bank.shapes, kind, path.name, writes=writes)
    ragged = writes and guard.ragged_problem(loaded, trial, bank.shapes, path.name) is None
    if options.gradient_checkpointing and path.name != "unpadded":  # whose texts are short
        checkpoint_layers(bank)
    elif device.type != "cpu":
        bank.keys.together = Together()
    train = Batches(data.train, device=device)
    settle_masks(bank, path, train.chunk(np.arange(min(2, train.n))))
    of_model = _of_model(loaded, data, options, pack)
    return Ready(
        bank=bank, path=path, objective=objective_of(data, bank, ragged=ragged), train=train,
        n_chunks=options.n_chunks or options.more_chunks * default_chunks(data, pack, path.name, device, **of_model),
    )  # fmt: skip


def _of_model(loaded: LoadedModel, data: EncodedData, options: EngineOptions, pack: Pack) -> dict[str, Any]:
    """Return what of a model the number of chunks follows from: its width, and a GPU's room for a chunk."""
    config = loaded.model.config.get_text_config()
    is_decoder, mean = data.reading is not None or writes_texts(config.to_dict()), float(data.train.lengths.mean())
    shape = shape_of(config.to_dict(), is_decoder=is_decoder, train_tokens=mean)
    kept = shape.token_bytes(pack.trials[0], checkpointed=options.gradient_checkpointing)
    # transformers maps n_embd, d_model and dim to it; a config of several parts may have none of its own
    width = int(getattr(config, "hidden_size", None) or CHUNK_WIDTH)
    return {"hidden_size": width, "rows": memory_rows(hardware.memory_bytes(options.device), kept)}


def run_pack(
    pack: Pack, data: EncodedData, loaded: LoadedModel, options: EngineOptions,
    *, clock: Clock, on_steps: Callable[[int], None] = lambda n: None,
    on_trained: Callable[[Bank], None] = lambda bank: None, meter: Meter | None = None,
    state_dir: FilePath | None = None,
) -> list[Outcome]:  # fmt: skip
    """Train and evaluate the trials of a pack together; return their outcomes in slot order.

    `on_trained` gets the bank with its final weights, after the last evaluation; `meter` measures peak memory.
    A pack that lasts saves its state below `state_dir` now and then, and goes on from one that is there (see state.py).
    A pack with `until` pauses there: its trials' states are kept below `state_dir`, their outcomes have status paused.

    Raises:
        BadInput: before anything trains, where a setting does not fit the model.
        torch.OutOfMemoryError, RuntimeError: out of memory is the caller's to handle: it halves the pack.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    trial, device = pack.trials[0], options.device
    if meter is not None:
        with clock.phase("setup"):
            settle_base(loaded.model, device, is_shared=not methods.get(trial.method).trains_base)
        meter.start()
    with clock.phase("setup"):
        ready = prepare(pack, data, loaded, options)
        bank, path, objective, train = ready.bank, ready.path, ready.objective, ready.train
        dev = Batches(data.eval, device=device)
    latest: list[Scored] = []
    # a pack that pauses reads the text when it goes on to the end: its trials then start from their first weights, too
    before = (
        _text_loss(ready, pack, data, clock) if pack.until is None or pack.until >= trial.budget.max_steps else None
    )

    def measure() -> np.ndarray:
        with clock.phase("eval"):
            if device.type == "cpu" and path.name == "packed":  # larger pieces than in training, for which none fits
                give_back()
            latest[:] = [objective.evaluate(path, dev, n_trials=pack.size)]
        return np.where(np.isfinite(latest[0].loss_K), latest[0].score(data.metric)[0], np.nan)

    n_chunks = ready.n_chunks
    keeper = shelf = None
    if state_dir is not None:
        way = (provenance.source_hash(), device.type, n_chunks, path.name)  # any device of the kind goes on
        keeper = state.Keeper(state_dir / f"{pack.pack_id}.safetensors", key=state.key_of(pack, *way))
        shelf = state.Shelf(state_dir, provenance.source_hash())
    loop = Loop(bank, path, train, trial.budget, n_chunks=n_chunks, clock=clock, evaluate=measure, on_steps=on_steps,
                objective=objective, keeper=keeper)  # fmt: skip
    if pack.start:
        legs.take_up(loop, pack, shelf)
    training = loop.run(pack.until)
    if pack.until is not None and training.steps_done < trial.budget.max_steps:
        return legs.pause(loop, pack, shelf, data.metric, started_at)
    if isinstance(latest[0], Written) and isinstance(objective, NextTokens) and causal.writes(*data.other_metrics):
        with clock.phase("eval"):
            latest[0] = objective.with_texts(latest[0], dev)
    chosen, tested = (_scored(split, ready, pack, options, clock) for split in (data.select, data.test))
    after = None if before is None else _text_loss(ready, pack, data, clock)
    shared = _Shared(data=data, bank=bank, engine_path=loop.engine_path, objective=objective, training=training,
                     clock=clock, started_at=started_at, peak_memory_bytes=None if meter is None else meter.peak(),
                     isolated=options.isolated and pack.size == 1, dev=latest[0], select=chosen, test=tested,
                     text=None if before is None or after is None else (before, after),
                     others=latest[0].several(data.other_metrics, data.classes))  # fmt: skip
    on_trained(bank)
    return [_outcome(k, shared) for k in range(pack.size)]


def _scored(split: Encoded | None, ready: Ready, pack: Pack, options: EngineOptions, clock: Clock) -> Scored | None:
    """Return what the trained pack makes of a split, if there is one."""
    if split is None:
        return None
    with clock.phase("eval"):
        return ready.objective.evaluate(ready.path, Batches(split, device=options.device), n_trials=pack.size)


def _text_loss(ready: Ready, pack: Pack, data: EncodedData, clock: Clock) -> np.ndarray | None:
    """Return each trial's loss per token on the fixed text, [K]; None where there is no text."""
    if data.text is None or not isinstance(ready.objective, NextTokens):
        return None
    with clock.phase("eval"):
        split = Batches(data.text, device=ready.bank.device)
        return ready.objective.read(ready.path, split, n_trials=pack.size).loss_K


def objective_of(data: EncodedData, bank: Bank, *, ragged: bool = False) -> Objective:
    """Return what is trained on: targets of a causal language model where they are to be read, numbers or classes.

    `ragged` says that prompts of several lengths may be written after together.
    """
    if data.reading is not None:
        return NextTokens(bank, data.metric, data.reading, ragged=ragged)
    return Regression(data.train.labels) if metrics.get(data.metric).of == "numbers" else Classification(data.n_labels)


def choose_path(bank: Bank, wanted: str, problem: Callable[[str], str | None] = lambda name: None) -> Path:
    """Return the path that is wanted; "auto": the unpadded one, else the packed one, else the bank path.

    `problem` says why the model does not compute on the path of this name what it computes alone, or None (guard.py).

    Raises:
        ValueError: `wanted` is "unpadded" or "packed" and the model does not allow it.
    """
    reasons = {"unpadded": unpadded.problem(bank.model.config), "packed": packed.problem(bank.model)}
    if reasons.get(wanted) is not None:
        raise ValueError(f"path {wanted}: {reasons[wanted]}")
    if wanted == "bank":
        return BankPath(bank)
    if wanted != "packed" and reasons["unpadded"] is None:
        return unpadded.UnpaddedPath(bank)
    if wanted == "packed" or (reasons["packed"] is None and problem("packed") is None):
        return packed.PackedPath(bank)
    return BankPath(bank)


def default_chunks(
    data: EncodedData, pack: Pack, path: str, device: torch.device, *, hidden_size: int, rows: float | None = None
) -> int:
    """Return into how many chunks a batch is cut; `rows` of all trials are as many as a chunk may hold on a GPU."""
    budget = pack.trials[0].budget
    tokens = data.train.lengths.mean() * budget.batch_size * pack.size
    is_half, on_cpu = budget.precision in ("bf16", "fp16"), device.type == "cpu"
    least = least_chunks(path, tokens, is_half=is_half, on_cpu=on_cpu)
    return n_chunks(tokens, hidden_size=hidden_size, is_half=is_half, on_cpu=on_cpu, least=least, rows=rows,
                    most=budget.batch_size)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What the outcomes of one pack are made from."""

    data: EncodedData
    bank: Bank
    engine_path: str
    objective: Objective
    training: Training
    clock: Clock
    started_at: str
    peak_memory_bytes: int | None
    isolated: bool
    dev: Scored
    select: Scored | None
    test: Scored | None
    text: tuple[np.ndarray, np.ndarray] | None  # loss on the fixed text before and after, [K] each
    others: Mapping[str, tuple[np.ndarray, np.ndarray]]


def _outcome(k: int, pack: _Shared) -> Outcome:
    trial, bank, training = pack.bank.trials[k], pack.bank, pack.training
    share = pack.bank.n_trials
    before = training.before_K[k]
    train_seconds = (pack.clock.seconds("train") or 0.0) / share + before.get("train", 0.0)
    diverged = int(training.diverged_step_K[k]) or None
    finite = diverged is None and math.isfinite(float(pack.dev.loss_K[k]))
    if diverged is None and not finite:
        diverged = training.steps_done
    curve = training.curves[k]
    return Outcome(
        status=Status.OK if finite else Status.DIVERGED,
        reason=None if diverged is None else legs.not_finite(diverged),
        metric_name=pack.data.metric,
        steps_done=training.steps_done if diverged is None else diverged - 1,
        diverged_step=diverged,
        n_trainable=bank.n_trainable(trial),
        head_new=json.dumps(bank.new_names[k]),
        n_total=bank.n_total(trial),
        train_seconds=train_seconds,
        setup_seconds=_own(pack.clock, before, "setup", share),
        compile_seconds=_own(pack.clock, before, "compile", share),
        eval_seconds=_own(pack.clock, before, "eval", share),
        timing_mode="isolated" if pack.isolated else "pack_share",
        engine_path=pack.engine_path,
        examples_per_second=training.examples / train_seconds,
        tokens_per_second=training.tokens / train_seconds,
        peak_memory_bytes=pack.peak_memory_bytes,
        curve=tuple(curve),
        started_at=pack.started_at,
        **bank.method.derived(trial, bank.shapes),  # type: ignore[arg-type]
        **(_scores(k, pack) if finite else {"n_eval": len(pack.data.eval)}),
    )


def _scores(k: int, pack: _Shared) -> dict[str, object]:
    """Return the columns that only a trial with finite logits has."""
    value, stderr = (x[k] for x in pack.dev.score(pack.data.metric))
    best = max if metrics.higher_is_better(pack.data.metric) else min
    train_loss, correct = pack.training.curves[k][-1].train_loss, pack.dev.correct(k)
    predicted = pack.dev.predictions(k)
    packed, kind = (None, None) if predicted is None else predictions.pack(predicted, pack.data.n_labels)
    collapsed = pack.dev.says_one_thing(k) or (train_loss or 0.0) > pack.objective.chance_loss
    return {
        "collapsed": bool(collapsed),
        "metric_value": float(value),
        "metric_stderr": known(stderr),
        "other_metrics": {name: known(values[k]) for name, (values, _) in pack.others.items()} or None,
        "other_metrics_stderr": {name: known(errors[k]) for name, (_, errors) in pack.others.items()} or None,
        "accuracy": pack.dev.accuracy(k),
        "select_metric": None if pack.select is None else float(pack.select.score(pack.data.metric)[0][k]),
        "best_metric": best(p.metric_value for p in pack.training.curves[k] if p.metric_value is not None),
        "n_eval": len(pack.data.eval),
        "eval_correct": None if correct is None else np.packbits(correct).tobytes(),
        "eval_predictions": packed,
        "eval_predictions_type": kind,
        "train_loss": train_loss,
        "eval_loss": float(pack.dev.loss_K[k]),
        **_tested(k, pack),
        **_forgotten(k, pack),
    }


def _tested(k: int, pack: _Shared) -> dict[str, object]:
    """Return the columns of the test split, where it is scored."""
    if pack.test is None:
        return {}
    value, stderr = (x[k] for x in pack.test.score(pack.data.metric))
    n_test = None if pack.data.test is None else len(pack.data.test)
    found = {"test_metric": known(value), "test_metric_stderr": known(stderr)}
    return {**found, "n_test": n_test, "test_hash": pack.data.test_hash}


def _forgotten(k: int, pack: _Shared) -> dict[str, object]:
    """Return the columns of the fixed text, where there is one."""
    if pack.text is None or pack.data.text is None:
        return {}
    before, after = (known(loss_K[k]) for loss_K in pack.text)
    told = {"forgetting_tokens": len(pack.data.text.ids), "forgetting_hash": forgetting.hash_of(pack.data.text)}
    return {"forgetting_before": before, "forgetting_after": after, **told}


def _own(clock: Clock, before: Mapping[Phase, float], phase: Phase, share: int) -> float | None:
    """Return a trial's seconds of a phase, its share of the pack's and what it brought along; None: it never ran."""
    seconds = clock.seconds(phase)
    if seconds is None:
        return before.get(phase)
    return seconds / share + before.get(phase, 0.0)
