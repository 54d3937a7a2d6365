"""The whole grid -> packs: who may train together, how many fit; and which packs are left to run. No torch.

Packs are planned over the whole grid, whatever is finished, so that a resumed sweep forms the same packs as an
uninterrupted one.
"""

from __future__ import annotations

import functools
import heapq
import json
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from bench import methods
from bench.core import metrics
from bench.core.spec import Pack, Study, TrainBudget, Trial
from bench.engine import optimizers
from bench.engine.chunking import is_recorded, least_chunks, memory_rows, n_chunks
from bench.engine.sizes import BYTES_OF, UNCUT_KEPT, VALUES_KEPT, Shape
from bench.schedule import decoders

# The most trials of a pack where memory allows more and no measurement says less: the largest size that was measured to
# gain. CPUs gain nothing after about 16; on an H200 128 trials of RoBERTa-base took 0.63 ms a trial-step, 64 took 0.67.
MAX_PACK_SIZE = {"cpu": 16, "cuda": 128}
LEAST_PACK = 4  # before a pack gets smaller, layers compute again in backward
MOST_CUTS = 4  # packs for each device, where packs are cut evenly
SPREAD = 3  # packs that each device still gets, at the least, while packs can be cut
# What a step of a pack takes whatever its size, in trials. CPU: 42 ms alone, 18 in a pack of 16 (tiny-roberta, demo).
# GPU: with each kernel launched, RoBERTa-base in bf16 on an H200 took 43.5 ms for one trial and 107.5 for 64; recorded,
# 3.6 and 43.0. So it is 3.5 and 0.25 ms for each of 12 layers, at 150 and 240 useful TFLOP/s of each trial.
PACK_OVERHEAD = {"cpu": 1.5, "launched": 42.0, "recorded": 4.75}
LAYER_SECONDS = {"launched": 3.5e-3, "recorded": 0.25e-3}
USEFUL_FLOPS = {"launched": 150e12, "recorded": 240e12}
SINGLE = 16  # times as long as in bf16 products of fp32 take there
MEMORY_SHARE = 0.6  # of the free memory; the rest is the base model, evaluation, the allocator's slack


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What bounds a pack."""

    max_pack_size: int | None = None  # None: by kind of device
    device_kind: str = "cpu"
    memory_bytes: int | None = None  # free on the device; None: not bounded by memory
    shape: Shape | None = None
    gradient_checkpointing: bool | None = None  # None: where a pack would be smaller than LEAST_PACK
    measured: Mapping[str, int] = field(
        default_factory=dict
    )  # by kind: the size found fastest (see bench.schedule.pack_sizes)


def limits_for(study: Study, limits: Limits) -> Limits:
    """Return the limits with the study's own pack size, where it sets one."""
    limits = replace(limits, gradient_checkpointing=study.gradient_checkpointing)
    return limits if study.pack_size is None else replace(limits, max_pack_size=study.pack_size)


def family_of(trial: Trial) -> Hashable:
    """Return what the trial's method says that the members of its pack must share."""
    return method_of(trial.method).pack_key(trial)


@functools.cache
def method_of(name: str) -> methods.Method:
    """Return a method by its name; a grid asks for the same few 100,000 times, and each look-up lists a directory."""
    return methods.get(name)


def plan(
    trials: Iterable[Trial], *, limits: Limits | None = None, family: Callable[[Trial], Hashable] = family_of
) -> tuple[Pack, ...]:
    """Return every trial in exactly one pack, seed by seed, packs of a family as even in size as can be.

    Members of a pack share task, model, data, budget, seed (one data order) and their method's family. Only the order
    of seeds and families follows `trials`: the members of a pack do not depend on it.
    """
    limits = limits or Limits()
    groups: dict[tuple[Hashable, ...], dict[str, Trial]] = {}
    for trial in trials:
        key = (trial.seed, trial.task, trial.model, trial.data_hash, trial.model_hash, trial.budget, family(trial))
        groups.setdefault(key, {})[trial.trial_id] = trial
    seeds = {seed: i for i, seed in enumerate(dict.fromkeys(key[0] for key in groups))}
    # A seed at a time: an interrupted sweep leaves whole heatmaps of fewer seeds, not torn ones of all.
    ordered = sorted(groups.items(), key=lambda item: seeds[item[0][0]])
    return tuple(pack for _, group in ordered for pack in _split(group, limits))


