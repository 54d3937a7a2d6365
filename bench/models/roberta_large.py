"""RoBERTa-large: 24 layers, 1024 wide, 355 M parameters (Liu et al. 2019, arXiv:1907.11692)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="roberta-large",
    hub_id="FacebookAI/roberta-large",
    sizes={
        "model_type": "roberta",
        "vocab_size": 50265,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    },
)
