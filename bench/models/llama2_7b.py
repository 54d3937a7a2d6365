"""Llama 2 7B: 32 layers, 4096 wide, 6.7 B parameters (Touvron et al. 2023, arXiv:2307.09288); on demand at the Hub."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="llama2-7b",
    hub_id="meta-llama/Llama-2-7b-hf",
    sizes={
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
    },
)
