"""The memory that a pack of decoders takes beside its base, reckoned from sizes alone. No torch.

What is counted are the tensors that the packed path keeps for backward (bench/engine/sizes.py), of the longest batch
that the data gives, and what lives beside them at the peak. The bank path is taken to keep the same of padded rows, and
has logits of every token. docs/benchmarks/decoders.md holds it against measurements
on a CPU, docs/benchmarks/gpu.md against counts of what a GPU would hold.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench import methods
from bench.core import metrics
from bench.core.seeds import derive
from bench.core.spec import TrainBudget, Trial
from bench.engine import chunking, optimizers
from bench.engine.chunking import EVAL_ROWS, KEPT_BELOW, LOGITS_AT_ONCE, cut, filling
from bench.engine.decoder_sizes import Decoder
from bench.engine.sizes import BYTES_OF, Chunks, Shape, adapted, kept_by_layer

MOST_BATCHES = 512  # of a trial's steps, those whose lengths are looked at
# By measurement (docs/benchmarks/decoders.md): what the C library's allocator holds for each byte of tensors, in
# training and in evaluation; what libraries take once they compute; each kernel that oneDNN compiles.
CPU_SLACK, EVAL_SLACK, LIBRARIES, KERNEL = 1.2, 2.0, 40e6, 0.55e6
FEW_PARTS, PART_SLACK = 4, 0.055  # chunks of a batch from which on each one adds so much to it: their sizes differ
AGAIN_SLACK = 0.3  # so much more where layers compute again
FROZEN_KERNELS, ADAPTER_KERNELS = 10, 3  # of each number of tokens: for frozen products, and for each adapted one
Padded = Literal["nothing", "attention", "all"]  # of a chunk, to its longest example


@functools.lru_cache(maxsize=64)
def chunks_of(lengths: tuple[int, ...], *, batch_size: int, n_batches: int, parts: int, padded: Padded) -> Chunks:
    """Return the chunks of batches in an order like that of training: epochs of a sample of the examples' lengths.

    The longest batch is much longer than the mean one where lengths differ, and it is the one that must fit.
    """
    draw = np.random.Generator(np.random.Philox(derive("longest batch", batch_size)))
    known, found = np.array(lengths), list[npt.NDArray[np.int64]]()
    while n_batches > 0:
        order = known[draw.permutation(len(known))]
        for start in range(0, len(order), batch_size)[:n_batches]:
            found.append(_parts(np.sort(order[start : start + batch_size]), parts))
        n_batches -= -(-len(order) // batch_size)
    tokens, sizes, longest, kept_pairs = np.concatenate(found, axis=1)
    if padded == "nothing":
        return Chunks(tokens=tokens, slots=tokens, pairs=kept_pairs)
    if padded == "all":
        return Chunks(tokens=sizes * longest, slots=sizes * longest, pairs=sizes * longest**2)
    width = longest + -longest % chunking.WIDE
    return Chunks(tokens=tokens, slots=sizes * width, pairs=sizes * width**2)


def _parts(batch: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int64]:
    """Return of each chunk of a sorted batch its tokens, its examples, the longest's tokens, the pairs a CPU keeps."""
    at = cut(batch, parts)
    starts = np.concatenate([[0], at[at < len(batch)]])
    ends = np.append(starts[1:], len(batch))
    pairs = np.where(batch < KEPT_BELOW, batch, 0) ** 2
    return np.stack([np.add.reduceat(batch, starts), ends - starts, batch[ends - 1], np.add.reduceat(pairs, starts)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A pack of decoders whose memory is reckoned."""

    trial: Trial
    shape: Shape
    n_trials: int
    checkpointed: bool = False
    on_cpu: bool = True
    memory_bytes: int | None = None  # of a GPU, which says how large a chunk may be; None: not known

    @property
    def decoder(self) -> Decoder:
        """Return the sizes of the base."""
        assert self.shape.decoder is not None
        return self.shape.decoder

    @property
    def budget(self) -> TrainBudget:
        """Return how it is trained."""
        return self.trial.budget

    @property
    def value(self) -> int:
        """Return the bytes of a number that is computed with."""
        return BYTES_OF[self.budget.precision]

    @property
    def is_half(self) -> bool:
        """Return whether the base is computed with in 16 bits."""
        return self.value == 2

    @property
    def path(self) -> str:
        """Return the way through the model."""
        return "packed" if self.decoder.is_packed else "bank"

    @property
    def padded(self) -> Padded:
        """Return what of a chunk is padded."""
        if not self.decoder.is_packed:
            return "all"
        return "nothing" if self.on_cpu else "attention"

    @property
    def seen(self) -> tuple[int, ...]:
        """Return the tokens of a sample of the examples, as they are cut."""
        lengths = self.shape.lengths or (max(1, round(self.shape.train_tokens)),) * self.budget.batch_size
        return tuple(min(length, self.budget.max_length) for length in lengths)

    @property
    def n_parts(self) -> int:
        """Return into how many chunks a batch is cut."""
        tokens = self.n_trials * self.budget.batch_size * sum(self.seen) / len(self.seen)
        rows, most = None, chunking.MOST_CHUNKS
        least = chunking.least_chunks(self.path, tokens, is_half=self.is_half, on_cpu=self.on_cpu)
        if not self.on_cpu:
            of_token = self.shape.token_bytes(self.trial, checkpointed=self.checkpointed)
            rows, most = chunking.memory_rows(self.memory_bytes, of_token), self.budget.batch_size
        return chunking.n_chunks(
            tokens, hidden_size=self.decoder.hidden_size, is_half=self.is_half, on_cpu=self.on_cpu, least=least,
            rows=rows, most=most,
        )  # fmt: skip

    @property
    def chunks(self) -> Chunks:
        """Return the chunks of the batches to come."""
        n_batches = min(self.budget.max_steps, MOST_BATCHES)
        size, parts = self.budget.batch_size, self.n_parts
        return chunks_of(self.seen, batch_size=size, n_batches=n_batches, parts=parts, padded=self.padded)


def pack_bytes(plan: Plan) -> float:
    """Return the memory that a pack takes beside its base: on a CPU the peak of training and evaluation.

    On a GPU, whose allocator tells what tensors take, it is the peak of a step.
    """
    if not plan.on_cpu:
        return trained_bytes(plan) + step_bytes(plan)
    slack, kernels = CPU_SLACK + PART_SLACK * max(0, plan.n_parts - FEW_PARTS), 0.0
    if plan.is_half:  # few sizes, so that what is freed fits again
        slack, kernels = CPU_SLACK, kernel_bytes(plan)
    slack += AGAIN_SLACK * plan.checkpointed
    evaluation = EVAL_SLACK * evaluation_bytes(plan) + evaluation_logits(plan)
    peak = max(step_bytes(plan, slack), evaluation, CPU_SLACK * cache_bytes(plan))
    return CPU_SLACK * trained_bytes(plan) + peak + LIBRARIES + kernels


def trained_bytes(plan: Plan) -> float:
    """Return what trained numbers take: gradients, the optimizer's state, rates in a pack, copies in half precision."""
    each = 8 + optimizers.of(plan.budget).state_bytes(4) + 4 * (plan.n_trials > 1) + 2 * plan.is_half
    return plan.n_trials * n_trained(plan.trial, plan.decoder) * each


def n_trained(trial: Trial, decoder: Decoder) -> int:
    """Return about how many numbers a trial trains."""
    if methods.get(trial.method).trains_base:
        return decoder.n_base
    return decoder.n_layers * (trial.rank or 0) * sum(i + o for i, o in adapted(trial, decoder).values())


def step_bytes(plan: Plan, slack: float = 1.0) -> float:
    """Return the peak of live tensors in a step beside what is trained: that of its largest chunk.

    With `slack` times as much for what the C library holds; logits of every token are blocks so large that it holds no
    more of them.
    """
    decoder, chunks = plan.decoder, plan.chunks
    rows = plan.n_trials * chunks.tokens * plan.value
    backward = rows * (3 * decoder.hidden_size + (3 if decoder.is_gated else 2) * decoder.inner_size)
    logits = logits_bytes(plan, chunks.tokens) * (slack if decoder.is_packed else 1)
    return float(np.max(slack * kept_bytes(plan, chunks) + np.maximum(slack * backward, logits)))


def kept_bytes(plan: Plan, chunks: Chunks) -> npt.NDArray[np.float64]:
    """Return what the whole model keeps for the backward pass of each chunk."""
    decoder, k, d = plan.decoder, plan.n_trials, plan.decoder.hidden_size
    by_layer = kept_by_layer(plan.trial, decoder, padded=not plan.on_cpu).of(chunks, k)
    top = 2 * k * chunks.tokens * d * plan.value  # what the last norm reads, and the gradient of the targets' states
    if plan.checkpointed:  # the layers' inputs, and one layer's values
        return np.asarray(decoder.n_layers * k * chunks.tokens * d * plan.value + by_layer + top)
    if not decoder.is_packed:
        return np.asarray(decoder.n_layers * by_layer + top)
    # the first layer reads embeddings, which need no gradient and are the same for all trials
    reads = bool(adapted(plan.trial, decoder).keys() & {"q", "k", "v"})
    first = chunks.tokens * d * plan.value * (k + (k - 1) * reads)
    return np.asarray(decoder.n_layers * by_layer - first + top)


def logits_bytes(plan: Plan, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return what the logits that exist at once take, with their gradient; in half precision float32 beside them.

    On the bank path those of all tokens do, and a gradient as large; targets, taken to be a third, are copied thrice.
    """
    logits = plan.n_trials * tokens * plan.decoder.vocab_size * max(4, plan.value)
    if plan.decoder.is_packed:
        logits = np.minimum(LOGITS_AT_ONCE, logits)
    return np.asarray(logits * (2.5 if plan.is_half else 2))


def evaluation_bytes(plan: Plan) -> float:
    """Return the peak of an evaluation: one layer's values of as many rows as go together, whatever the pack's size."""
    decoder = plan.decoder
    wide = 3 if decoder.is_gated else 2
    return _evaluated(plan) * plan.value * (3 * decoder.hidden_size + wide * decoder.inner_size)


def _evaluated(plan: Plan) -> int:
    return chunking.evaluation_rows(plan.path, on_cpu=plan.on_cpu, vocab_size=plan.decoder.vocab_size)


def evaluation_logits(plan: Plan) -> float:
    """Return what an evaluation's logits of every token take, and the copies of those at targets, taken as a third."""
    return 0.0 if plan.decoder.is_packed else 2.0 * _evaluated(plan) * plan.decoder.vocab_size * max(4, plan.value)


def cache_bytes(plan: Plan) -> float:
    """Return what keys and values take while texts are written, where the metric scores them: twice while rows move."""
    if plan.trial.meaning.metric_name not in metrics.names_of("texts"):
        return 0.0
    return 2.0 * EVAL_ROWS * plan.decoder.n_layers * plan.decoder.kv_size * plan.value


def kernel_bytes(plan: Plan) -> float:
    """Return what oneDNN's kernels take in half precision: some for each number of tokens that a chunk has."""
    tokens = plan.chunks.tokens.tolist()
    sizes = {n + -n % filling(n) for n in tokens}
    kinds = FROZEN_KERNELS + ADAPTER_KERNELS * len(adapted(plan.trial, plan.decoder))
    return KERNEL * kinds * len(sizes)
