"""Text on its way to the engine: Split (texts and labels) -> Encoded (token ids), and the part of train held out.

numpy only; the tokenizer comes from transformers, imported where texts are not in the cache yet. The engine sees
nothing but `EncodedData`.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench import models
from bench.core import cache
from bench.core.errors import BadInput
from bench.data import special_tokens
from bench.data.held_out import hold_out
from bench.data.splits import Encoded, EncodedData, Split, TextData, hash_data, update_texts

if TYPE_CHECKING:
    from bench.models import Located

ENCODING_VERSION = 2  # counts in ids and in the cache key: raised when the same texts become other token ids


def encode(
    data: TextData,
    located: Located,
    *,
    n_labels: int,
    metric: str,
    max_length: int,
    n_select: int,
    cache_dir: Path | None = None,
) -> EncodedData:
    """Return the data as token ids of the model's own fast tokenizer, without padding, cut to `max_length` tokens.

    Token ids are cached below `cache_dir` (default: `cache.cache_dir()`) by the hash of texts and tokenizer, so that a
    second sweep does not tokenise.

    Raises:
        BadInput: where the model cannot take `max_length` tokens or has no fast tokenizer.
    """
    check_length(located, max_length)
    train, evaluation, test = (
        None if split is None else _encode_split(split, located, max_length, cache_dir or cache.cache_dir())
        for split in (data.train, data.eval, data.test)
    )
    assert train is not None
    assert evaluation is not None
    held_out = hold_out(data, n_select, cache_dir=cache_dir)
    return EncodedData(
        train=take(train, held_out.train),
        select=take(train, held_out.select) if len(held_out.select) else None,
        eval=evaluation,
        n_labels=n_labels,
        metric=metric,
        data_hash=data.data_hash,
        test=test,
        test_hash=None if data.test is None else hash_data(data.test),
    )


def take(encoded: Encoded, places: npt.NDArray[np.int64]) -> Encoded:
    """Return the examples at `places`, [m], in that order; `index` goes with them."""
    lengths = encoded.lengths[places]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Token t of the result, in example i, is token t - offsets[i] of that example in the source.
    source = np.arange(offsets[-1]) + np.repeat(encoded.offsets[:-1][places] - offsets[:-1], lengths)
    return Encoded(
        ids=encoded.ids[source],
        type_ids=None if encoded.type_ids is None else encoded.type_ids[source],
        offsets=offsets,
        labels=encoded.labels[places],
        index=encoded.index[places],
        prompt_lengths=None if encoded.prompt_lengths is None else encoded.prompt_lengths[places],
        target_mask=None if encoded.target_mask is None else encoded.target_mask[source],
        target_bytes=None if encoded.target_bytes is None else encoded.target_bytes[places],
    )


def _encode_split(split: Split, located: Located, max_length: int, cache_dir: Path) -> Encoded:
    path = cache_dir / "tokens" / f"{_token_key(split, located, max_length)}.npz"
    arrays = _read_arrays(path, len(split))
    if arrays is None:
        arrays = _tokenise(split, located, max_length)
        _write_arrays(path, arrays)
    return Encoded(
        ids=arrays["ids"],
        type_ids=arrays.get("type_ids"),
        offsets=arrays["offsets"],
        labels=split.labels,
        index=np.arange(len(split), dtype=np.int64),
    )


def _tokenise(split: Split, located: Located, max_length: int) -> dict[str, npt.NDArray[Any]]:
    from bench.models import load_tokenizer

    tokenizer = load_tokenizer(located)
    texts: list[Sequence[str]] = [list(split.texts)] if split.pairs is None else [list(split.texts), list(split.pairs)]
    coded = tokenizer(*texts, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
    lengths = np.fromiter((len(ids) for ids in coded["input_ids"]), dtype=np.int64, count=len(split))
    if not lengths.all():
        got = f"none for example {int(np.argmin(lengths))}: {split.texts[int(np.argmin(lengths))]!r}"
        rule = "every text must give at least one token"
        raise BadInput(f"tokenizer of {located.name}", rule, got=got, way_out="take the example out of the data")
    names = ("input_ids", "token_type_ids") if located.n_token_types > 1 else ("input_ids",)
    columns = {name: list(coded[name]) for name in names if name in coded}
    for i, places in special_tokens.once(tokenizer, split.texts, split.pairs, columns["input_ids"]).items():
        lengths[i] = len(places)
        for rows in columns.values():
            rows[i] = [rows[i][place] for place in places]
    arrays = {"ids": _flat(columns["input_ids"], np.int32), "offsets": np.concatenate([[0], np.cumsum(lengths)])}
    if "token_type_ids" in columns:
        arrays["type_ids"] = _flat(columns["token_type_ids"], np.int8)
    return arrays


def _flat(rows: Sequence[Sequence[int]], dtype: type) -> npt.NDArray[Any]:
    return np.fromiter((token for row in rows for token in row), dtype=dtype)


def check_length(located: Located, max_length: int) -> None:
    """Refuse a length that the model's position embeddings do not reach."""
    limit = models.max_tokens(located)
    if limit is not None and max_length > limit:
        rule = f"must be <= {limit}, the most that {located.name} takes"
        raise BadInput("max_length", rule, got=max_length, way_out=f"set max_length = {limit} or less")


def _token_key(split: Split, located: Located, max_length: int) -> str:
    digest = hashlib.sha256(f"{ENCODING_VERSION} {located.tokenizer_hash} {max_length} ".encode())
    update_texts(digest, split)
    return digest.hexdigest()[:32]


def _read_arrays(path: Path, n: int) -> dict[str, npt.NDArray[Any]] | None:
    """Return the cached arrays, or None where there are none or they are not whole."""
    try:
        # numpy leaves a file open that it opened itself and cannot read
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = dict(stored)
        whole = len(arrays["offsets"]) == n + 1 and arrays["offsets"][-1] == len(arrays["ids"])
        return arrays if whole else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the next sweep the tokenising, no more
        cache.write_atomic(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))
