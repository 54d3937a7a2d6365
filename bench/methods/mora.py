"""MoRA: h = W0 x + f_decomp(M f_comp(x)), one square matrix M (Jiang et al. 2024, arXiv:2405.12130, section 4).

f_comp and f_decomp have no parameters. `mora_type` numbers them as the official code does:

| type | f_comp | f_decomp |
|---|---|---|
| 1 | sums of strided groups, a, a + r_hat, ... (eq. 6) | tile (eq. 7) |
| 2 | sums of contiguous groups | repeat-interleave |
| 3 | contiguous | tile |
| 4 | strided | repeat-interleave |
| 6 | blocks of r_hat, block b rotated by b * theta (eqs. 9 to 11) | the blocks side by side |
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Method, Role, rank_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

TYPES = (1, 2, 3, 4, 6)
STRIDED, TILED, ROTATED = (1, 4), (1, 3), 6


class MoRA(Method):
    """One M [r_hat, r_hat] a layer, zero at first, with as many parameters as LoRA of the given rank has."""

    name = "mora"
    label = "MoRA"
    looks: ClassVar = {1: (1, "v"), 2: (4, "<"), 3: (8, ">"), 4: (9, "P"), 6: (2, "^")}
    place = 2
    source = "arXiv:2405.12130"
    reads = frozenset({"rank", "lora_dropout", "target_modules", "layers_to_transform", "mora_type", "mora_rounding"})
    timed = ({"mora_type": 1}, {"mora_type": 6})

    def problem(self, trial: Trial, shape: LayerShape) -> str | None:
        """r_hat must not exceed the input, nor M the layer's own weight."""
        if trial.mora_type not in TYPES:
            return f"mora_type must be one of {TYPES}, but got mora_type={trial.mora_type}"
        side = r_hat(trial, shape)
        if side < 1 or side > shape.in_features or side * side > shape.in_features * shape.out_features:
            return (
                f"1 <= r_hat <= {shape.in_features} and r_hat^2 <= {shape.in_features * shape.out_features} must hold "
                f"for {shape.path}, but got r_hat={side} from rank={trial.rank}"
            )
        return None

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 r_hat^2; for type 6 for each block that the output has room for (section 4 of the paper)."""
        side = r_hat(trial, shape)
        blocks = min(math.ceil(shape.in_features / side), math.ceil(shape.out_features / side))
        return 2 * side * side * (blocks if trial.mora_type == ROTATED else 1)

    def derived(self, trial: Trial, shapes: Sequence[LayerShape]) -> dict[str, int]:
        """r_hat of the first layer."""
        return {"mora_r_hat": r_hat(trial, shapes[0])}

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r_hat^2."""
        return r_hat(trial, shape) ** 2

    def pack_key(self, trial: Trial) -> Hashable:
        """r_hat changes the shapes that x takes, so it cannot be padded: one type, rank and rounding to a pack."""
        return (*super().pack_key(trial), trial.mora_type, trial.rank, trial.mora_rounding)  # type: ignore[misc]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """M, trained at eta_A."""
        return {"M": Role.M}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """Zero: no other factor is zero, so the gradient of M is not."""
        import torch

        side = r_hat(trial, shape)
        return {"M": torch.zeros(side, side)}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """The type, the width of the output and, for type 6, the rotation of each block, all alike within a pack."""
        type_, side = trials[0].mora_type, r_hat(trials[0], shape)
        if type_ is None:
            raise ValueError("a mora trial has a mora_type")
        constants: dict[str, Tensor | int] = {"mora_type": type_, "n_out": shape.out_features}
        if type_ == ROTATED:
            constants["cos"], constants["sin"] = _rotation(math.ceil(shape.in_features / side), side)
        return constants

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """f_decomp(M f_comp(x)), [K, N, O], no scaling."""
        M_KxRxR, type_, n_out = params["M"], constants["mora_type"], constants["n_out"]
        if type_ == ROTATED:
            return _rotate_and_multiply(M_KxRxR, constants["cos"], constants["sin"], x_KxNxI, n_out)
        side = M_KxRxR.shape[-1]
        z_KxNxR = sum_strided(x_KxNxI, side) if type_ in STRIDED else sum_contiguous(x_KxNxI, side)
        y_KxNxR = z_KxNxR @ M_KxRxR.transpose(1, 2)
        return tile(y_KxNxR, n_out) if type_ in TILED else repeat_contiguous(y_KxNxR, n_out)


