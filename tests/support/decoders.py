"""Tiny decoders of several architectures, and the members of a pack that are trained on them."""

from __future__ import annotations

from typing import Any

from transformers import GPT2Config, LlamaConfig, OPTConfig, Qwen2Config, Qwen3Config

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


DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "opt")
