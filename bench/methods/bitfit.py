"""BitFit: every bias of the model is trained, nothing else (Ben Zaken et al. 2022, arXiv:2106.10199, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role

if TYPE_CHECKING:
    from torch import Generator, Tensor


class BitFit(Method):
    """h = W0 x + b0 + b for every Linear and Conv1D, the same for every LayerNorm; b is zero at first, at eta_A.

    b is the change of the bias and not the bias: AdamW without decay takes the same steps, and b keeps its digits
    where b0 is large. On RoBERTa-base 102,144 numbers; the new head is trained as ever.
    """

    name = "bitfit"
    label = "BitFit"
    looks: ClassVar = {None: (5, "X")}
    reads = frozenset()
    adapts = "biases"
    in_place = frozenset({"bias"})
    source = "arXiv:2106.10199"

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """One number for each output."""
        return shape.out_features

    def n_added(self, trial: Trial, shape: LayerShape) -> int:
        """None: the model has its biases already."""
        return 0

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """The bias, trained at eta_A."""
        return {"bias": Role.BIAS}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """Zero: the model is the base."""
        import torch

        return {"bias": torch.zeros(shape.out_features)}

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """b, whatever the input."""
        return params["bias"][:, None].expand(-1, x_KxNxI.shape[-2], -1)

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """Zero, in the shape of K weights."""
        size = (shape.out_features,) if shape.kind == "layernorm" else (shape.out_features, shape.in_features)
        return params["bias"].new_zeros(params["bias"].shape[0], *size)

    def bias_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> Tensor:
        """b, [K, O]."""
        return params["bias"]


METHOD = BitFit()
