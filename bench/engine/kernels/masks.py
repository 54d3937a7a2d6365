"""Keyed dropout masks by one kernel, bit for bit those of dropout.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.engine.kernels.hashing import mixed, part_of, word_of

WORDS = 128  # of a program; each word has four features


@triton.jit(do_not_specialize=["n_rows", "threshold"])
def masks_kernel(out, key, salts, n_rows, n_features, threshold, scale, WORDS: tl.constexpr):
    """Write the mask of one row for one salt and 4 * WORDS features: program (row, words, salt)."""
    row, which = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    feature = word[:, None] * 4 + tl.arange(0, 4)[None, :]
    start = mixed(tl.load(key + row) + tl.load(salts + which))
    bits = word_of(start, word * 4)
    kept = part_of(bits[:, None], feature) >= threshold
    values = tl.where(kept, scale, 0.0).to(out.dtype.element_ty)
    tl.store(out + (which * n_rows + row) * n_features + feature, values, mask=feature < n_features)


def draw(key: Tensor, salts_L: Tensor, threshold: int, scale: float, n_features: int, dtype: torch.dtype) -> Tensor:
    """Return the masks of every salt: [L, *key.shape, n_features], `scale` where 16 bits as a signed number reach
    `threshold`, else 0.
    """
    rows = key.contiguous()
    out = torch.empty(len(salts_L), *key.shape, n_features, device=key.device, dtype=dtype)
    if out.numel():
        grid = (rows.numel(), triton.cdiv(n_features, 4 * WORDS), len(salts_L))
        masks_kernel[grid](out, rows, salts_L, rows.numel(), n_features, threshold, scale, WORDS=WORDS)
    return out
