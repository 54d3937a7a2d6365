"""The models: a registered name, a local directory or a Hub id becomes a directory on this disk.

A file here whose name does not begin with `_` defines `MODEL`, a `Model` (see `_base.py`); this directory is the
registry. Nothing here imports torch before `load_model`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from bench.core.errors import BadInput
from bench.models import _targets as targets
from bench.models._base import LoadedModel, Located, Model
from bench.models._chat_template import chat_template
from bench.models._locate import locate, row_name
from bench.models._outline import LAYER_SETTINGS, check_targets, distinct, max_tokens
from bench.models._registry import get, names
from bench.models._vocabulary import check_ids, check_vocabulary

__all__ = [
    "LAYER_SETTINGS",
    "LoadedModel",
    "Located",
    "Model",
    "chat_template",
    "check_ids",
    "check_targets",
    "check_vocabulary",
    "distinct",
    "get",
    "load_causal_lm",
    "load_model",
    "load_tokenizer",
    "locate",
    "max_tokens",
    "names",
    "require_nf4",
    "row_name",
    "targets",
]


def load_model(located: Located, n_labels: int, dtype: Any = None, labels: Sequence[str] = ()) -> LoadedModel:
    """Return the model as a sequence classifier of `n_labels` classes, in `dtype` (default torch.float32), on the CPU.

    New is what transformers itself draws anew: what the checkpoint lacks or holds in another shape; and the output
    layer, where the checkpoint names other classes than `labels`, the task's, which the model is given.

    Raises:
        BadInput: where transformers has no sequence classifier for it or the files are not whole.
    """
    from bench.models import _load

    return _load.load_model(located, n_labels, dtype, labels)


def load_causal_lm(located: Located, dtype: Any = None, base_precision: str = "same") -> LoadedModel:
    """Return the model as a causal language model, output layer and all, in `dtype` (torch.float32), on the CPU.

    With base_precision "nf4" its Linear layers are held in 4 bits (see `_nf4.py`).

    Raises:
        BadInput: where transformers has no such model for it, the files are not whole, or its tokens see later ones.
    """
    from bench.models import _load

    return _load.load_causal_lm(located, dtype, base_precision)


def require_nf4() -> None:
    """Refuse a base in 4 bits where bitsandbytes is not installed; imports neither it nor torch."""
    if importlib.util.find_spec("bitsandbytes") is None:
        rule, way_out = "nf4 is computed by bitsandbytes", "pip install 'lorasweep[nf4]', or leave base_precision out"
        raise BadInput("base_precision", rule, got="no package bitsandbytes", way_out=way_out)


def load_tokenizer(located: Located) -> Any:
    """Return the model's fast tokenizer, as transformers' AutoTokenizer gives it."""
    from bench.models import _load

    return _load.load_tokenizer(located)
