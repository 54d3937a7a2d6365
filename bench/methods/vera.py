"""VeRA: h = W0 x + b * (B (d * (A x))), A and B random, frozen and common to all layers (Kopiczko et al. 2023,
arXiv:2310.11454, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.seeds import derive
from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role, rank_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

D_INITIAL = 0.1  # table 8 of the paper and PEFT's default


class VeRA(Method):
    """Two vectors a layer at eta_A, d [R] and b [O]. A and B are drawn from the seed as PEFT draws them from its key.

    A narrower layer takes the first columns of A and rows of B, as in PEFT.
    """

    name = "vera"
    label = "VeRA"
    looks: ClassVar = {None: (17, "s")}
    place = 6
    own_rank = True
    source = "arXiv:2310.11454"
    reads = frozenset({"rank", "lora_dropout", "target_modules", "layers_to_transform"})
    peft_type = "VERA"
    peft_config = "VeraConfig"
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 r (in + out)."""
        return 2 * rank_of(trial) * (shape.in_features + shape.out_features)

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r + out; A and B follow from the seed."""
        return rank_of(trial) + shape.out_features

    def pack_key(self, trial: Trial) -> Hashable:
        """A and B are one pair for a pack, whose members share the seed."""
        return (*super().pack_key(trial), trial.rank)  # type: ignore[misc]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """d and b, at eta_A."""
        return {"d": Role.VECTOR, "b": Role.VECTOR}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """d = 0.1, b = 0."""
        import torch

        return {"d": torch.full((rank_of(trial),), D_INITIAL), "b": torch.zeros(shape.out_features)}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """A [R, I] and B [O, R] of the widest layer: one pair for all."""
        n_in, n_out = max(shape.widest_in, shape.in_features), max(shape.widest_out, shape.out_features)
        A, B = _projections(key_of(trials[0]), rank_of(trials[0]), n_in, n_out)
        return {"A": A, "B": B, "n_out": shape.out_features}

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """b * (B (d * (A x))), [K, N, O]. A x is computed once where x is shared."""
        A_RxI = constants["A"][:, : x_KxNxI.shape[-1]].to(x_KxNxI.dtype)
        B_OxR = constants["B"][: constants["n_out"]].to(x_KxNxI.dtype)
        z_KxNxR = (x_KxNxI @ A_RxI.T) * params["d"][:, None]
        return (z_KxNxR @ B_OxR.T) * params["b"][:, None]

    def peft_settings(self, trial: Trial) -> dict[str, Any]:
        """VeraConfig's; with the projections saved nothing depends on how a version of torch draws them."""
        return {
            "r": trial.rank,
            "vera_dropout": trial.lora_dropout or 0.0,
            "projection_prng_key": key_of(trial),
            "save_projection": True,
        }

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The vectors of the layer, and the pair of the model."""
        vectors = {"vera_lambda_d": own["d"], "vera_lambda_b": own["b"]}
        return {**vectors, ".vera_A": constants["A"], ".vera_B": constants["B"]}


def key_of(trial: Trial) -> int:
    """Return the seed of A and B, PEFT's projection_prng_key."""
    return int(derive("vera", trial.seed) % 2**31)


@lru_cache(maxsize=2)
def _projections(key: int, rank: int, n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """Return A [R, I] and B [O, R], U(+-sqrt(6 / fan_in)): PEFT's _kaiming_init, A first."""
    import torch

    generator, drawn = torch.Generator().manual_seed(key), []
    for n_rows, n_columns in ((rank, n_in), (n_out, rank)):
        bound = math.sqrt(6 / n_columns)
        drawn.append(torch.empty(n_rows, n_columns).uniform_(-bound, bound, generator=generator))
    return drawn[0], drawn[1]


METHOD = VeRA()
