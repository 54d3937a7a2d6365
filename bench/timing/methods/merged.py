"""The adapters of a pack of one put into the weights of its own model, so that the same path runs it merged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.engine.adapted import AdaptedLayer
from bench.engine.bank import Bank


@torch.no_grad()
def merge(bank: Bank) -> None:
    """Put a plain layer that does the same in place of each adapted one.

    The sum is made in the adapters' precision and rounded to the base's, as for a model that is served.

    Raises:
        RuntimeError: where it is merged already.
    """
    for shape in bank.shapes:
        adapted = bank.model.get_submodule(shape.path)
        if not isinstance(adapted, AdaptedLayer):
            raise RuntimeError(f"{shape.path} is merged already")
        base: Any = adapted.layer
        delta = bank.method.weight_delta(adapted.weights, adapted.constants, shape)[0]
        weight = _sum(base.weight, delta.T if shape.kind == "conv1d" else delta)
        bias_delta = bank.method.bias_delta(adapted.weights, adapted.constants)
        bias = getattr(base, "bias", None)
        if bias is not None and bias_delta is not None:
            bias = _sum(bias, bias_delta[0])
        parent, _, leaf = shape.path.rpartition(".")
        setattr(bank.model.get_submodule(parent), leaf, _layer(base, weight, bias))


def _sum(base: Tensor, delta: Tensor) -> Tensor:
    return (base.to(delta.dtype) + delta).to(base.dtype)


def _layer(base: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a layer of the same kind with this weight and this bias."""
    if isinstance(base, nn.Embedding):
        n, width = weight.shape
        table = nn.Embedding(n, width, padding_idx=base.padding_idx, _weight=weight)
        return table.requires_grad_(False)
    with torch.device("meta"):  # no memory, no random numbers: the weights come right after
        layer: Any = _empty(base, weight)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    merged: nn.Module = layer
    return merged


def _empty(base: Any, weight: Tensor) -> Any:
    """Return an untrained layer of the same kind as `base` for a weight of this shape."""
    if isinstance(base, nn.LayerNorm):
        return nn.LayerNorm(base.normalized_shape, eps=base.eps)
    if isinstance(base, Conv1D):
        return Conv1D(weight.shape[1], weight.shape[0])
    return nn.Linear(weight.shape[1], weight.shape[0])
