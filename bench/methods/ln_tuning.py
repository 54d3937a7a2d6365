"""LayerNorm tuning: weight and bias of every LayerNorm, nothing else (Zhao et al. 2023, arXiv:2312.11420)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role

if TYPE_CHECKING:
    from torch import Generator, Tensor


class LayerNormTuning(Method):
    """h = (w0 + w) * norm(x) + b0 + b; w and b are zero at first, at eta_A, as BitFit's biases are."""

    name = "ln-tuning"
    label = "LayerNorm tuning"
    looks: ClassVar = {None: (21, "v")}
    source = "arXiv:2312.11420"
    reads = frozenset()
    adapts = "norms"
    in_place = frozenset({"weight", "bias"})
    adds = False
    peft_type = "LN_TUNING"
    peft_config = "LNTuningConfig"
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """Two numbers for each output."""
        return 2 * shape.out_features

    def n_added(self, trial: Trial, shape: LayerShape) -> int:
        """None: the model has them already."""
        return 0

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """Both at eta_A; neither decays."""
        return {"weight": Role.VECTOR, "bias": Role.BIAS}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """Zero: the model is the base."""
        import torch

        return {name: torch.zeros(shape.out_features) for name in ("weight", "bias")}

    def output(
        self, params: Mapping[str, Tensor], constants: Mapping[str, Any], h: Tensor, x: Tensor, *, dropped: bool = False
    ) -> Tensor:
        """h + w * norm(x) + b."""
        from torch.nn.functional import layer_norm

        normal = layer_norm(x, x.shape[-1:], eps=constants["frozen"].eps)
        return h + normal * params["weight"][:, None].to(x.dtype) + params["bias"][:, None].to(x.dtype)

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """w, [K, O]."""
        return params["weight"]

    def bias_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> Tensor:
        """b, [K, O]."""
        return params["bias"]

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Weight and bias themselves."""
        frozen = constants["frozen"]
        return {f"ln_tuning_layers.{name}": getattr(frozen, name) + value for name, value in own.items()}


METHOD = LayerNormTuning()
