"""Which blocks a throughput run times, and the loop that times them interleaved."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bench.core.errors import BadInput, one_of
from bench.core.spec import Precision
from bench.data.splits import EncodedData
from bench.engine.memory import Meter
from bench.engine.run import DTYPES
from bench.executors.local import is_out_of_memory
from bench.timing.peers import contenders
from bench.timing.peers.ceiling import Shape, ceiling
from bench.timing.peers.interleave import interleaved
from bench.timing.peers.rows import PARTS, Row
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import Work, of_length

TRAIN, EVAL, WRITE, RANK, LENGTH, CEILING = "train", "eval", "write", "rank", "length", "ceiling"
MATMUL, OURS = "matmul", "ours"
PEERS = ("b0", "b1", "b1g", "b1gh", "b1ghn")
EVAL_PEERS = ("b1", "b1g", "b1gh")  # padding an evaluation to 128 is nobody's habit
CAUSAL_PEERS, WRITE_PEERS = ("b1", "b1g", "b1gh", "b1ghn", "trl"), ("b1", "b1g")
PACK_SIZES, EVAL_PACK_SIZES, CAUSAL_PACK_SIZES = (1, 4, 16, 64), (1, 16), (1, 4, 16)
GPU_PACK_SIZES, GPU_EVAL_PACK_SIZES, GPU_CAUSAL_PACK_SIZES = (1, 8, 32, 64, 128), (1, 64), (1, 4, 8, 16)
COST_PACK_SIZE = 4  # of the costs over rank and length
EVAL_BATCH, B0_SHARE_OF_STEPS = 8, 8  # Trainer.evaluate's default batch; see contenders/b0.py
RANKS, LENGTHS = (1, 8, 64, 256), (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A block to be timed: who does which work, K trials wide."""

    part: str
    contender: str
    precision: Precision
    n_trials: int = 1
    work: Work
    length: int | None = None

    @property
    def name(self) -> str:
        """What the job is, in words."""
        extra = {RANK: f", rank {self.work.trial.rank}", LENGTH: f", {self.length} tokens"}.get(self.part, "")
        return f"{self.part} {self.contender} K={self.n_trials} {self.precision}{extra}"


