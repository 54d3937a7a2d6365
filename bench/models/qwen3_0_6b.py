"""Qwen3-0.6B: 28 layers, 1024 wide, 0.6 B parameters (Yang et al. 2025, arXiv:2505.09388)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="qwen3-0-6b",
    hub_id="Qwen/Qwen3-0.6B",
    sizes={
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
)
