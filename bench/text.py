"""Text on its way to the engine: Split (texts and labels) -> Encoded (token ids), and the part of train held out.

numpy only. The engine sees nothing but `EncodedData`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The examples of one split: first texts, second texts where the task has pairs, labels as indices."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: npt.NDArray[np.int64]  # [n], 0 .. n_labels - 1

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextData:
    """A task's data as read: the training split, the evaluation split, and one hash of both."""

    train: Split
    eval: Split
    data_hash: str  # 16 hex digits over texts, labels and the order of both splits


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One split as token ids, without padding: example i is ids[offsets[i]:offsets[i + 1]]."""

    ids: npt.NDArray[np.int32]  # [n_tokens]
    type_ids: npt.NDArray[np.int8] | None  # [n_tokens]; None where the model has no token types
    offsets: npt.NDArray[np.int64]  # [n + 1]
    labels: npt.NDArray[np.int64]  # [n]
    index: npt.NDArray[np.int64]  # [n], the example's place in its source file: keys its dropout masks

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, special tokens included: [n]."""
        return np.diff(self.offsets)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedData:
    """What the engine trains and evaluates on."""

    train: Encoded
    select: Encoded | None  # held out of train by content hash; None: nothing is held out
    eval: Encoded
    n_labels: int
    metric: str  # a name in bench/metrics.py
    data_hash: str
