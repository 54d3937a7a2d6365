"""Attention by plain products, against torch's own attention and softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.engine.products import SHORT, products_attention, softmax, softmax_backward, start_of

LENGTHS = (1, 7, SHORT - 1, SHORT, 2 * SHORT - 1, 2 * SHORT, 40)  # on both sides of where another way is taken
TOLERANCE = {torch.float64: 1e-14, torch.float32: 3e-7, torch.bfloat16: 8e-3}  # of numbers up to 1


def rows(n_keys: int, dtype: torch.dtype, seed: int) -> Tensor:
    drawn = torch.randn(6, 5, n_keys, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_keys", LENGTHS)
def test_softmax_and_its_gradient_are_torchs(n_keys: int, dtype: torch.dtype) -> None:
    scores, grad = 20 * rows(n_keys, dtype, 0), rows(n_keys, dtype, 1)
    if n_keys > 1:
        scores[0, 0, -1] = -torch.inf  # no token there
    exact = scores.double().requires_grad_()
    expected = exact.softmax(dim=-1)
    (expected_grad,) = torch.autograd.grad(expected, exact, grad.double())
    weights = softmax(scores.clone())
    assert weights.dtype == dtype
    torch.testing.assert_close(weights.double(), expected.detach(), rtol=0, atol=TOLERANCE[dtype])
    found = softmax_backward(grad.clone(), weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected_grad, rtol=0, atol=4 * TOLERANCE[dtype])


def test_scores_of_any_size_give_finite_weights() -> None:
    huge = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]]])
    torch.testing.assert_close(softmax(huge.clone()), torch.tensor([[[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]]))


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("n_keys", [5, 20])
def test_attention_and_its_gradients_are_torchs(n_keys: int, pads: bool, drops: bool) -> None:
    n_streams, n_examples, n_heads, width = 3, 2, 4, 6
    generator = torch.Generator().manual_seed(n_keys)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    q, k, v = (draw(n_streams * n_examples, n_heads, n_keys, width).requires_grad_() for _ in range(3))
    mask = torch.arange(n_keys) < torch.tensor([n_keys, n_keys - 2])[:, None] if pads else None
    mask_bx1x1xT = None if mask is None else mask[:, None, None]
    kept = (draw(n_examples, n_heads, n_keys, n_keys) > 0).double() * 2 if drops else None
    found = products_attention(q, k, v, start_of(mask_bx1x1xT, q.dtype), kept)

    full_mask = None if mask_bx1x1xT is None else mask_bx1x1xT.repeat(n_streams, 1, 1, 1)
    if kept is None:
        expected = scaled_dot_product_attention(q, k, v, attn_mask=full_mask)
    else:
        scores = q @ k.transpose(2, 3) / width**0.5
        scores = scores if full_mask is None else scores.masked_fill(~full_mask, -torch.inf)
        expected = (scores.softmax(dim=-1) * kept.repeat(n_streams, 1, 1, 1)) @ v
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    pull = draw(*found.shape)
    for ours, torchs in zip(
        torch.autograd.grad(found, (q, k, v), pull), torch.autograd.grad(expected, (q, k, v), pull), strict=True
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)
