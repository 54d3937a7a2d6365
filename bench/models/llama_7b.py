"""Llama 7B: 32 layers, 4096 wide, 6.7 B parameters (Touvron et al. 2023, arXiv:2302.13971)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="llama-7b",
    hub_id="huggyllama/llama-7b",
    sizes={
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
    },
)
