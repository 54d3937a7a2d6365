"""What a trial predicted for each evaluation example, packed for a row and read back: any metric can be had later.

Classes lie in the smallest unsigned type that holds them all, two classes as bits (`numpy.packbits`), numbers as
float32, always little-endian. Texts that a language model wrote are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = "bits"
_TYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "float32": "<f4"}


def pack(predictions: npt.NDArray[Any], n_classes: int) -> tuple[bytes, str]:
    """Return predictions as bytes, and the name of their type; floats are numbers, whatever `n_classes` says."""
    if predictions.dtype.kind == "f":
        return predictions.astype("<f4").tobytes(), "float32"
    if n_classes == 2:
        return np.packbits(predictions.astype(bool)).tobytes(), BITS
    smallest = str(np.min_scalar_type(n_classes - 1))
    return predictions.astype(_TYPES[smallest]).tobytes(), smallest


def predictions_of(row: Mapping[str, Any]) -> npt.NDArray[Any] | None:
    """Return the predictions of a row, [n_eval] in file order; None where the row keeps none.

    Class indices are int64, numbers float32. `row` has the columns eval_predictions, eval_predictions_type, n_eval.

    Raises:
        ValueError: where they are not as many as n_eval.
    """
    raw, kind = row["eval_predictions"], row["eval_predictions_type"]
    if raw is None:
        return None
    if kind == BITS:
        found = np.unpackbits(np.frombuffer(raw, dtype=np.uint8))
        found = found[: row["n_eval"]] if len(found) - row["n_eval"] < 8 else found  # what fills the last byte
    else:
        found = np.frombuffer(raw, dtype=_TYPES[kind])
    if len(found) != row["n_eval"]:
        raise ValueError(f"eval_predictions must hold n_eval = {row['n_eval']} predictions, but holds {len(found)}")
    return found.astype(np.float32 if kind == "float32" else np.int64)
