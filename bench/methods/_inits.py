"""What LoRA's factors are at first. Inits whose product is not zero are taken off in the map, never off the base.

All K trials of a pack and all methods of a study stand on the same frozen weights: where PEFT subtracts what the
factors start from from the base (PiSSA, OLoRA), the map here is s (B A - B0 A0), which is the same sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from bench.methods._base import LayerShape

TAKEN_OFF = ("pissa", "olora", "milora", "nonzero")
OF_THE_WEIGHT = ("pissa", "olora", "milora")  # computed from the weight that is adapted


def problem(init: str | None, rank: int, shape: LayerShape) -> str | None:
    """Return the rule that the init breaks at a layer of this shape, or None."""
    if init not in TAKEN_OFF:
        return None
    if shape.kind == "embedding":
        return f"init {init} is of Linears, but got the embedding {shape.path}"
    most = min(shape.in_features, shape.out_features)
    if init in OF_THE_WEIGHT and rank > most:
        return f"init {init} takes a rank of at most {most} for {shape.path}, but got rank={rank}"
    return None


def of_embedding(init: str | None, rank: int, shape: LayerShape, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return A and B of an embedding: B ~ N(0, 1) and A = 0, as in PEFT's update_layer; under zero_A the reverse."""
    A_RxI, B_OxR = _zeros(rank, shape)
    (A_RxI if init == "zero_A" else B_OxR).normal_(generator=generator)
    return A_RxI, B_OxR


def of_linear(
    init: str | None, rank: int, scaling: float, shape: LayerShape, generator: Generator, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return A [R, I] and B [O, R] of a Linear.

    zero_B: A ~ U(+-1/sqrt(I)), B = 0, PEFT's default; zero_A: B ~ U(+-1/sqrt(R)), A = 0, the LoRA+ paper's; nonzero:
    both drawn so. Each is kaiming_uniform(a=sqrt(5)), that is U(+-1/sqrt(fan_in)). Of the weight W = U S V^T with
    singular values in falling order: pissa, A = sqrt(S/s) V^T and B = U sqrt(S/s) of the r largest (Meng et al. 2024,
    arXiv:2404.02948, section 3); milora, of the r smallest (Wang et al. 2024, arXiv:2406.09044); olora, B and A the
    first r columns and rows of Q and R, W = Q R (Büyükakyüz 2024, arXiv:2406.01775), as PEFT has it.
    """
    if init in OF_THE_WEIGHT:
        if weight is None:
            raise ValueError(f"init {init} is computed from the frozen weight")
        return _of_weight(str(init), rank, scaling, weight)
    A_RxI, B_OxR = _zeros(rank, shape)
    if init != "zero_A":
        A_RxI.uniform_(-1 / math.sqrt(shape.in_features), 1 / math.sqrt(shape.in_features), generator=generator)
    if init != "zero_B":
        B_OxR.uniform_(-1 / math.sqrt(rank), 1 / math.sqrt(rank), generator=generator)
    return A_RxI, B_OxR


def _of_weight(init: str, rank: int, scaling: float, weight: Tensor) -> tuple[Tensor, Tensor]:
    if init == "olora":
        Q, R = _factors("qr", weight)
        return _host(R[:rank]), _host(Q[:, :rank])
    U, S, V = _factors("svd", weight)
    part = slice(rank) if init == "pissa" else slice(S.shape[0] - rank, None)
    root_R = (S[part] / scaling).sqrt()
    return _host(root_R[:, None] * V[part]), _host(U[:, part] * root_R)


def _host(found: Tensor) -> Tensor:
    return found if found.is_meta else found.cpu()


_LAST: list[tuple[str, Tensor, int, tuple[Tensor, ...]]] = []  # the K trials of a pack ask for the same layer in turn


def _factors(kind: str, weight: Tensor) -> tuple[Tensor, ...]:
    """Return U, S, V or Q, R of a weight, in at least float32; that of the last weight is kept."""
    import torch

    for known, its, version, found in _LAST:  # the tensor is held, so its place in memory is no other's
        same = its.data_ptr() == weight.data_ptr() and its.shape == weight.shape and its.stride() == weight.stride()
        if known == kind and same and not weight.is_meta and version == weight._version:
            return found
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    made = torch.linalg.qr(wide) if kind == "qr" else torch.linalg.svd(wide, full_matrices=False)
    _LAST[:] = [(kind, weight, weight._version, tuple(made))]
    return tuple(made)


def _zeros(rank: int, shape: LayerShape) -> tuple[Tensor, Tensor]:
    import torch

    return torch.zeros(rank, shape.in_features), torch.zeros(shape.out_features, rank)
