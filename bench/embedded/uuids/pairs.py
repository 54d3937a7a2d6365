"""Pairs of random UUIDs: keys and values that nothing but memory connects (MoRA, arXiv:2405.12130, section 3).

Every digit is drawn from the name of its set and its number alone, so that set, size and machine change no pair: a set
of 100 pairs is the first 100 of a larger one.
"""

from __future__ import annotations

import numpy as np

from bench.core import seeds
from bench.data.splits import Split

N_PAIRS = 256  # the most, of those tried, that full fine-tuning holds at 99 % or more and LoRA of rank 8 does not
SEPARATOR = "="  # between key and value; one token of its own in tiny-decoder
GROUPS = (8, 4, 4, 4, 12)  # hex digits between the hyphens
N_CHARACTERS = sum(GROUPS) + len(GROUPS) - 1
FLOOR = (len(GROUPS) - 1 + sum(GROUPS) / 16) / N_CHARACTERS  # the layout known, every digit guessed: 1/6


def split(n: int, *, name: str = "task") -> Split:
    """Return the first `n` pairs of a set: prompts `<key>=`, targets `<value>`; there are no labels."""
    made = [(uuid("key", name, i), uuid("value", name, i)) for i in range(n)]
    return Split(
        texts=tuple(f"{key}{SEPARATOR}" for key, _ in made),
        pairs=tuple(value for _, value in made),
        labels=np.zeros(n, dtype=np.int64),
    )


def uuid(*key: str | int) -> str:
    """Return 32 hex digits that depend on `key` alone, 128 random bits, as 8-4-4-4-12.

    No digit marks a version: a fixed one would be known without memory.
    """
    bits = np.random.default_rng(seeds.derive("uuid", *key)).bytes(16).hex()
    ends = np.cumsum(GROUPS)
    return "-".join(bits[end - size : end] for size, end in zip(GROUPS, ends, strict=True))
