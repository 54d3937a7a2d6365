"""What a step's memory follows from: a base's sizes, and what of a token is kept for backward. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.engine.decoder_sizes import Decoder, decoder_of, number

BYTES_OF = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
VALUES_KEPT = 13  # values kept for backward by token, layer and hidden unit, attention scores aside; frozen base
UNCUT_KEPT = 22  # the same for a batch in one piece on a GPU, whose attention is padded to its longest text
DECODER_KEPT = 10  # of a decoder, those of the hidden size: both norms in three stages, both sums, what attention gives


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the memory model knows of a base model and its data."""

    n_layers: int
    hidden_size: int
    train_tokens: float = 0.0  # mean tokens of a training example, specials included
    n_weights: int = 0  # of a base whose copies can be trained side by side; 0: it cannot
    inner_size: int = 0  # of a decoder's MLP, gate and up together where it has both; 0: the model is no decoder
    qkv_size: int = 0  # of a decoder's queries, keys and values together
    decoder: Decoder | None = None  # its sizes one by one
    lengths: tuple[int, ...] = ()  # tokens of training examples, of a sample of them

    @property
    def values_kept(self) -> float:
        """Return the values kept for backward of a token in a layer."""
        if not self.inner_size:
            return VALUES_KEPT * self.hidden_size
        return DECODER_KEPT * self.hidden_size + 2 * self.inner_size + 3 * self.qkv_size

    @property
    def products(self) -> float:
        """Return P, the weights that a token is multiplied by, nearly: an encoder's MLP is four times its width."""
        if not self.inner_size:
            return 12.0 * self.hidden_size**2 * self.n_layers
        return self.hidden_size * (self.qkv_size + self.hidden_size + 1.5 * self.inner_size) * self.n_layers

    def token_bytes(self, precision: str, *, checkpointed: bool = False) -> float:
        """Return the bytes kept for backward of one trial's token; checkpointed: layers' inputs, one layer's values."""
        kept = self.values_kept * self.n_layers
        if checkpointed:
            kept = self.hidden_size * self.n_layers + self.values_kept
        return kept * BYTES_OF[precision]


def shape_of(config: Mapping[str, object], *, is_decoder: bool, train_tokens: float = 0.0, n_weights: int = 0) -> Shape:
    """Return the sizes that a model's config tells; 0 where it does not."""
    hidden = number(config, "hidden_size", "dim", "n_embd")
    n_layers = max(number(config, name) for name in ("num_hidden_layers", "n_layers", "n_layer"))
    of_decoder = _of_decoder(config, hidden) if is_decoder else {}
    return Shape(n_layers=n_layers, hidden_size=hidden, train_tokens=train_tokens, n_weights=n_weights, **of_decoder)


def writes_texts(config: Mapping[str, object]) -> bool:
    """Return whether a checkpoint of this config writes texts, which tells a decoder."""
    names = config.get("architectures")
    return any("CausalLM" in str(name) or "LMHead" in str(name) for name in (names if isinstance(names, list) else []))


def _of_decoder(config: Mapping[str, object], hidden: int) -> dict[str, Any]:
    """Return the sizes of a decoder's MLP, with its gate, and of queries, keys and values; and all of them."""
    decoder = decoder_of(config, hidden)
    inner, qkv = decoder.inner_size * (2 if decoder.is_gated else 1), decoder.attention_size + decoder.kv_size
    return {"inner_size": inner, "qkv_size": qkv, "decoder": decoder}
