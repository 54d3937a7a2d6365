"""The memory that a pack of decoders takes on a CPU beside its base, reckoned from sizes alone. No torch.

What is counted are the tensors that the packed path keeps for backward (bench/engine/packed.py, joined.py, blocks.py),
of the longest batch that the data gives, and what lives beside them at the peak. docs/benchmarks/decoders.md holds it
against measurements.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import methods
from bench.core.seeds import derive
from bench.core.spec import TrainBudget, Trial
from bench.engine import optimizers
from bench.engine.chunking import EVAL_ROWS, KEPT_BELOW, LOGITS_AT_ONCE, cut, filling, n_chunks
from bench.engine.decoder_sizes import Decoder
from bench.engine.sizes import BYTES_OF
from bench.methods._base import Method

MOST_BATCHES = 512  # of a trial's steps, those whose lengths are looked at
# By measurement (docs/benchmarks/decoders.md): what the C library's allocator holds for each byte of tensors, in
# training and in evaluation; what libraries take once they compute; each kernel that oneDNN compiles.
CPU_SLACK, EVAL_SLACK, LIBRARIES, KERNEL = 1.2, 2.0, 40e6, 0.55e6
FEW_PARTS, PART_SLACK = 4, 0.055  # chunks of a batch from which on each one adds so much to it: their sizes differ
AGAIN_SLACK = 0.3  # so much more where layers compute again
FROZEN_KERNELS, ADAPTER_KERNELS = 10, 3  # of each number of tokens: for frozen products, and for each adapted one
_GROUPS: Mapping[str, frozenset[str]] = {
    **{f"{one}_proj": frozenset({one}) for one in ("q", "k", "v", "o", "gate", "up", "down")},
    **dict.fromkeys(("qkv_proj", "c_attn", "query_key_value", "Wqkv"), frozenset({"q", "k", "v"})),
    **dict.fromkeys(("out_proj", "dense"), frozenset({"o"})),
    **dict.fromkeys(("c_fc", "fc1", "fc_in", "dense_h_to_4h"), frozenset({"up"})),
    **dict.fromkeys(("fc2", "fc_out", "dense_4h_to_h"), frozenset({"down"})),
    "c_proj": frozenset({"o", "down"}),
    "gate_up_proj": frozenset({"gate", "up"}),
}


def adapted(trial: Trial, decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Return the sides of the products of a layer that the trial adapts."""
    method, named = methods.get(trial.method), trial.target_modules
    if method.trains_base:
        return decoder.sides
    if method.adapts != "targets" or named is None:
        return {}
    if isinstance(named, str):  # all of them, or a regular expression: the most it can mean
        return decoder.sides
    groups = frozenset[str]().union(*(_GROUPS.get(name.rpartition(".")[2], frozenset()) for name in named))
    return {group: sides for group, sides in decoder.sides.items() if group in groups} or decoder.sides


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Bytes that a layer keeps for backward, of each trial or once for all (shared)."""

    token: float
    shared_token: float = 0.0
    pair: float = 0.0  # of a query and a key of one example
    shared_pair: float = 0.0

    def of(self, tokens: npt.NDArray[Any], pairs: npt.NDArray[Any], n_trials: int) -> npt.NDArray[np.float64]:
        """Return the bytes of chunks of so many tokens and pairs of a trial."""
        by_token = n_trials * self.token + self.shared_token
        return np.asarray(tokens * by_token + pairs * (n_trials * self.pair + self.shared_pair))


def kept_by_layer(trial: Trial, decoder: Decoder) -> Kept:
    """Return what a layer keeps for backward on the packed path."""
    value, ours = BYTES_OF[trial.budget.precision], adapted(trial, decoder)
    d, inner, heads = decoder.hidden_size, decoder.inner_size, decoder.attention_size
    wide = 4 if decoder.wide_norms and value == 2 else value
    norms = decoder.n_norms * d * wide + decoder.has_qk_norms * (heads + decoder.kv_size // 2) * wide
    read = d * bool(ours.keys() & {"q", "k", "v"}) + d * bool(ours.keys() & {"gate", "up"}) + heads * ("o" in ours)
    mlp = inner * (3 if decoder.is_gated else 4 if decoder.activation in ("gelu_new", "gelu_fast") else 1)
    if "down" in ours and decoder.activation != "relu":  # relu's output is what the next product reads
        mlp += inner
    low = (trial.rank or 0) * len(ours)
    if _has_no_factors(trial.method):  # autograd keeps what the method makes between input and output
        low = sum(i + o for i, o in ours.values())
    values = read + heads + decoder.kv_size + mlp + low
    masks = sum(i for i, _ in ours.values()) if trial.lora_dropout else 0
    return Kept(
        token=norms + values * value,
        shared_token=(masks + 2 * d * decoder.drops_streams) * value,
        pair=decoder.n_heads * (1 + decoder.softcap) * value,
        shared_pair=decoder.n_heads * decoder.drops_weights * value,
    )


def _has_no_factors(name: str) -> bool:
    method = methods.get(name)
    return not method.trains_base and type(method).factors is Method.factors


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """All chunks of the batches that are looked at: tokens of a trial, pairs of tokens whose weights are kept."""

    tokens: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]


@functools.lru_cache(maxsize=64)
def chunks_of(lengths: tuple[int, ...], *, batch_size: int, n_batches: int, parts: int) -> Chunks:
    """Return the chunks of batches in an order like that of training: epochs of a sample of the examples' lengths.

    The longest batch is much longer than the mean one where lengths differ, and it is the one that must fit.
    """
    draw = np.random.Generator(np.random.Philox(derive("longest batch", batch_size)))
    known, found = np.array(lengths), list[npt.NDArray[np.int64]]()
    while n_batches > 0:
        order = known[draw.permutation(len(known))]
        for start in range(0, len(order), batch_size)[:n_batches]:
            found += [part for part in _parts(np.sort(order[start : start + batch_size]), parts) if len(part)]
        n_batches -= -(-len(order) // batch_size)
    return Chunks(
        tokens=np.array([part.sum() for part in found]),
        pairs=np.array([(part[part < KEPT_BELOW] ** 2).sum() for part in found]),
    )


def _parts(batch: npt.NDArray[np.int64], parts: int) -> list[npt.NDArray[np.int64]]:
    return np.split(batch, cut(batch, parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A pack of decoders whose memory is reckoned."""

    trial: Trial
    decoder: Decoder
    lengths: tuple[int, ...]  # of a sample of the training examples, tokens
    n_trials: int
    checkpointed: bool = False

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
    def seen(self) -> tuple[int, ...]:
        """Return the tokens of the examples as they are cut."""
        return tuple(min(length, self.budget.max_length) for length in self.lengths)

    @property
    def n_parts(self) -> int:
        """Return into how many chunks a batch is cut."""
        tokens = self.n_trials * self.budget.batch_size * sum(self.seen) / len(self.seen)
        return n_chunks(tokens, hidden_size=self.decoder.hidden_size, is_half=self.is_half, on_cpu=True, least=1)

    @property
    def chunks(self) -> Chunks:
        """Return the chunks of the batches to come."""
        n_batches = min(self.budget.max_steps, MOST_BATCHES)
        return chunks_of(self.seen, batch_size=self.budget.batch_size, n_batches=n_batches, parts=self.n_parts)