def pending(
    packs: Sequence[Pack],
    finished: Collection[str],
    *,
    limits: Limits | None = None,
    family: Callable[[Trial], Hashable] = family_of,
) -> tuple[Pack, ...]:
    """Return the packs left to run: whole ones as planned, the open trials of half-finished ones packed together.

    Packs end half-finished when a grid grows or a trial failed.
    """
    whole: list[Pack] = []
    rest: list[Trial] = []
    for pack in packs:
        open_trials = [trial for trial in pack.trials if trial.trial_id not in finished]
        if len(open_trials) == pack.size:
            whole.append(pack)
        else:
            rest += open_trials
    return (*whole, *plan(rest, limits=limits, family=family))


def overhead_of(pack: Pack, limits: Limits) -> float:
    """Return what a step of a pack takes whatever its size, in trials: on a GPU by layers and whether it is recorded.

    A trial's own part is the 4P FLOP of its tokens; large models have little else, small ones little of it.
    """
    if limits.device_kind != "cuda":
        return PACK_OVERHEAD["cpu"]
    trial, shape = pack.trials[0], limits.shape
    by_classes = trial.meaning.metric_name not in metrics.names_of("numbers", chosen_by=False)
    unpadded = shape is not None and bool(shape.n_weights) and by_classes
    way = "recorded" if is_recorded(trial.budget, device_kind="cuda", unpadded=unpadded) else "launched"
    if shape is None:
        return PACK_OVERHEAD[way]
    tokens = trial.budget.batch_size * min(shape.train_tokens, trial.budget.max_length)
    slower = SINGLE if trial.budget.precision in ("fp32", "fp64") else 1
    return LAYER_SECONDS[way] * shape.n_layers * USEFUL_FLOPS[way] / (4 * shape.products * tokens * slower)


def spread(packs: Sequence[Pack], n_devices: int, *, overhead: float = 0.0) -> tuple[Pack, ...]:
    """Return the packs for n_devices that work at once: as they are, in even waves, or smaller to the end.

    Of the three it is the one that ends first. `overhead` is what a pack takes whatever its size, in trials. Where it
    is large, as on a GPU, which small packs leave idle, that is one wave of even packs; without it, ever smaller packs.
    """
    if n_devices <= 1:
        return tuple(packs)
    ways = (_factored(packs, n_devices), _even(packs, n_devices, overhead), tuple(packs))
    return min(ways, key=lambda way: makespan([pack.size for pack in way], n_devices, overhead=overhead))


def makespan(sizes: Iterable[int], n_devices: int, *, overhead: float) -> float:
    """Return when the last of n_devices ends, in trials: each takes the next pack, overhead + size, once it is idle."""
    free = [0.0] * n_devices
    for size in sizes:
        heapq.heappush(free, heapq.heappop(free) + overhead + size)
    return max(free)


