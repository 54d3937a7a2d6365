"""Llama-3.2-1B-Instruct: 16 layers, 2048 wide, 1.2 B parameters (Grattafiori et al. 2024, arXiv:2407.21783).

Its Hub repository asks for an account that has accepted its licence.
"""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="llama3-1b",
    hub_id="meta-llama/Llama-3.2-1B-Instruct",
    sizes={
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
)
