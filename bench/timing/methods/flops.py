"""What an adapter adds to the arithmetic of a token, by formula."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bench.core.spec import Trial
from bench.methods import LayerShape
from bench.methods.mora import ROTATED, r_hat


def adapter_flop(trial: Trial, shapes: Iterable[LayerShape]) -> int | None:
    """Return the FLOP of the adapters' products for one token forward; a step takes three times as many.

    A multiplication and an addition count two. LoRA: r (in + out). MoRA: r_hat^2, and for type 6 once for each block
    that the output has room for (Jiang et al. 2024, arXiv:2405.12130, section 4). Sums, rotations and tiling are left
    out: they are no products. None: no formula is known for the method.
    """
    if trial.method == "full":
        return 0
    found = [_products(trial, shape) for shape in shapes]
    return None if None in found else 2 * sum(n for n in found if n is not None)


def _products(trial: Trial, shape: LayerShape) -> int | None:
    if trial.method in ("lora", "lora+") and trial.rank is not None:
        return trial.rank * (shape.in_features + shape.out_features)
    if trial.method == "mora":
        side = r_hat(trial, shape)
        blocks = min(math.ceil(shape.in_features / side), math.ceil(shape.out_features / side))
        return side * side * (blocks if trial.mora_type == ROTATED else 1)
    return None
