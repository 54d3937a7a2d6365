"""(IA)^3: outputs of keys and values, and inputs of down-projections, are scaled by learnt vectors (Liu et al. 2022,
arXiv:2205.05638, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role

if TYPE_CHECKING:
    from torch import Generator, Tensor


class IA3(Method):
    """One vector a layer, at eta_A; trained is its change from 1. A layer that is narrower than its input is scaled
    there, as PEFT's feedforward_modules are; every other at its output, bias included.
    """

    name = "ia3"
    label = "(IA)^3"
    looks: ClassVar = {None: (20, "d")}
    source = "arXiv:2205.05638"
    reads = frozenset({"target_modules", "layers_to_transform"})
    adds = False
    needs_weight = True
    peft_type = "IA3"
    peft_config = "IA3Config"
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """None at an output; 2 in out at an input, where each trial has a product of its own."""
        return 2 * shape.in_features * shape.out_features if _at_input(shape) else 0

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """in or out, whichever is scaled."""
        return shape.in_features if _at_input(shape) else shape.out_features

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """The vector's change, at eta_A."""
        return {"scale": Role.VECTOR}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """Zero: the model is the base."""
        import torch

        return {"scale": torch.zeros(self.n_trainable(trial, shape))}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """Which side is scaled."""
        return {"at_input": int(_at_input(shape))}

    def output(
        self, params: Mapping[str, Tensor], constants: Mapping[str, Any], h: Tensor, x: Tensor, *, dropped: bool = False
    ) -> Tensor:
        """h (1 + d), or h + W0 (d x)."""
        from torch.nn.functional import linear

        scale_Kx1xD = params["scale"][:, None].to(h.dtype)
        if constants["at_input"]:
            return h + linear(x * scale_Kx1xD, constants["frozen"].weight)
        return h + h * scale_Kx1xD

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """d W0, by columns or by rows."""
        scale = params["scale"]
        weight = constants["frozen"].weight.to(scale.dtype)
        return weight * (scale[:, None] if constants["at_input"] else scale[..., None])

    def bias_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> Tensor | None:
        """d b0, where the output is scaled."""
        bias = constants["frozen"].bias
        return None if constants["at_input"] or bias is None else bias.to(params["scale"].dtype) * params["scale"]

    def peft_saved(self, trial: Trial, shapes: Sequence[LayerShape]) -> dict[str, Any]:
        """Which modules are scaled at their input."""
        return {"feedforward_modules": [shape.path for shape in shapes if _at_input(shape)]}

    def peft_code(self, trial: Trial) -> list[str]:
        """What the config must be told, too."""
        return ["# name the layers that are narrower than their input as feedforward_modules: they are scaled there"]

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The vector itself, [1, I] or [O, 1]."""
        scale = 1 + own["scale"]
        return {"ia3_l": scale[None] if _at_input(shape) else scale[:, None]}


def _at_input(shape: LayerShape) -> bool:
    return shape.in_features > shape.out_features


METHOD = IA3()
