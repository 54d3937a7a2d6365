"""A fixed text beside the task: its loss before and after training tells what a language model has forgotten.

The text is cut into windows of WINDOW tokens, each begun as the tokenizer begins a text; every token of the text but
the first of a window that has nothing before it is predicted. Only as many tokens are read as cost SHARE of the
training's, counted in tokens: a training step computes each token's forward pass three times over (forward, and twice
that backward), the text is read once before and once after.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from bench.data.special_tokens import frame_of
from bench.data.splits import Encoded

SHARE = 0.03  # of the training's cost
PASSES_OF_A_STEP, READINGS = 3, 2
WINDOW, LEAST = 64, 16  # tokens
SHIPPED = "shipped"


def most_tokens(train_tokens: float) -> int:
    """Return how many tokens of text may be read beside a training of so many tokens."""
    return int(SHARE * PASSES_OF_A_STEP * train_tokens / READINGS)


def encode(text: str, tokenizer: Any, *, most: int, max_length: int) -> Encoded | None:
    """Return the beginning of the text as windows of at most `most` tokens in all; None where fewer than LEAST fit.

    A larger `most` gives the same windows and further ones.
    """
    before = list(frame_of(tokenizer, [text]).before)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    own = min(WINDOW, max_length) - len(before)
    rows: list[list[int]] = []
    left = most
    for start in range(0, len(ids), max(1, own)):
        row = [*before, *ids[start : start + own]]
        if len(row) > left:  # a part of the first window only: the others are whole, so that losses stay comparable
            row = row[:left] if not rows else []
        if len(row) < min(LEAST, WINDOW):
            break
        rows.append(row)
        left -= len(row)
    if not rows or own < 1:
        return None
    lengths = [len(row) for row in rows]
    return Encoded(
        ids=np.fromiter((token for row in rows for token in row), dtype=np.int32),
        type_ids=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.zeros(len(rows), dtype=np.int64),
        index=np.arange(len(rows), dtype=np.int64),
        prompt_lengths=np.full(len(rows), max(1, len(before)), dtype=np.int64),
    )


def hash_of(text: Encoded) -> str:
    """Return 16 hex digits over the tokens and the windows."""
    digest = hashlib.sha256(text.ids.astype("<i4").tobytes() + text.offsets.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
