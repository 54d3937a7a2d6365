"""Whether a tokenizer belongs to its model: it knows the texts, and its vocabulary covers what the model embeds.

Where a vocabulary file is missing, transformers makes a tokenizer of the special tokens alone, and says nothing. A text
is then unknown tokens, or, with byte-level and other tokenizers that have no unknown token, nothing at all or single
characters. Embeddings padded to a round number, tokens added without rows that any text uses, and toy vocabularies are
sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.core.errors import BadInput
from bench.models._base import Located

LEAST_COVER = 0.25  # of the model's embeddings; padded and trimmed checkpoints lie far above it
MOST_UNKNOWN = 0.5  # of the tokens of the texts, special ones aside
WAY_OUT = "put the tokenizer.json that belongs to the model beside its weights"


def check_vocabulary(located: Located, texts: Sequence[str]) -> str:
    """Return what was found in words.

    Raises:
        BadInput: where the tokenizer covers little of the model's vocabulary, gives ids beyond it, or does not know
            most of `texts`.
    """
    from bench.models._load import load_tokenizer

    n_rows = vocab_size(located)
    if n_rows is None:
        return "no embeddings"
    tokenizer = load_tokenizer(located)
    where, n_tokens = f"tokenizer of {located.name}", len(tokenizer)
    if n_tokens < LEAST_COVER * n_rows:
        rule = f"must cover the {n_rows:,} embeddings of the model"
        raise BadInput(where, rule, got=f"{n_tokens:,} tokens", way_out=WAY_OUT)
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ids = np.fromiter((token for row in rows for token in row), dtype=np.int64)
    check_ids(located, ids)
    _check_known(tokenizer, where, texts, rows, ids)
    return f"{n_tokens:,} tokens for {n_rows:,} embeddings"


def check_ids(located: Located, ids: Any) -> None:
    """Refuse token ids, [n], for which the model has no embedding."""
    n_rows = vocab_size(located)
    if n_rows is not None and len(ids) and int(ids.max()) >= n_rows:
        rule = f"must give token ids below {n_rows:,}, the embeddings of the model"
        raise BadInput(f"tokenizer of {located.name}", rule, got=int(ids.max()), way_out=WAY_OUT)


def vocab_size(located: Located) -> int | None:
    """Return how many tokens the model embeds; None where its config does not say."""
    text = located.config.get("text_config")
    found = located.config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    return int(found) if isinstance(found, int) and found > 0 else None


def _check_known(tokenizer: Any, where: str, texts: Sequence[str], rows: Sequence[Sequence[int]], ids: Any) -> None:
    said = [row for text, row in zip(texts, rows, strict=True) if text.strip()]
    empty = sum(not row for row in said)
    if said and empty > MOST_UNKNOWN * len(said):
        got = f"no token for {empty:,} of {len(said):,} texts"
        raise BadInput(where, "must know the texts of the task", got=got, way_out=WAY_OUT)
    unknown = 0.0 if tokenizer.unk_token_id is None or not len(ids) else float(np.mean(ids == tokenizer.unk_token_id))
    if unknown > MOST_UNKNOWN:
        got = f"{unknown:.0%} unknown tokens"
        raise BadInput(where, "must know the texts of the task", got=got, way_out=WAY_OUT)
