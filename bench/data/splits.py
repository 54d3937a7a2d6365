"""The examples of a task: Split (texts and labels), Encoded (token ids), and what the engine gets: `EncodedData`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The examples of one split: first texts, second texts where the task has pairs, labels as indices."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: npt.NDArray[Any]  # [n]: classes, int64, 0 .. n_labels - 1; or numbers, float64

    def __len__(self) -> int:
        return len(self.texts)

    def n_in(self, other: Split) -> int:
        """Return how many of its examples have an example of the same texts in `other`."""
        there = set(zip(other.texts, other.pairs or other.texts, strict=True))
        return sum(example in there for example in zip(self.texts, self.pairs or self.texts, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextData:
    """A task's data as read: the training split, the evaluation split, and one hash of both."""

    train: Split
    eval: Split
    data_hash: str  # 16 hex digits over texts, labels and the order of both splits
    test: Split | None = None  # scored once, by chosen cells; neither trained on nor chosen by, so not in data_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One split as token ids, without padding: example i is ids[offsets[i]:offsets[i + 1]]."""

    ids: npt.NDArray[np.int32]  # [n_tokens]
    type_ids: npt.NDArray[np.int8] | None  # [n_tokens]; None where the model has no token types
    offsets: npt.NDArray[np.int64]  # [n + 1]
    labels: npt.NDArray[Any]  # [n]: classes, int64, or numbers, float64
    index: npt.NDArray[np.int64]  # [n], the example's place in its source file: keys its dropout masks
    prompt_lengths: npt.NDArray[np.int64] | None = None  # [n], tokens before what a causal language model is to write
    # [n_tokens], which tokens the loss is on; None: all behind the prompts. A text's first token is never one of them.
    target_mask: npt.NDArray[np.bool_] | None = None
    target_bytes: npt.NDArray[np.int64] | None = None  # [n], UTF-8 bytes of the text that these tokens write

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, special tokens included: [n]."""
        return np.diff(self.offsets)

    def is_target(self) -> npt.NDArray[np.bool_] | None:
        """Return which tokens the loss of a causal language model is on: [n_tokens]; None for any other model."""
        if self.target_mask is not None or self.prompt_lengths is None:
            return self.target_mask
        starts = np.repeat(self.offsets[:-1] + self.prompt_lengths, self.lengths)
        return np.asarray(np.arange(len(self.ids)) >= starts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the engine needs to generate and to read what it generated."""

    decode: Callable[[Sequence[Sequence[int]]], list[str]]  # token ids -> texts, special tokens left out
    end_id: int
    answer: str | None
    max_new_tokens: int | None
    numeric: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedData:
    """What the engine trains and evaluates on."""

    train: Encoded
    select: Encoded | None  # held out of train, see bench/data/held_out.py; None: nothing is held out
    eval: Encoded
    n_labels: int
    metric: str  # a name in bench/core/metrics.py
    data_hash: str
    reading: Reading | None = None  # causal language models only, which have no labels
    other_metrics: tuple[str, ...] = ()  # scored beside the metric, at the last step
    classes: tuple[str, ...] = ()  # their names, in index order
    test: Encoded | None = None
    test_hash: str | None = None  # of the texts and labels of test
    text: Encoded | None = None  # a fixed text whose loss tells what is forgotten (forgetting.py)
    notes: tuple[str, ...] = ()  # what was cut or left out on the way, in words


def hash_data(*splits: Split) -> str:
    """Return 16 hex digits over the texts, the labels and the order of the splits."""
    digest = hashlib.sha256()
    for split in splits:
        update_texts(digest, split)
        kind = "<f8" if split.labels.dtype.kind == "f" else "<i8"
        digest.update(np.ascontiguousarray(split.labels, dtype=kind).tobytes())
    return digest.hexdigest()[:16]


def update_texts(digest: Any, split: Split) -> None:
    """Feed the texts to a hash, each with its length before it, so that no two splits give the same bytes."""
    digest.update(f"{len(split)} {split.pairs is not None} ".encode())
    for column in (split.texts, split.pairs or ()):
        for text in column:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d " % len(raw) + raw)
