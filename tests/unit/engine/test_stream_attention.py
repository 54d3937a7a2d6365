"""Attention over a packed stream: by lengths, as on a CPU, and padded, as on a GPU, it is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
    assert blocks.grid_of(LENGTHS, torch.device("cpu")).longest == 8 > max(LENGTHS), "a multiple of 8"
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


class Scores(TorchDispatchMode):
    """Collects what batched products put out: how many numbers, and of which type."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "bmm" in func.overloadpacket.__name__:
            self.sizes.append(out.numel())
            self.types.add(out.dtype)
        return out


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("long", "at_once"), [(256, 80), (2, 80), (2, 1)])
def test_scores_of_a_part_are_made_at_once(long: int, at_once: int, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 are those of one text of 3 tokens for two trials; at the least there are one text's for one trial, 4 * 49."""
    form = Form(scale=0.4, softcap=2.0)
    whole = attended(block_attention, form, p, 2)
    monkeypatch.setattr(blocks, "LONG", long)
    monkeypatch.setattr(blocks, "AT_ONCE", at_once)
    with Scores() as seen:
        parts = attended(block_attention, form, p, 2)
    assert max(seen.sizes) <= max(4 * 7 * 8, 4 * 49)
    for mine, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_half_precision_is_float32_within_and_keeps_16_bits() -> None:
    """oneDNN compiles products of 16 bits for each length, and keeps them (docs/log.md)."""
    draw, n = torch.Generator().manual_seed(0), sum(LENGTHS)
    half = [torch.randn(3, 4, n, 8, generator=draw).bfloat16().requires_grad_() for _ in range(3)]
    wide = [t.detach().float().requires_grad_() for t in half]
    kept: set[torch.dtype] = set()
    drops = Drops(keys=keys_of(), path="a", p=0.0)
    with Scores() as seen, torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.add(t.dtype), t)[1], lambda t: t):
        mine = block_attention(*half, LENGTHS, Form(scale=0.4), drops)
        mine.float().sum().backward()
    theirs = block_attention(*wide, LENGTHS, Form(scale=0.4), drops)
    theirs.sum().backward()
    assert seen.types == {torch.float32}
    assert kept == {torch.bfloat16}
    torch.testing.assert_close(mine.float(), theirs, rtol=2**-8, atol=1e-6)
    for a, b in zip(half, wide, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad.float(), b.grad, rtol=2**-6, atol=2**-6)
