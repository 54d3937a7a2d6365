"""A causal task of made-up ids, for the speed of decoders alone: `--task made-up` of `bench bench`.

Lengths are log-normal with a mean of about 58 tokens, 12 to 300, as instructions with short answers have them; the last
30 % of a text is its target. What is said makes no difference to the time that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from bench.core.seeds import derive
from bench.data import causal
from bench.data.splits import Encoded, EncodedData, Reading
from bench.tasks import Task

MEAN, SIGMA, SHORTEST, LONGEST = 58.0, 0.55, 12, 300
TARGETS = 0.3  # of the tokens
MAX_NEW_TOKENS, N_EVAL = 32, 64
TASK = Task(name="made-up", kind=causal.KIND, metric="exact_match", default_model="llama-22m", causal=causal.Layout())


def data_of(n: int, vocab_size: int) -> EncodedData:
    """Return n training examples and N_EVAL to evaluate."""
    return EncodedData(
        train=_split(n, vocab_size, seed=0), select=None, eval=_split(N_EVAL, vocab_size, seed=1), n_labels=0,
        metric=TASK.metric, data_hash="", reading=Reading(
            decode=_as_words, end_id=vocab_size - 1, answer=None, max_new_tokens=MAX_NEW_TOKENS
        ),
    )  # fmt: skip


def _split(n: int, vocab_size: int, *, seed: int) -> Encoded:
    rng = np.random.Generator(np.random.Philox(derive("made-up", seed, n)))
    normal = NormalDist(math.log(MEAN) - SIGMA**2 / 2, SIGMA)
    spread = [math.exp(normal.inv_cdf((i + 0.5) / n)) for i in range(n)]
    lengths = rng.permutation(np.clip(np.round(spread), SHORTEST, LONGEST).astype(np.int64))
    return Encoded(
        ids=rng.integers(min(200, vocab_size // 2), vocab_size - 1, int(lengths.sum())).astype(np.int32),
        type_ids=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.zeros(n, dtype=np.int64),
        index=np.arange(n, dtype=np.int64),
        prompt_lengths=np.maximum(1, np.round((1 - TARGETS) * lengths)).astype(np.int64),
    )


def _as_words(ids: Sequence[Sequence[int]]) -> list[str]:
    return [" ".join(map(str, row)) for row in ids]
