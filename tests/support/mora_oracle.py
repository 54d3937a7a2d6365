"""MoRA as explicit matrices, for tests only: the weight delta is D M C, or rotated blocks of M, written out densely.

Slow and literal on purpose: nothing is shared with bench/methods/mora.py. Types are numbered as in the official code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.models._base import LoadedModel
from tests.support.engine_helpers import clone
from tests.support.oracle import Alone, Start, optimizer_of, train_alone


def side(rank: int, n_in: int, n_out: int, mora_type: int) -> int:
    """r_hat by the paper's rule: the largest square that fits LoRA's budget; even where pairs are rotated."""
    largest = math.isqrt((n_in + n_out) * rank)
    return largest - largest % 2 if mora_type == 6 else largest


def group_of(i: int, n: int, n_groups: int) -> int:
    """The contiguous group of feature i of n: the first n mod n_groups groups have one member more."""
    small, n_large = divmod(n, n_groups)
    boundary = n_large * (small + 1)
    return i // (small + 1) if i < boundary else n_large + (i - boundary) // small


def compress_matrix(mora_type: int, n_in: int, r_hat: int) -> Tensor:
    """C, [r_hat, n_in]: strided sums with wrap-around padding (1, 4) or sums of contiguous groups (2, 3)."""
    C = torch.zeros(r_hat, n_in, dtype=torch.float64)
    if mora_type in (1, 4):
        for s in range(math.ceil(n_in / r_hat) * r_hat):
            C[s % r_hat, s % n_in] += 1
    else:
        for j in range(n_in):
            C[group_of(j, n_in, r_hat), j] += 1
    return C


def decompress_matrix(mora_type: int, n_out: int, r_hat: int) -> Tensor:
    """D, [n_out, r_hat]: tiled (1, 3) or each value repeated for a contiguous group (2, 4)."""
    D = torch.zeros(n_out, r_hat, dtype=torch.float64)
    for i in range(n_out):
        D[i, i % r_hat if mora_type in (1, 3) else group_of(i, n_out, r_hat)] = 1
    return D


def rotation(block: int, r_hat: int) -> Tensor:
    """R_b, [r_hat, r_hat]: the pair (q, q + r_hat/2) turned by block * 10000^(-2q / r_hat).

    Angles, sines and cosines are float32 numbers, as the official code tabulates them whatever the dtype of M.
    """
    R = torch.zeros(r_hat, r_hat, dtype=torch.float64)
    half = r_hat // 2
    inverse = 1 / 10000 ** (torch.arange(0, r_hat, 2).float() / r_hat)
    angles = torch.tensor(float(block)) * inverse
    for q, (cos, sin) in enumerate(zip(angles.cos().tolist(), angles.sin().tolist(), strict=True)):
        R[q, q] = R[q + half, q + half] = cos
        R[q, q + half], R[q + half, q] = -sin, sin
    return R


class DenseMoRA(nn.Module):
    """A frozen Linear plus a dense delta that is rebuilt from M in every forward pass."""

    def __init__(self, base: nn.Linear, M: Tensor, mora_type: int) -> None:
        super().__init__()
        self.base, self.M, self.mora_type = base, nn.Parameter(M.clone()), mora_type
        n_out, n_in = base.weight.shape
        r_hat = M.shape[0]
        if mora_type == 6:
            n_blocks = math.ceil(n_in / r_hat)
            wrap = torch.zeros(n_blocks * r_hat, n_in, dtype=torch.float64)
            wrap[torch.arange(n_blocks * r_hat), torch.arange(n_blocks * r_hat) % n_in] = 1
            rotated = [rotation(b, r_hat) @ wrap[b * r_hat : (b + 1) * r_hat] for b in range(n_blocks)]
            self.right = torch.stack(rotated).to(M.dtype)  # [n, r_hat, in]
            self.rows = torch.arange(n_out) % (n_blocks * r_hat)
        else:
            self.left = decompress_matrix(mora_type, n_out, r_hat).to(M.dtype)
            self.right = compress_matrix(mora_type, n_in, r_hat).to(M.dtype)

    def delta_weight(self) -> Tensor:
        """[out, in]."""
        if self.mora_type == 6:
            return (self.M @ self.right).flatten(0, 1)[self.rows]
        return self.left @ self.M @ self.right

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.base.weight + self.delta_weight(), self.base.bias)


def train_mora_alone(loaded: LoadedModel, split: Encoded, member: Trial, start: Start) -> Alone:
    """Train a MoRA trial with DenseMoRA layers in the plain transformers model."""
    model = mora_model(loaded, member, start)
    return train_alone(model, split, member, optimizer_of(model, member))


def _as_linear(layer: Any) -> Any:
    """Return the layer; where it is GPT-2's Conv1D, whose weight is transposed, the Linear that computes the same."""
    if not isinstance(layer, Conv1D):
        return layer
    n_in, n_out = layer.weight.shape
    linear = nn.Linear(n_in, n_out, dtype=layer.weight.dtype).requires_grad_(False)
    linear.weight.data.copy_(layer.weight.T)
    linear.bias.data.copy_(layer.bias)
    return linear


def mora_model(loaded: LoadedModel, member: Trial, start: Start) -> Any:
    """Return the plain transformers model with DenseMoRA layers that start from the trial's own."""
    model: Any = clone(loaded.model)
    model.requires_grad_(False)
    assert member.mora_type is not None
    for path, weights in start.adapters.items():
        parent, _, leaf = path.rpartition(".")
        (M,) = weights.values()
        layer = _as_linear(model.get_submodule(path))
        n_out, n_in = layer.weight.shape
        assert member.rank is not None
        assert M.shape == (side(member.rank, n_in, n_out, member.mora_type),) * 2
        setattr(model.get_submodule(parent), leaf, DenseMoRA(layer, M, member.mora_type))
    for name, value in start.head.items():
        model.get_parameter(name).data.copy_(value)
        model.get_parameter(name).requires_grad_(True)
    return model
