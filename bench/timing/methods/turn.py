"""One turn of one case: built, warmed, timed, taken apart, merged, evaluated before and after merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.core.clock import Clock
from bench.core.spec import Pack, Trial
from bench.data.splits import EncodedData
from bench.data.text import take
from bench.engine.adapted import AdaptedLayer
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.evaluate import evaluate, summed_loss
from bench.engine.loop import Loop
from bench.engine.memory import Meter
from bench.engine.paths import Path
from bench.engine.run import EngineOptions, prepare
from bench.engine.sizes import BYTES_OF
from bench.methods import LayerShape, Method
from bench.models._base import LoadedModel
from bench.schedule.planner import training_bytes
from bench.timing.methods.kept import kept_bytes
from bench.timing.methods.marks import Marks, Split, marking
from bench.timing.methods.merged import merge
from bench.timing.peers.timer import Timer

WARM_UP_STEPS = 3
SPLIT_STEPS = 3  # steps that are marked, beside those that are timed: marks make a GPU wait
EVAL_WARM_UP = 64  # examples
FP32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every turn of a run shares. `loaded` is on `device`, in the precision of the trials."""

    data: EncodedData
    loaded: LoadedModel
    device: torch.device
    steps: int
    timer: Timer
    meter: Meter


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one turn measured; seconds, bytes, numbers of one trial."""

    steps: int
    examples: int
    tokens: int
    seconds: float  # of the steps
    split: Split  # mean over SPLIT_STEPS steps
    peak_memory_bytes: int | None  # base weights, adapters, optimizer and activations
    kept_bytes: int  # for backward, of one batch in one piece
    kept_tokens: int  # of that batch
    n_trainable: int
    train_state_bytes: int  # trained weights, gradients and moments
    stored_bytes: int  # what is kept of a trained model beside the base
    adapter_flop_per_token: int | None
    merge_seconds: float | None  # None: nothing to merge
    eval_seconds: float
    merged_eval_seconds: float | None
    n_eval: int
    engine_path: str
    mora_r_hat: int | None = None


def take_turn(trial: Trial, bench: Bench) -> Turn:
    """Measure one trial, alone in its pack, from its initial weights."""
    bench.meter.start()
    bank, path, loop, batches = _build(trial, bench)
    for places in batches[:WARM_UP_STEPS]:
        loop.step(places)
    start = bench.timer.read()
    for places in batches[: bench.steps]:
        loop.step(places)
    seconds = bench.timer.read() - start
    peak = bench.meter.peak()
    # A method with adapters shares the base weights, which were there before the meter was started.
    shared = 0 if bank.method.trains_base else _bytes_of(bench.loaded.model.parameters())
    split = _split(loop, batches[:SPLIT_STEPS], bench.timer)
    kept, kept_tokens = _kept(bank, path, loop.split, batches[0])
    eval_seconds = _evaluate(path, bench)
    merge_seconds, merged_eval_seconds = _merged(bank, path, bench)
    lengths = bench.data.train.lengths
    return Turn(
        steps=bench.steps,
        examples=sum(map(len, batches[: bench.steps])),
        tokens=int(sum(lengths[places].sum() for places in batches[: bench.steps])),
        seconds=seconds,
        split=split,
        peak_memory_bytes=None if peak is None else peak + shared,
        kept_bytes=kept,
        kept_tokens=kept_tokens,
        n_trainable=bank.n_trainable(trial),
        train_state_bytes=training_bytes(trial.budget, bank.params.values.element_size()) * bank.n_trainable(trial),
        stored_bytes=_stored_bytes(bank, trial),
        adapter_flop_per_token=adapter_flop(bank.method, trial, bank.shapes),
        merge_seconds=merge_seconds,
        eval_seconds=eval_seconds,
        merged_eval_seconds=merged_eval_seconds,
        n_eval=len(bench.data.eval),
        engine_path=path.name,
        **bank.method.derived(trial, bank.shapes),
    )


def adapter_flop(method: Method, trial: Trial, shapes: Sequence[LayerShape]) -> int | None:
    """Return the FLOP of the adapters' products for one token forward; None: no formula is known for the method."""
    found = [method.flop_per_token(trial, shape) for shape in shapes]
    return None if None in found else sum(n for n in found if n is not None)


