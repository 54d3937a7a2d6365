"""Attention over a packed stream: by lengths, as on a CPU, and padded, as on a GPU, it is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.engine import blocks, waiting
from bench.engine.blocks import Drops, Form, block_attention, padded_attention
from bench.engine.dropout import MaskKeys, token_key
from tests.support.causal_helpers import causal_data, language_model, train_pack
from tests.support.decoders import PACK
from tests.support.engine_helpers import budget, trial

LENGTHS = (3, 3, 7, 1, 5)


def keys_of() -> MaskKeys:
    keys = MaskKeys(0)
    token = token_key(torch.arange(sum(LENGTHS)), torch.zeros((), dtype=torch.int64))[None]
    keys.step, keys.training = 2, True
    keys.start_chunk(token, token[:, 0])
    return keys


def attended(way: Any, form: Form, p: float, n_shared: int) -> list[Tensor]:
    """Return the output and the gradients of q, k and v; v is one stream for all trials."""
    draw = torch.Generator().manual_seed(0)
    n = sum(LENGTHS)
    shapes = ((3, 4, n, 8), (3, n_shared, n, 8), (1, n_shared, n, 8))
    q, k, v = (torch.randn(s, generator=draw, dtype=torch.float64).requires_grad_() for s in shapes)
    out = way(q, k, v, LENGTHS, form, Drops(keys=keys_of(), path="a", p=p))
    (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)).sum().backward()
    return [out, *(t.grad for t in (q, k, v) if t.grad is not None)]


@pytest.mark.parametrize("n_shared", [4, 2])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(
    "form",
    [Form(scale=0.4), Form(scale=0.4, window=2), Form(scale=0.4, softcap=2.0, window=3), Form(scale=1.0, causal=False)],
)
def test_padded_attention_is_attention_by_lengths(form: Form, p: float, n_shared: int) -> None:
    padded, by_lengths = (attended(way, form, p, n_shared) for way in (padded_attention, block_attention))
    assert len(padded) == 4
    for mine, theirs in zip(padded, by_lengths, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_pack_trains_the_same_way_with_padded_attention(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial(budget=budget(**PACK), eta_A=rate, target_modules="all-linear") for rate in (1e-3, 4e-3)]

    def course() -> np.ndarray:
        return train_pack(language_model(kind, 0.1), causal_data(), trials, path="packed").losses_SxK

    by_lengths = course()
    monkeypatch.setattr(waiting, "may_ask", lambda device: False)
    monkeypatch.setattr(blocks, "block_attention", None)
    np.testing.assert_allclose(course(), by_lengths, rtol=1e-6)  # Llama's norms compute in float32