def choose(only: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return the parts and the contenders that `--only`, a comma list of either, leaves.

    Raises:
        BadInput: for a name that is neither.
    """
    names = [name.strip() for name in (only or "").split(",")] if only is not None else []
    for name in names:
        if name not in (*PARTS, *contenders.names()):
            known = one_of([*PARTS, *contenders.names()])
            raise BadInput("--only", "must name parts or contenders", got=repr(name), way_out=f"known: {known}")
    parts = frozenset(names) & frozenset(PARTS)
    chosen = frozenset(names) & frozenset(contenders.names())
    return parts or frozenset(PARTS), chosen or frozenset(contenders.names())


def plan(
    work: Work, precisions: Sequence[Precision], parts: Collection[str], chosen: Collection[str]
) -> tuple[Job, ...]:
    """Return the jobs of the chosen parts and contenders, and a ceiling for each precision."""
    jobs = [Job(part=CEILING, contender=MATMUL, precision=p, work=work) for p in precisions]
    for precision in precisions:
        for part, peers, sizes in _parts(work):
            sizes_of = {**{name: contenders.get(name).sizes_on(work.device.type) for name in peers}, OURS: sizes}
            jobs += [
                Job(part=part, contender=name, precision=precision, n_trials=n, work=work)
                for name in sizes_of
                if precision in contenders.get(name).precisions
                for n in sizes_of[name]
            ]
    if not work.is_causal:
        jobs += [_ranked(work, rank) for rank in RANKS if rank <= _hidden(work)]
        lengths = [length for length in LENGTHS if length <= work.trial.budget.max_length]
        jobs += [job for length in lengths for job in _of_length(work, length)]
    return tuple(j for j in jobs if j.part == CEILING or (j.part in parts and j.contender in chosen))


def _parts(work: Work) -> tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...]:
    """Return parts, peers and sizes of packs. A causal peer's evaluation gives its loss: logits are not gathered."""
    on_cpu = work.device.type == "cpu"
    if not work.is_causal:
        train, evaluation = (PACK_SIZES, EVAL_PACK_SIZES) if on_cpu else (GPU_PACK_SIZES, GPU_EVAL_PACK_SIZES)
        return (TRAIN, PEERS, train), (EVAL, EVAL_PEERS, evaluation)
    sizes = CAUSAL_PACK_SIZES if on_cpu else GPU_CAUSAL_PACK_SIZES
    return (TRAIN, CAUSAL_PEERS, sizes), (EVAL, EVAL_PEERS, sizes), (WRITE, WRITE_PEERS, sizes)


def work_flop(job: Job) -> float:
    """Return about how much a block computes, warm-up and padding included; of use for a time estimate only."""
    if job.part == CEILING:
        return 0.0
    per_token = 2 * (job.work.matmul_params + job.work.head_params) * (1 if job.part in (EVAL, WRITE) else 2)
    return float(per_token * job.n_trials * _computed_tokens(job))


def _computed_tokens(job: Job) -> float:
    """Return the tokens that one trial's block puts through the model."""
    work, size = job.work, job.work.batch_size
    if job.part == WRITE:
        return float(work.written.lengths.sum())
    if job.part == EVAL:
        lengths = work.data.eval.lengths
        return float(_padded(lengths, EVAL_BATCH)) if job.contender == "b1" else float(lengths.sum())
    n_steps = work.steps
    if job.contender == OURS:
        n_steps = work.steps_of(job.n_trials)
    elif job.contender == "b0":
        n_steps = max(2, work.steps // B0_SHARE_OF_STEPS)
    batches = [work.data.train.lengths[places] for places in (work.longest(), *work.batches(n_steps))]
    if job.contender == "b0":
        return float(sum(map(len, batches)) * work.pad_to)
    return float(sum(_padded(lengths, size) if job.contender == "b1" else lengths.sum() for lengths in batches))


def _padded(lengths: npt.NDArray[np.int64], size: int) -> int:
    """Return the tokens of batches in this order, each padded to its longest."""
    parts = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    return int(sum(len(part) * part.max() for part in parts))


def measure(
    jobs: Sequence[Job], *, repeats: int, shapes: tuple[Shape, ...], timer: Timer, meter: Meter,
    tell: Callable[[str], None], least_seconds: float,
) -> Iterator[Row]:  # fmt: skip
    """Time every job in each of `repeats` rounds; yield a row for each, but none for a job that ran out of memory."""
    given_up: set[str] = set()
    for repeat, job in interleaved(jobs, repeats):
        if job.name in given_up:
            continue
        if job.part == CEILING:
            yield _ceiling(job, repeat, shapes, timer, least_seconds)
            continue
        row = _attempt(job, repeat, timer, meter)
        if row is None:
            given_up.add(job.name)
            tell(f"{job.name}: out of memory, left out")
        else:
            tell(f"{job.name}, round {repeat + 1}: {row.seconds:.2f} s")
            yield row


def _attempt(job: Job, repeat: int, timer: Timer, meter: Meter) -> Row | None:
    """Return the job's row; None if memory ran out."""
    try:
        return _timed(job, repeat, timer, meter)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    gc.collect()  # out of the except block: the traceback, which holds the tensors, is gone by now
    return None


def _timed(job: Job, repeat: int, timer: Timer, meter: Meter) -> Row:
    meter.start()
    contender = contenders.get(job.contender)
    session = contender.start(job.work, precision=job.precision, n_trials=job.n_trials, repeat=repeat)
    try:
        blocks = {EVAL: session.evaluate, WRITE: session.write}
        block = blocks.get(job.part, session.train)(timer)
        peak = meter.peak()
    finally:
        session.close()
    return Row(
        part=job.part, contender=job.contender, precision=job.precision, n_trials=block.n_trials,
        rank=job.work.trial.rank, length=job.length, repeat=repeat, seconds=block.seconds, steps=block.steps,
        examples=block.examples, tokens=block.tokens, targets=block.targets,
        computed_tokens=block.computed_tokens, peak_memory_bytes=peak,
    )  # fmt: skip


def _ceiling(job: Job, repeat: int, shapes: tuple[Shape, ...], timer: Timer, least_seconds: float) -> Row:
    start = timer.read()
    rate = ceiling(shapes, DTYPES[job.precision], job.work.device, timer, least_seconds=least_seconds)
    return Row(
        part=CEILING, contender=MATMUL, precision=job.precision, n_trials=1, rank=None, repeat=repeat,
        seconds=timer.read() - start, flop_per_second=rate,
    )  # fmt: skip


def _ranked(work: Work, rank: int) -> Job:
    trial = replace(work.trial, rank=rank, lora_alpha=float(rank))
    return Job(part=RANK, contender=OURS, precision="fp32", n_trials=COST_PACK_SIZE, work=replace(work, trial=trial))


def _of_length(work: Work, length: int) -> list[Job]:
    """Return jobs on texts of one length, so many that all lengths have about the same number of tokens."""
    data: EncodedData = work.data
    size = work.batch_size
    steps = max(1, round(work.steps * LENGTHS[0] / length))
    vocab_size, n_labels = int(work.loaded.model.config.vocab_size), data.n_labels
    train = of_length(steps * size, length, vocab_size=vocab_size, n_labels=n_labels)
    changed = replace(work, data=replace(data, train=train), steps=steps)
    return [
        Job(part=LENGTH, contender="b1", precision="fp32", work=changed, length=length),
        Job(part=LENGTH, contender=OURS, precision="fp32", n_trials=COST_PACK_SIZE, work=changed, length=length),
    ]


def _hidden(work: Work) -> int:
    return int(work.loaded.model.config.hidden_size)
