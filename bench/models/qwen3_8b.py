"""Qwen3-8B: 36 layers, 4096 wide, 8.2 B parameters (Yang et al. 2025, arXiv:2505.09388)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="qwen3-8b",
    hub_id="Qwen/Qwen3-8B",
    sizes={
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
    },
)
