"""RoBERTa-base: 12 layers, 768 wide, 125 M parameters (Liu et al. 2019, arXiv:1907.11692)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="roberta-base",
    hub_id="FacebookAI/roberta-base",
    sizes={
        "model_type": "roberta",
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    },
)
