"""What a step's memory follows from: a base's sizes, and what of a token is kept for backward. No torch.

Of a decoder each tensor is counted that the packed path keeps (packed.py, joined.py, blocks.py), by the products that a
trial adapts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench import methods
from bench.core.spec import Trial
from bench.engine.decoder_sizes import Decoder, decoder_of, number
from bench.methods._base import Method

BYTES_OF = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
VALUES_KEPT = 13  # values kept for backward by token, layer and hidden unit, attention scores aside; frozen base
UNCUT_KEPT = 22  # the same for a batch in one piece on a GPU, whose attention is padded to its longest text
_GROUPS: Mapping[str, frozenset[str]] = {
    **{f"{one}_proj": frozenset({one}) for one in ("q", "k", "v", "o", "gate", "up", "down")},
    **dict.fromkeys(("qkv_proj", "c_attn", "query_key_value", "Wqkv"), frozenset({"q", "k", "v"})),
    **dict.fromkeys(("out_proj", "dense"), frozenset({"o"})),
    **dict.fromkeys(("c_fc", "fc1", "fc_in", "dense_h_to_4h"), frozenset({"up"})),
    **dict.fromkeys(("fc2", "fc_out", "dense_4h_to_h"), frozenset({"down"})),
    "c_proj": frozenset({"o", "down"}),
    "gate_up_proj": frozenset({"gate", "up"}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the memory model knows of a base model and its data."""

    n_layers: int
    hidden_size: int
    train_tokens: float = 0.0  # mean tokens of a training example, specials included
    n_weights: int = 0  # of a base whose copies can be trained side by side; 0: it cannot
    decoder: Decoder | None = None  # its sizes one by one; None: the model is none
    lengths: tuple[int, ...] = ()  # tokens of training examples, of a sample of them

    @property
    def products(self) -> float:
        """Return P, the weights that a token is multiplied by; an encoder's MLP is taken as four times its width."""
        if self.decoder is None:
            return 12.0 * self.hidden_size**2 * self.n_layers
        return float(self.n_layers * sum(i * o for i, o in self.decoder.sides.values()))

    def token_bytes(self, trial: Trial, *, checkpointed: bool = False) -> float:
        """Return the bytes that a GPU keeps for backward of one trial's token; checkpointed: layers' inputs, one layer.

        Of a decoder with what attention keeps of the token and each of its example, were all as long as the mean one.
        """
        stream = self.hidden_size * BYTES_OF[trial.budget.precision]
        layer = float(VALUES_KEPT * stream)
        if self.decoder is not None:
            kept = kept_by_layer(trial, self.decoder, padded=True)
            layer = kept.token + kept.slot + min(self.train_tokens, trial.budget.max_length) * kept.pair
        return self.n_layers * stream + layer if checkpointed else self.n_layers * layer


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
class Chunks:
    """Chunks whose memory is reckoned, each a place of the arrays: what there is of one trial."""

    tokens: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]  # places in attention's rows, which on a GPU are padded
    pairs: npt.NDArray[np.int64]  # queries and keys of one example of which something is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Bytes that a layer keeps for backward, of each trial or once for all (shared)."""

    token: float
    slot: float = 0.0
    pair: float = 0.0
    shared_token: float = 0.0
    shared_pair: float = 0.0

    def of(self, chunks: Chunks, n_trials: int) -> npt.NDArray[np.float64]:
        """Return the bytes of each chunk."""
        by_token = n_trials * self.token + self.shared_token
        by_pair = n_trials * self.pair + self.shared_pair
        return np.asarray(chunks.tokens * by_token + chunks.slots * (n_trials * self.slot) + chunks.pairs * by_pair)


def kept_by_layer(trial: Trial, decoder: Decoder, *, padded: bool) -> Kept:
    """Return what a layer keeps for backward on the packed path; `padded`: with the attention of a GPU."""
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
    masks = sum(i for i, _ in ours.values()) if trial.lora_dropout else 0
    slot, pair = (_padded_attention if padded else _block_attention)(decoder, value)
    return Kept(
        token=norms + (read + mlp + low) * value,
        slot=slot,
        pair=pair,
        shared_token=(masks + 2 * d * decoder.drops_streams) * value,
        shared_pair=decoder.n_heads * decoder.drops_weights * value,
    )


def _block_attention(decoder: Decoder, value: int) -> tuple[float, float]:
    """Return the bytes that a CPU's attention keeps of a token, queries, keys and values, and of a pair."""
    return (decoder.attention_size + decoder.kv_size) * value, decoder.n_heads * (1 + decoder.softcap) * value


def _padded_attention(decoder: Decoder, value: int) -> tuple[float, float]:
    """Return the bytes that a GPU's attention keeps of a place in its rows, and of a pair.

    Each head has keys and values of its own. torch's kernel keeps what attention gives and a number of each row, and of
    pairs which are seen, for all heads together; where weights are dropped or capped they are made one by one.
    """
    heads, by_steps = decoder.attention_size, decoder.softcap or decoder.drops_weights
    if by_steps:
        of_pair = decoder.n_heads * (1 + decoder.softcap + decoder.drops_weights) * value + 1
        return 3 * heads * value, of_pair
    return 4 * heads * value + 4 * decoder.n_heads, value


def _has_no_factors(name: str) -> bool:
    method = methods.get(name)
    return not method.trains_base and type(method).factors is Method.factors


def shape_of(config: Mapping[str, object], *, is_decoder: bool, train_tokens: float = 0.0, n_weights: int = 0) -> Shape:
    """Return the sizes that a model's config tells; 0 where it does not."""
    hidden = number(config, "hidden_size", "dim", "n_embd")
    n_layers = max(number(config, name) for name in ("num_hidden_layers", "n_layers", "n_layer"))
    return Shape(
        n_layers=n_layers, hidden_size=hidden, train_tokens=train_tokens, n_weights=n_weights,
        decoder=decoder_of(config, hidden) if is_decoder else None,
    )  # fmt: skip


def writes_texts(config: Mapping[str, object]) -> bool:
    """Return whether a checkpoint of this config writes texts, which tells a decoder."""
    names = config.get("architectures")
    return any("CausalLM" in str(name) or "LMHead" in str(name) for name in (names if isinstance(names, list) else []))
