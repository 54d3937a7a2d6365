"""Bottleneck adapters: up(act(down(z))), added to what a frozen layer puts out; z is that output or the layer's input.

A non-linear map has no weight that it could be merged into: the adapter stays beside the model and costs at inference.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role, rank_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "tanh": "tanh"}  # setting -> torch.nn.functional's


class Bottleneck(Method):
    """`rank` is the bottleneck's width. The up-projection is zero at first; with `adapter_gate` it is random and one
    number per layer that it is multiplied by is zero (the gate of Zhang et al. 2023, arXiv:2303.16199, without its
    tanh): of two zero factors neither would learn.
    """

    reads = frozenset({"rank", "target_modules", "layers_to_transform", "adapter_activation", "adapter_gate"})
    merges = False
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def n_in(self, shape: LayerShape) -> int:
        """Return the width of what the adapter sees."""
        raise NotImplementedError

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 r (in + out)."""
        return 2 * rank_of(trial) * (self.n_in(shape) + shape.out_features)

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r (in + out) + r + out, and the gate."""
        rank, n_out = rank_of(trial), shape.out_features
        return rank * (self.n_in(shape) + n_out) + rank + n_out + bool(trial.adapter_gate)

    def pack_key(self, trial: Trial) -> Hashable:
        """One width, activation and gate to a pack: act(0) of a padded row need not be 0."""
        return (*super().pack_key(trial), trial.rank, trial.adapter_activation, trial.adapter_gate)  # type: ignore[misc]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """All at eta_A."""
        matrices = {"down": Role.M, "up": Role.M}
        return {**matrices, "down_bias": Role.BIAS, "up_bias": Role.BIAS, "gate": Role.VECTOR}

    def absent(self, trial: Trial) -> frozenset[str]:
        """The gate, where there is none."""
        return frozenset() if trial.adapter_gate else frozenset({"gate"})

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """down ~ U(+-1/sqrt(in)); up = 0, or U(+-1/sqrt(r)) behind a gate of 0; no biases."""
        import torch

        rank, n_in, n_out = rank_of(trial), self.n_in(shape), shape.out_features
        down, up = torch.empty(rank, n_in), torch.zeros(n_out, rank)
        down.uniform_(-1 / math.sqrt(n_in), 1 / math.sqrt(n_in), generator=generator)
        found = {"down": down, "up": up, "down_bias": torch.zeros(rank), "up_bias": torch.zeros(n_out)}
        if trial.adapter_gate:
            up.uniform_(-1 / math.sqrt(rank), 1 / math.sqrt(rank), generator=generator)
            found["gate"] = torch.zeros(1)
        return found

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Any]:
        """The activation."""
        return {"activation": trials[0].adapter_activation}

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """gate * (up(act(down(z))) + its bias), [K, N, O]."""
        from torch.nn import functional

        inner_KxNxR = x_KxNxI @ params["down"].transpose(1, 2) + params["down_bias"][:, None]
        active = getattr(functional, ACTIVATIONS[constants["activation"]])(inner_KxNxR)
        y_KxNxO: Tensor = active @ params["up"].transpose(1, 2) + params["up_bias"][:, None]
        return y_KxNxO * params["gate"][:, None] if "gate" in params else y_KxNxO

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """There is none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.name} is not linear: no weight does the same")
