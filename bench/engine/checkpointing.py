"""gradient_checkpointing, as transformers names it: a layer keeps its input alone, and computes again in backward.

Exact: dropout is keyed, and the masks that a layer drew are drawn again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.core.errors import BadInput
from bench.engine.bank import Bank
from bench.engine.dropout import KeyedCalls

_LAYER = re.compile(r"(?:.*\.)?(?:layers?|h|blocks?)\.\d+")


def checkpoint_layers(bank: Bank) -> None:
    """Let every layer of the pack's model keep its input alone for backward.

    Raises:
        BadInput: where the model has no list of layers.
    """
    paths = [name for name, module in bank.model.named_modules() if _LAYER.fullmatch(name) and _is_whole(bank, name)]
    if not paths:
        rule = "the model must have a list of layers"
        got, way_out = bank.model.config.model_type, "leave gradient_checkpointing out"
        raise BadInput("gradient_checkpointing", rule, got=got, way_out=way_out)
    for path in paths:
        layer = bank.model.get_submodule(path)
        layer.forward = _checkpointed(layer.forward, bank)


def _is_whole(bank: Bank, path: str) -> bool:
    """Return whether a layer lies in a list of layers, and in no other layer."""
    parent, _, _ = path.rpartition(".")
    return isinstance(bank.model.get_submodule(parent), nn.ModuleList) and not _LAYER.match(parent + ".")


def _checkpointed(forward: Callable[..., Any], bank: Bank) -> Callable[..., Any]:
    keys = bank.keys

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        rows = (keys.token_key, keys.first_key, keys.lengths, keys.calls)
        went = False

        def again(*args: Any) -> Any:
            nonlocal went
            if not went:
                went = True
                return forward(*args, **kwargs)
            with ExitStack() as stack:
                if rows[0] is not None and rows[1] is not None:
                    stack.enter_context(keys.of_rows(rows[0], rows[1], rows[2], rows[3]))
                if bank.keyed_calls:  # backward may run in a thread of its own, which has not entered it
                    stack.enter_context(KeyedCalls(keys))
                return forward(*args, **kwargs)

        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)

    return run