def _factored(packs: Sequence[Pack], n_devices: int) -> tuple[Pack, ...]:
    """No pack holds more than a SPREAD-th of what is left for each device: a slow or lost one delays the end by little.

    Factoring: S. Flynn Hummel, E. Schonberg, L. E. Flynn, Factoring, CACM 35(8), 1992.
    """
    left, cut = sum(pack.size for pack in packs), list[Pack]()
    for pack in packs:
        start = 0
        while start < pack.size:
            end = start + max(1, left // (SPREAD * n_devices))
            cut.append(pack if start == 0 and end >= pack.size else replace(pack, trials=pack.trials[start:end]))
            left -= cut[-1].size
            start = end
    return tuple(cut)


def _even(packs: Sequence[Pack], n_devices: int, overhead: float) -> tuple[Pack, ...]:
    """Cut the pack whose parts are largest into one part more, again and again; return the cut that ends first."""
    parts, best, soonest = [1] * len(packs), [1] * len(packs), math.inf
    for _ in range(MOST_CUTS * n_devices - len(packs) if packs else 0):  # many packs need no cuts
        sizes = [size for pack, n in zip(packs, parts, strict=True) for size in _sizes(pack.size, n)]
        ends = makespan(sizes, n_devices, overhead=overhead)
        if ends < soonest:
            best, soonest = list(parts), ends
        largest = max(range(len(packs)), key=lambda i: packs[i].size / parts[i])
        if parts[largest] == packs[largest].size:
            break
        parts[largest] += 1
    cut = list[Pack]()
    for pack, n in zip(packs, best, strict=True):
        bounds = [0, *accumulate(_sizes(pack.size, n))]
        cut += [replace(pack, trials=pack.trials[i:j]) if n > 1 else pack for i, j in pairwise(bounds)]
    return tuple(cut)


def _sizes(n: int, n_parts: int) -> list[int]:
    return [n * (i + 1) // n_parts - n * i // n_parts for i in range(n_parts)]


def kind_of(trial: Trial) -> str:
    """Return what decides how a pack's speed changes with its size, rates and seeds aside, as JSON."""
    budget = trial.budget
    shared = (trial.task, trial.model, budget.precision, budget.batch_size, budget.max_length)
    return json.dumps([*shared, family_of(trial)], default=str)


def pack_limit(trial: Trial, limits: Limits) -> int:
    """Return how many trials like this one a pack may hold.

    The activations of one trial take about batch_size * train_tokens * hidden_size * n_layers * VALUES_KEPT * bytes of
    a value; MEMORY_SHARE of the free memory, shared by that, bounds K. Adapters and their moments are small beside it.
    Decoders are reckoned by more (`decoder_bytes`).
    A trial that trains the base brings its own weights, gradients and optimizer state in float32, and on a CPU, where
    nothing is gained by models side by side, or in an architecture that cannot be stacked, it is alone. No pack is
    larger than what was measured to be fastest.
    """
    trains_base = methods.get(trial.method).trains_base
    if trains_base and (limits.device_kind == "cpu" or limits.shape is None or not limits.shape.n_weights):
        return 1
    cap = limits.max_pack_size or MAX_PACK_SIZE.get(limits.device_kind, MAX_PACK_SIZE["cpu"])
    if limits.measured:
        cap = min(cap, limits.measured.get(kind_of(trial), cap))
    return min(cap, _fitting(trial, limits, checkpointed=checkpoints(trial, limits)))


def checkpoints(trial: Trial, limits: Limits) -> bool:
    """Return whether the layers of this trial's pack compute again in backward: as the study says.

    Where it does not say, before memory makes a pack of decoders smaller than LEAST_PACK.
    """
    if limits.gradient_checkpointing is not None or limits.shape is None or limits.shape.decoder is None:
        return bool(limits.gradient_checkpointing)
    return _fitting(trial, limits, checkpointed=False) < min(LEAST_PACK, limits.max_pack_size or LEAST_PACK)


def _fitting(trial: Trial, limits: Limits, *, checkpointed: bool) -> int:
    """Return how many trials fit into the memory, at least one."""
    if limits.memory_bytes is None or limits.shape is None:
        return max(MAX_PACK_SIZE.values())
    room, sizes = MEMORY_SHARE * limits.memory_bytes, range(1, max(MAX_PACK_SIZE.values()) + 1)
    if limits.shape.decoder is None and limits.device_kind == "cpu":
        return max(1, int(room / bytes_of(trial, limits.shape)))
    return max((k for k in sizes if pack_bytes(trial, k, limits, checkpointed=checkpointed) <= room), default=1)


def pack_bytes(trial: Trial, n_trials: int, limits: Limits, *, checkpointed: bool) -> float:
    """Return the memory that a step of so many trials like this one takes beside the base model."""
    shape, on_cpu = limits.shape, limits.device_kind == "cpu"
    assert shape is not None
    if shape.decoder is not None:
        return decoder_bytes(trial, shape, n_trials, on_cpu=on_cpu, checkpointed=checkpointed,
                             memory_bytes=limits.memory_bytes)  # fmt: skip
    if on_cpu:
        return n_trials * bytes_of(trial, shape)
    return gpu_encoder_bytes(trial, shape, n_trials, memory_bytes=limits.memory_bytes)


def gpu_encoder_bytes(trial: Trial, shape: Shape, n_trials: int, *, memory_bytes: int | None = None) -> float:
    """Return the memory that training a pack of encoders takes on a GPU beside the base model: the peak of a step.

    Values kept for one chunk's backward, and adapters as if all products of a layer had one, or all weights, with their
    gradients and the optimizer's state. `memory_bytes` is the device's, which says how large a chunk may be; None: not
    known. Held against counts of tensors without data (tests/pretend), not against a GPU.
    """
    budget, value_bytes = trial.budget, BYTES_OF[trial.budget.precision]
    tokens = n_trials * budget.batch_size * min(shape.train_tokens, budget.max_length)
    is_half = budget.precision in ("bf16", "fp16")
    path = "unpadded" if shape.n_weights else "bank"
    least = least_chunks(path, tokens, is_half=is_half, on_cpu=False)
    rows = memory_rows(memory_bytes, shape.token_bytes(trial))
    cut = n_chunks(tokens, hidden_size=shape.hidden_size, is_half=is_half, on_cpu=False, least=least, rows=rows,
                   most=budget.batch_size)  # fmt: skip
    kept = shape.hidden_size * shape.n_layers * (VALUES_KEPT if cut > 1 else UNCUT_KEPT)
    trained = shape.n_weights
    if not methods.get(trial.method).trains_base:
        trained = (trial.rank or 0) * 18 * shape.hidden_size * shape.n_layers
    return tokens / cut * kept * value_bytes + n_trials * trained * training_bytes(budget, 4)


def decoder_bytes(
    trial: Trial, shape: Shape, n_trials: int, *, on_cpu: bool, checkpointed: bool = False,
    memory_bytes: int | None = None,
) -> float:  # fmt: skip
    """Return the memory that training a pack of decoders takes beside the base model, as decoders.py reckons it."""
    return decoders.pack_bytes(
        decoders.Plan(
            trial=trial, shape=shape, n_trials=n_trials, checkpointed=checkpointed, on_cpu=on_cpu,
            memory_bytes=memory_bytes,
        )
    )  # fmt: skip


def bytes_of(trial: Trial, shape: Shape) -> float:
    """Return the memory that one trial of a pack takes beside the base model, as `pack_limit` counts it."""
    budget = trial.budget
    tokens = budget.batch_size * min(shape.train_tokens, budget.max_length)
    activations = tokens * shape.hidden_size * shape.n_layers * VALUES_KEPT * BYTES_OF[budget.precision]
    if not methods.get(trial.method).trains_base:
        return activations
    return activations + shape.n_weights * training_bytes(budget, BYTES_OF["fp32"])


def training_bytes(budget: TrainBudget, value_bytes: int) -> int:
    """Return the bytes that a trained number of `value_bytes` takes: itself, its gradient, the optimizer's state."""
    return 2 * value_bytes + optimizers.of(budget).state_bytes(value_bytes)


def _split(group: dict[str, Trial], limits: Limits) -> list[Pack]:
    """Cut one group into the fewest packs allowed; the larger ones come first, by one trial at the most.

    Cutting what is left after some of them gives the others again. Ranks stay together: mixed ranks are padded.
    """
    ordered = [group[trial_id] for trial_id in sorted(group, key=lambda trial_id: _place(trial_id, group[trial_id]))]
    n_packs = math.ceil(len(ordered) / pack_limit(ordered[0], limits))
    size, larger = divmod(len(ordered), n_packs)
    packs, start = [], 0
    for i in range(n_packs):
        end = start + size + (i < larger)
        packs.append(Pack(trials=tuple(ordered[start:end])))
        start = end
    return packs


def _place(trial_id: str, trial: Trial) -> tuple[int, float, float, str]:
    return (trial.rank or 0, trial.eta_A, trial.eta_B or 0.0, trial_id)
