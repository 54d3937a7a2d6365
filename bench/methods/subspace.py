"""Random subspace: theta = theta_0 + P v, d trained numbers v for all adapted weights together, P random and fixed.

Intrinsic dimension: Li et al. 2018, arXiv:1804.08838, section 2; Aghajanyan et al. 2020, arXiv:2012.13255, section 3.
P has one entry +1 or -1 in each row: weight (i, j) of a layer gets s_i t_j v[(a_i + b_j) mod d], with a, b uniform on
0 .. d - 1 and s, t random signs. It is the count sketch of a Kronecker product (Pham and Pagh 2013, KDD, TensorSketch):
any two weights share a number with probability 1 / d, and P's columns are orthogonal. A layer needs in + out places and
signs, whatever d; no matrix of P and no update is kept between the forward and the backward pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.seeds import derive
from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role, rank_of

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Subspace(Method):
    """One v [d] for the whole model, zero at first; `rank` is d. P is drawn from seed, layer and d, never stored.

    The papers' P has columns of length 1. These have one entry of size 1 for each of their D / d weights, so v moves a
    weight by eta_A a step, as full fine-tuning does, and a rate there is sqrt(D / d) times as large for the same step.
    Embeddings, norms and biases keep their values; the head is trained beside v, as ever.
    """

    name = "subspace"
    label = "random subspace"
    looks: ClassVar = {None: (10, "h")}
    reads = frozenset({"rank", "target_modules", "layers_to_transform"})
    shared = frozenset({"v"})
    own_rank = True
    source = "arXiv:1804.08838"

    def n_shared(self, trial: Trial) -> int:
        """d."""
        return rank_of(trial)

    def pack_key(self, trial: Trial) -> Hashable:
        """P is one for a pack, and depends on d."""
        return (*super().pack_key(trial), trial.rank)  # type: ignore[misc]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """v, trained at eta_A."""
        return {"v": Role.M}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """Zero: the model is the base, and the gradient of v, P^T times that of theta, is not."""
        import torch

        return {"v": torch.zeros(rank_of(trial))}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """Places and signs of the layer's outputs and inputs, [O] and [I], alike within a pack: it has one seed."""
        import torch

        d = rank_of(trials[0])
        generator = torch.Generator().manual_seed(derive("subspace", trials[0].seed, shape.path, d))
        found: dict[str, Tensor | int] = {}
        for side, n in (("out", shape.out_features), ("in", shape.in_features)):
            found[f"place_{side}"] = torch.randint(d, (n,), generator=generator)
            signs = torch.randint(2, (n,), generator=generator)
            found[f"sign_{side}"] = (2 * signs - 1).double()
        return found

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """s * (V (t * x)), V_ij = v[(a_i + b_j) mod d]."""
        import torch

        from bench.methods._circulant import product

        v_Kxd, dtype = params["v"], x_KxNxI.dtype
        doubled_Kx2d = torch.cat([v_Kxd, v_Kxd], dim=-1)  # a_i + b_j < 2 d: no remainder to take
        signed_KxNxI = x_KxNxI * constants["sign_in"].to(dtype)
        y_KxNxO = product(signed_KxNxI, doubled_Kx2d, constants["place_out"], constants["place_in"])
        return y_KxNxO * constants["sign_out"].to(dtype)


METHOD = Subspace()