def r_hat(trial: Trial, shape: LayerShape) -> int:
    """Return the side of M: sqrt((in + out) rank), floored (the paper) or to the nearest (the official code).

    Type 6 rotates pairs, so its side is even. Floor never exceeds LoRA's parameter count; nearest can.

    Raises:
        ValueError: for a trial without a rank.
    """
    area = (shape.in_features + shape.out_features) * rank_of(trial)
    side = int(math.sqrt(area) + 0.5) if trial.mora_rounding == "nearest" else math.isqrt(area)
    return side // 2 * 2 if trial.mora_type == ROTATED else side


def sum_strided(x: Tensor, side: int) -> Tensor:
    """Return the sums of the features a, a + side, a + 2 side, ...: [..., side].

    The last, short round is filled up with the first features, which so count twice: the official code wraps around
    (its zero padding is commented out).
    """
    return _wrap(x, side).unflatten(-1, (-1, side)).sum(-2)


def sum_contiguous(x: Tensor, side: int) -> Tensor:
    """Return the sums of `side` groups of neighbouring features, the larger groups first: [..., side]."""
    import torch

    size, n_larger = divmod(x.shape[-1], side)
    cut = n_larger * (size + 1)
    larger = x[..., :cut].unflatten(-1, (n_larger, size + 1)).sum(-1)
    return torch.cat([larger, x[..., cut:].unflatten(-1, (side - n_larger, size)).sum(-1)], dim=-1)


def tile(y: Tensor, n_out: int) -> Tensor:
    """Return y [..., side] repeated as a whole up to n_out features: out_i = y_(i mod side), [..., n_out]."""
    side = y.shape[-1]
    rounds = math.ceil(n_out / side)
    return y.unsqueeze(-2).expand(*y.shape[:-1], rounds, side).flatten(-2)[..., :n_out]


def repeat_contiguous(y: Tensor, n_out: int) -> Tensor:
    """Return y [..., side] with each feature repeated in place, the longer runs first: [..., n_out]."""
    import torch

    size, n_longer = divmod(n_out, y.shape[-1])
    longer, shorter = y[..., :n_longer, None], y[..., n_longer:, None]
    parts = [longer.expand(*longer.shape[:-1], size + 1), shorter.expand(*shorter.shape[:-1], size)]
    return torch.cat([part.flatten(-2) for part in parts], dim=-1)


def _rotate_and_multiply(M_KxRxR: Tensor, cos_BxR: Tensor, sin_BxR: Tensor, x_KxNxI: Tensor, n_out: int) -> Tensor:
    """Return the blocks M R_b x_b side by side, cut or tiled to n_out.

    The rotation goes onto M, K B r_hat^2 numbers, instead of onto x: M R_b = M cos_b + [M_2, -M_1] sin_b over column
    halves (the merge formula of the official code). Blocks beyond the output are not computed.
    """
    import torch

    side = M_KxRxR.shape[-1]
    n_blocks = min(cos_BxR.shape[0], math.ceil(n_out / side))
    cos, sin = (c[:n_blocks, None, :].to(M_KxRxR.dtype) for c in (cos_BxR, sin_BxR))
    first, second = M_KxRxR.chunk(2, dim=-1)
    swapped = torch.cat([second, -first], dim=-1)
    W_KxBxRxR = M_KxRxR[:, None] * cos + swapped[:, None] * sin
    x_KxBxNxR = _wrap(x_KxNxI, side).unflatten(-1, (-1, side))[:, :, :n_blocks].transpose(1, 2)
    y_KxBxNxR = torch.matmul(x_KxBxNxR, W_KxBxRxR.transpose(-1, -2))
    y_KxNxO = y_KxBxNxR.transpose(1, 2).flatten(-2)
    return tile(y_KxNxO, n_out)


def _wrap(x: Tensor, side: int) -> Tensor:
    """Return x with its own first features appended until its width is a multiple of `side` <= width."""
    import torch

    pad = -x.shape[-1] % side
    return x if pad == 0 else torch.cat([x, x[..., :pad]], dim=-1)


def _rotation(n_blocks: int, side: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angles b / 10000^(2q / side), b < n_blocks, q < side / 2, twice over: [B, side].

    In float32, as the official code tabulates them: in float64 the merged weights would differ by 3e-7.
    """
    import torch

    inverse = 1 / 10000 ** (torch.arange(0, side, 2, dtype=torch.float32) / side)
    angle_BxR = (torch.arange(n_blocks, dtype=torch.float32)[:, None] * inverse).repeat(1, 2)
    return angle_BxR.cos(), angle_BxR.sin()


METHOD = MoRA()
