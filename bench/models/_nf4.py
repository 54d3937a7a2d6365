"""A base whose Linear layers are held in 4 bits: NF4 with double quantisation, computed in the trial's precision.

As QLoRA (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes' own functions; which layers: all Linear but the
output embedding, as transformers' BitsAndBytesConfig chooses them. A layer keeps nothing of its weight but the 4 bits:
it is dequantised when the layer is met, for all trials of a pack at once, and again on the way back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 64  # weights that share a scale, bitsandbytes' default
PARTS = ("absmax", "code", "offset", "absmax2", "code2")


def quantise(model: Any) -> None:
    """Put an NF4Linear in place of every Linear of the model but its output embedding."""
    output = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not output:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, NF4Linear(module))


def n_parameters(model: nn.Module) -> int:
    """Return how many parameters a model has, a weight in 4 bits counted as what it stands for."""
    packed = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, NF4Linear))
    return packed + sum(p.numel() for p in model.parameters())


def dequantise(layer: NF4Linear) -> Tensor:
    """Return a layer's weight, [out, in], in the precision that it is computed in."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    inner = QuantState(absmax=layer.absmax2, blocksize=layer.block2, code=layer.code2, dtype=torch.float32)
    state = QuantState(
        absmax=layer.absmax, shape=torch.Size((layer.out_features, layer.in_features)), code=layer.code,
        blocksize=BLOCK, quant_type="nf4", dtype=layer.stored_dtype, offset=layer.offset, state2=inner,
    )  # fmt: skip
    weight: Tensor = dequantize_4bit(layer.packed, state)
    return weight.to(layer.dtype)


class NF4Linear(nn.Linear):
    """A frozen Linear layer in 4 bits. A subclass of Linear, so that it is adapted where a Linear would be."""

    packed: Tensor
    absmax: Tensor
    code: Tensor
    offset: Tensor
    absmax2: Tensor
    code2: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        from bitsandbytes.functional import quantize_4bit

        nn.Module.__init__(self)  # Linear's own would make a weight
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        weight = layer.weight.detach()
        self.dtype = weight.dtype
        source = weight.float() if weight.dtype == torch.float64 else weight
        self.stored_dtype = source.dtype
        packed, state = quantize_4bit(source, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
        self.block2 = int(state.state2.blocksize)
        parts = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
        for name, value in zip(("packed", *PARTS), (packed, *parts), strict=True):
            self.register_buffer(name, value)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The dequantised weight, made anew each time."""
        return dequantise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for x [..., in]."""
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """x W^T, the weight dequantised anew on the way back: kept until then it would take as much as without 4 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, dequantise(layer))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ dequantise(ctx.layer), None