def pack_bytes(plan: Plan) -> float:
    """Return the memory that a pack takes beside its base: the peak of training and evaluation."""
    slack, kernels = CPU_SLACK + PART_SLACK * max(0, plan.n_parts - FEW_PARTS), 0.0
    if plan.is_half:  # few sizes, so that what is freed fits again
        slack, kernels = CPU_SLACK, kernel_bytes(plan)
    slack += AGAIN_SLACK * plan.checkpointed
    peak = max(slack * step_bytes(plan), EVAL_SLACK * evaluation_bytes(plan))
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


def step_bytes(plan: Plan) -> float:
    """Return the peak of live tensors in a step beside what is trained: that of its largest chunk."""
    decoder, chunks = plan.decoder, plan.chunks
    rows = plan.n_trials * chunks.tokens * plan.value
    backward = rows * (3 * decoder.hidden_size + (3 if decoder.is_gated else 2) * decoder.inner_size)
    return float(np.max(kept_bytes(plan, chunks) + np.maximum(backward, logits_bytes(plan, chunks.tokens))))


def kept_bytes(plan: Plan, chunks: Chunks) -> npt.NDArray[np.float64]:
    """Return what the whole model keeps for the backward pass of each chunk."""
    decoder, k, d = plan.decoder, plan.n_trials, plan.decoder.hidden_size
    kept = kept_by_layer(plan.trial, decoder)
    by_layer = kept.of(chunks.tokens, chunks.pairs, k)
    top = 2 * k * chunks.tokens * d * plan.value  # what the last norm reads, and the gradient of the targets' states
    if plan.checkpointed:  # the layers' inputs, and one layer's values
        return np.asarray(decoder.n_layers * k * chunks.tokens * d * plan.value + by_layer + top)
    # the first layer reads embeddings, which need no gradient and are the same for all trials
    reads = bool(adapted(plan.trial, decoder).keys() & {"q", "k", "v"})
    first = chunks.tokens * d * plan.value * (k + (k - 1) * reads)
    return np.asarray(decoder.n_layers * by_layer - first + top)


def logits_bytes(plan: Plan, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return what the logits that exist at once take, with their gradient; in half precision float32 beside them."""
    logits = np.minimum(LOGITS_AT_ONCE, plan.n_trials * tokens * plan.decoder.vocab_size * max(4, plan.value))
    return np.asarray(logits * (2.5 if plan.is_half else 2))


def evaluation_bytes(plan: Plan) -> float:
    """Return the peak of an evaluation: one layer's values of as many rows as go together, whatever the pack's size."""
    decoder = plan.decoder
    wide = 3 if decoder.is_gated else 2
    return EVAL_ROWS * plan.value * (3 * decoder.hidden_size + wide * decoder.inner_size)


def kernel_bytes(plan: Plan) -> float:
    """Return what oneDNN's kernels take in half precision: some for each number of tokens that a chunk has."""
    tokens = plan.chunks.tokens.tolist()
    sizes = {n + -n % filling(n) for n in tokens}
    kinds = FROZEN_KERNELS + ADAPTER_KERNELS * len(adapted(plan.trial, plan.decoder))
    return KERNEL * kinds * len(sizes)
