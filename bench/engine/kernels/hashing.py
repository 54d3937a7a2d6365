"""The hash of dropout.py within a kernel, bit for bit: splitmix64's finaliser, 16 bits of it for each feature."""

from __future__ import annotations

import triton
import triton.language as tl

GOLDEN = tl.constexpr(-7046029254386353131)
MIX_1 = tl.constexpr(-4658895280553007687)
MIX_2 = tl.constexpr(-7723592293110705685)


@triton.jit
def mixed(x):
    """Return splitmix64's finaliser of int64 numbers, whose shifts are those of unsigned ones."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def word_of(row, feature):
    """Return the 64 bits that a feature shares with its neighbours of the same four; `row` is mixed(key + salt)."""
    return mixed(row + ((feature // 4) + 1).to(tl.int64) * GOLDEN)


@triton.jit
def part_of(word, feature):
    """Return the feature's own 16 bits of its word as a signed number."""
    part = ((word >> ((feature % 4) * 16).to(tl.int64)) & 0xFFFF).to(tl.int32)
    return tl.where(part >= 32768, part - 65536, part)
