"""GPT-2 small: 12 layers, 768 wide, 124 M parameters (Radford et al. 2019); its projections are Conv1D, [in, out]."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="gpt2",
    hub_id="openai-community/gpt2",
    sizes={
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
    },
)
