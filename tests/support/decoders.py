"""Tiny decoders of several architectures, and the members of a pack that are trained on them."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config, Qwen3Config

PACK: dict[str, Any] = {
    "max_steps": 10, "batch_size": 8, "max_grad_norm": 0.3, "warmup_steps": 2, "weight_decay": 0.1, "eval_steps": 10,
}  # fmt: skip


MEMBERS: list[dict[str, Any]] = [
    {"rank": 2, "eta_A": 4e-3, "use_rslora": True},
    {"rank": 4, "eta_A": 2e-2, "lora_alpha": 16.0},
    {"rank": 3, "eta_A": 1e-3, "eta_B": 1.6e-2, "method": "lora+", "init": "zero_A"},
]


SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2,
    "max_position_embeddings": 40, "num_labels": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 24}


def config_of(model_type: str, dropout: float = 0.0) -> Any:
    """A tiny configuration, with `dropout` wherever the architecture has one."""
    if model_type == "gpt2":
        return GPT2Config(**SIZES, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    if model_type == "opt":
        own = {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": dropout, "attention_dropout": dropout}
        return OPTConfig(**SIZES, **own)
    if model_type == "qwen3":
        return Qwen3Config(**GROUPED, head_dim=4, attention_dropout=dropout)
    return {"llama": LlamaConfig, "qwen2": Qwen2Config}[model_type](**GROUPED, attention_dropout=dropout)


_ATTENTION = ("attention_dropout",)
# Of each further family: which of the sizes it takes, what else it needs, and where it drops.
FURTHER: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "mistral": (GROUPED, {"sliding_window": 5, "head_dim": 4}, _ATTENTION),
    "gemma2": (GROUPED, {"sliding_window": 5, "head_dim": 4, "query_pre_attn_scalar": 4, "attn_logit_softcapping": 2.0,
                         "final_logit_softcapping": 3.0}, _ATTENTION),
    "gemma3_text": (GROUPED, {"sliding_window": 5, "head_dim": 4, "query_pre_attn_scalar": 4,
                              "layer_types": ["sliding_attention", "full_attention"]}, _ATTENTION),
    "phi": (GROUPED, {}, ("attention_dropout", "resid_pdrop", "embd_pdrop")),
    "phi3": (GROUPED, {}, ("attention_dropout", "resid_pdrop", "embd_pdrop")),
    "gpt_neox": (SIZES, {"intermediate_size": 24}, ("attention_dropout", "hidden_dropout")),
    "starcoder2": (GROUPED, {}, ("attention_dropout", "residual_dropout", "embedding_dropout")),
    "olmo2": (GROUPED, {}, _ATTENTION),
    "granite": (GROUPED, {"logits_scaling": 3.0, "attention_multiplier": 0.3, "embedding_multiplier": 2.0,
                          "residual_multiplier": 0.5}, _ATTENTION),
    "cohere": (GROUPED, {"logit_scale": 0.5}, _ATTENTION),
}  # fmt: skip


def family(model_type: str, dropout: float = 0.0) -> Any:
    """A tiny configuration of any family that takes the packed path."""
    if model_type not in FURTHER:
        return config_of(model_type, dropout)
    sizes, own, drops = FURTHER[model_type]
    return AutoConfig.for_model(model_type, **{**sizes, **own, **dict.fromkeys(drops, dropout)})


DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "opt")
FAMILIES = (*DECODERS, *FURTHER)
