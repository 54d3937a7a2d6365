"""Into how many chunks a batch is cut: also what a pack's memory follows from, so without torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.core.spec import TrainBudget

CHUNK_ROWS, CHUNK_WIDTH = 1024, 384  # tokens of all trials in a chunk at this hidden size: a CPU's caches still hold it
HALF_CHUNK_ROWS = 1536  # in 16 bits, whose numbers are half as large
GPU_CHUNK_ROWS = 16384  # where a GPU's memory is not known
# Of a GPU's whole memory, what a chunk may keep for backward; the rest is base, adapters, slack. Smaller chunks cost:
# 128 trials of RoBERTa-base took an H200 81 ms in 2 chunks of 28,000 rows, 91 in 4 of 14,000.
CHUNK_SHARE = 0.3
GPU_PADDED_ROWS = 8192  # by reckoning: from here on two chunks of like lengths cost less than the padding they spare
MOST_CHUNKS = 8  # on a CPU, whose memory is not asked for; on a GPU a chunk holds an example at the least
MOST_FILLING = 64  # tokens
# Bytes of logits of a language model that exist at once, of all trials: glibc keeps a block below 32 MiB for the next
# one, where a larger one comes from the system anew, page by page.
LOGITS_AT_ONCE = 28 * 2**20
WIDE = 8  # rows of padded scores are a multiple of so many numbers: a GPU reads 16 bytes at once
KEPT_BELOW = 256  # tokens of an example from which on attention's weights are computed again in backward, not kept
RECORDED_STEPS = 50  # of a pack whose chunks are worth recording
# Padded tokens of all trials in a chunk of an evaluation. A CPU's caches hold much of theirs; a GPU is not filled by
# less, and of a stream nothing is kept for backward: a layer's values, no padding, no logits but those wanted.
EVAL_ROWS, GPU_EVAL_ROWS = 8192, 65_536
PADDED_LOGITS = 256 * 2**20  # bytes of an evaluation's logits on the bank path, which has those of every token


def is_recorded(budget: TrainBudget, *, device_kind: str, unpadded: bool, least_steps: int = RECORDED_STEPS) -> bool:
    """Return whether a pack of classifiers is recorded (graphs.py): on CUDA and the unpadded path, no loss scale."""
    return device_kind == "cuda" and unpadded and budget.precision != "fp16" and budget.max_steps >= least_steps


def least_chunks(path: str, tokens: float, *, is_half: bool, on_cpu: bool) -> int:
    """Return into how many chunks a batch of these tokens of all trials is cut at the least.

    Two, whose examples have like lengths, spare padding: of the whole model, or on the unpadded path of attention,
    where calls cost little beside it.
    """
    if path == "packed":
        return 1
    if path == "unpadded":
        few_calls = is_half if on_cpu else tokens < GPU_PADDED_ROWS
        return 1 if few_calls else 2
    return 2


def memory_rows(memory_bytes: int | None, token_bytes: float) -> float | None:
    """Return how many tokens of all trials a GPU's memory allows a chunk of which so much is kept; None: not known."""
    return None if memory_bytes is None or not token_bytes else CHUNK_SHARE * memory_bytes / token_bytes


def n_chunks(
    tokens: float, *, hidden_size: int, is_half: bool, on_cpu: bool, least: int, rows: float | None = None,
    most: int = MOST_CHUNKS,
) -> int:  # fmt: skip
    """Return into how many chunks these tokens of all trials are cut: as many tokens in each as suit the device.

    On a CPU a cache's worth. A GPU gets as few chunks as `rows` allow, `most` at the most. A model narrower than
    CHUNK_WIDTH gets more tokens in each: its steps are mostly calls, not numbers.
    """
    wide = max(1.0, CHUNK_WIDTH / hidden_size)
    if on_cpu:
        usual = HALF_CHUNK_ROWS if is_half else CHUNK_ROWS
        return int(min(MOST_CHUNKS, max(least, round(tokens / (usual * wide)))))
    allowed = GPU_CHUNK_ROWS * wide if rows is None else rows
    return int(max(least, min(most, math.ceil(tokens / allowed))))


def filling(tokens: int) -> int:
    """Return of what a packed chunk of these tokens is filled up to a multiple, in half precision on a CPU.

    A power of two that is at most a sixteenth: few sizes, and little that nobody asked for.
    """
    return min(MOST_FILLING, 1 << max(0, (tokens // 16).bit_length() - 1))


def evaluation_rows(path: str, *, on_cpu: bool, cpu_rows: int = EVAL_ROWS, vocab_size: int = 0) -> int:
    """Return how many tokens of all trials a chunk of an evaluation has at most; `vocab_size` is a language model's."""
    rows = cpu_rows if on_cpu else EVAL_ROWS if path == "bank" else GPU_EVAL_ROWS
    return rows if path != "bank" or not vocab_size else min(rows, PADDED_LOGITS // (4 * vocab_size))


def cut(lengths: npt.NDArray[Any], parts: int) -> npt.NDArray[np.int64]:
    """Return where sorted lengths are cut into at most `parts` runs of about equally many tokens, none empty."""
    tokens = np.cumsum(lengths)
    return np.unique(np.searchsorted(tokens, tokens[-1] * np.arange(1, parts) / parts, side="left") + 1)
