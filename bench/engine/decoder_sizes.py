"""The sizes of a decoder that its config.json tells: what the memory of a pack follows from. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NORMS = {"gemma2": 4, "gemma3_text": 4, "phi": 1, "cohere": 1, "gpt_neox": 1}  # streams that a layer's norms keep
_QK_NORMS = ("qwen3", "gemma3_text", "olmo2")
_GATED = ("gemma", "gemma2", "gemma3_text")  # those whose activation is none of the usual gates'
PACKED = frozenset({  # those that train as one stream by docs/architectures.md; a pack looks itself (packed.py)
    "afmoe", "apertus", "arcee", "aria_text", "axk1", "beam", "biogpt", "bitnet", "cohere", "cohere2",
    "cohere_compass_text", "ctrl", "cwm", "dbrx", "diffllama", "dots1", "emu3", "ernie4_5", "ernie4_5_moe",
    "exaone4", "exaone_moe", "flex_olmo", "gemma", "gemma2", "gemma3_text", "gemma4_unified_text", "glm", "glm4",
    "glm4_moe", "gpt-sw3", "gpt2", "gpt_neox", "granite", "granitemoe", "granitemoeshared", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "internlm3", "iquestcoder", "jais2", "jetmoe",
    "kolibri1", "laguna", "lfm2", "lfm3", "llama", "longcat_flash", "mellum", "minicpm3", "minimax_m2",
    "minimax_m3_vl_text", "ministral", "ministral3", "mistral", "mixtral", "moshi", "nanochat", "nemotron", "olmo",
    "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phi4_multimodal", "phimoe", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "whisper",
    "youtu",
})  # fmt: skip
_TIED = (  # transformers' defaults: the head's weights are the table of embeddings
    "bloom", "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "mpt", "opt",
    "smollm3", "starcoder2",
)  # fmt: skip
_DROPS = {"gpt2": (0.1, 0.1), "opt": (0.1, 0.0)}  # transformers' defaults: of streams, of attention's weights
_ACTIVATIONS = {  # transformers' defaults, where they are no gate's
    "opt": "relu", "starcoder2": "gelu_pytorch_tanh", **dict.fromkeys(("gpt_neox", "bloom", "falcon", "mpt"), "gelu"),
    **dict.fromkeys(("gpt2", "phi", "gpt_neo", "gptj", "gpt_bigcode", "codegen"), "gelu_new"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """Sizes of a decoder, all but the first three of one layer."""

    n_layers: int
    hidden_size: int
    vocab_size: int
    attention_size: int  # heads times their width
    kv_size: int  # keys and values together
    n_heads: int
    inner_size: int  # of the MLP
    is_gated: bool = True
    activation: str = "silu"
    n_norms: int = 2  # streams of the hidden size that norms keep
    wide_norms: bool = True  # in half precision they keep float32
    has_qk_norms: bool = False
    softcap: bool = False  # of the scores
    drops_streams: bool = False
    drops_weights: bool = False
    is_tied: bool = False
    is_packed: bool = True  # as one stream; else rows are padded, and every token has logits

    @property
    def sides(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of each product that can be adapted."""
        d, a, i, half = self.hidden_size, self.attention_size, self.inner_size, self.kv_size // 2
        gate = {"gate": (d, i)} if self.is_gated else {}
        return {"q": (d, a), "k": (d, half), "v": (d, half), "o": (a, d), **gate, "up": (d, i), "down": (i, d)}

    @property
    def n_base(self) -> int:
        """Return how many weights all layers, the table of embeddings and a head of its own have."""
        tables = 1 if self.is_tied else 2
        return self.n_layers * sum(i * o for i, o in self.sides.values()) + tables * self.vocab_size * self.hidden_size


def decoder_of(config: Mapping[str, object], hidden: int) -> Decoder:
    """Return the sizes of a decoder of this hidden size by its config.json."""
    kind, heads = str(config.get("model_type")), number(config, "num_attention_heads", "n_head", "n_heads") or 1
    width = number(config, "head_dim") or hidden // heads
    activation = _named(config, ("hidden_act", "hidden_activation", "activation_function"), _ACTIVATIONS.get(kind))
    streams, weights = _DROPS.get(kind, (0.0, 0.0))
    return Decoder(
        n_layers=number(config, "num_hidden_layers", "n_layers", "n_layer"),
        hidden_size=hidden,
        vocab_size=number(config, "vocab_size"),
        attention_size=heads * width,
        kv_size=2 * (number(config, "num_key_value_heads") or heads) * width,
        n_heads=heads,
        inner_size=number(config, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size") or 4 * hidden,
        is_gated=kind in _GATED or activation in ("silu", "swish"),
        activation=activation,
        n_norms=_NORMS.get(kind, 2),
        wide_norms="rms_norm_eps" in config or kind in ("llama", *_QK_NORMS, *_GATED),
        has_qk_norms=kind in _QK_NORMS,
        softcap=bool(config.get("attn_logit_softcapping")),
        drops_streams=float(_named(config, ("resid_pdrop", "hidden_dropout", "dropout"), streams)) > 0,
        drops_weights=float(_named(config, ("attn_pdrop", "attention_dropout"), weights)) > 0,
        is_tied=bool(_named(config, ("tie_word_embeddings",), kind in _TIED)),
        is_packed=kind in PACKED,
    )


def _named(config: Mapping[str, object], names: Sequence[str], usual: object) -> Any:
    found = next((config[name] for name in names if config.get(name) is not None), usual)
    return "silu" if found is None else found


def number(config: Mapping[str, object], *names: str) -> int:
    """Return the first of these numbers that a config has and that is not 0; else 0."""
    return next((int(str(config[name])) for name in names if config.get(name)), 0)