def _build(trial: Trial, bench: Bench) -> tuple[Bank, Path, Loop, list[npt.NDArray[np.int64]]]:
    """Return the pack of one trial as a sweep builds it, and the batches of its first steps, the same for all."""
    ready = prepare(Pack(trials=(trial,)), bench.data, bench.loaded, EngineOptions(device=bench.device))
    loop = Loop(
        ready.bank, ready.path, ready.train, trial.budget, n_chunks=ready.n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(1), objective=ready.objective,
    )  # fmt: skip
    n = max(bench.steps, WARM_UP_STEPS, SPLIT_STEPS)
    order = ready.train.order(seed=trial.seed, batch_size=trial.budget.batch_size, max_steps=n)
    return ready.bank, ready.path, loop, list(order)


def _split(loop: Loop, batches: Sequence[npt.NDArray[np.int64]], timer: Timer) -> Split:
    """Return the mean parts of these steps; the loop is as before afterwards."""
    marks, found = Marks(timer.read), []
    with marking(loop, marks):
        for places in batches:
            marks.set("other")
            loop.step(places)
            found.append(marks.split())
    n = len(found)
    return Split(
        forward=sum(s.forward for s in found) / n,
        backward=sum(s.backward for s in found) / n,
        optimizer=sum(s.optimizer for s in found) / n,
        other=sum(s.other for s in found) / n,
    )


def _kept(bank: Bank, path: Path, split: Batches, places: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the bytes kept for backward of a whole batch in one piece, and its tokens."""
    chunk = split.chunk(places)

    def forward() -> Tensor:
        return summed_loss(path.logits(chunk), chunk.labels_b)

    weights = [*bank.model.parameters(), *bank.model.buffers(), bank.params.values, *_frozen(bank)]
    with bank.training():
        return kept_bytes(forward, weights), chunk.n_tokens


def _frozen(bank: Bank) -> list[Tensor]:
    """Return the constants of the adapters, which are as lasting as weights."""
    layers = [module for module in bank.model.modules() if isinstance(module, AdaptedLayer)]
    return [value for layer in layers for value in layer.constants.values() if isinstance(value, Tensor)]


def _evaluate(path: Path, bench: Bench) -> float:
    """Return the seconds of one evaluation, after a small one; on a GPU after a whole one, which sees every shape."""
    split = bench.data.eval
    n_warm_up = len(split) if bench.device.type != "cpu" else min(EVAL_WARM_UP, len(split))
    small = take(split, np.arange(n_warm_up))
    evaluate(path, Batches(small, device=bench.device), small.labels, n_trials=1)
    batches = Batches(split, device=bench.device)
    start = bench.timer.read()
    evaluate(path, batches, split.labels, n_trials=1)
    return bench.timer.read() - start


def _merged(bank: Bank, path: Path, bench: Bench) -> tuple[float | None, float | None]:
    """Merge every adapter and evaluate again: seconds of both; None where there is nothing to merge."""
    if not bank.shapes or not bank.method.merges:
        return None, None
    start = bench.timer.read()
    merge(bank)
    seconds = bench.timer.read() - start
    return seconds, _evaluate(path, bench)


def _stored_bytes(bank: Bank, trial: Trial) -> int:
    """Return the bytes of a checkpoint: adapters and head in float32; of full fine-tuning the model in its own."""
    if bank.method.trains_base:
        return bank.n_total(trial) * BYTES_OF[trial.budget.precision]
    frozen = sum(tensor[0].numel() for tensor in bank.params.frozen.values())
    return FP32_BYTES * (bank.n_trainable(trial) + frozen)


def _bytes_of(tensors: object) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)  # type: ignore[attr-defined]
