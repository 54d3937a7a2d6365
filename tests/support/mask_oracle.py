"""The engine's dropout masks in a model that the engine did not build: PEFT's, with its own Linears and adapters."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.engine.attention import ATTENTION
from bench.engine.dropout import KeyedCalls, KeyedDropout, MaskKeys, token_key
from bench.models._base import LoadedModel
from tests.support.oracle import CPU, Alone, Start, optimizer_of, peft_model, train_alone

PREFIX = "base_model.model."


def train_peft_with_masks(
    loaded: LoadedModel, split: Encoded, member: Trial, start: Start, *, functional: bool = False
) -> Alone:
    """Train one LoRA trial with PEFT and torch.optim, every dropout of the model drawing the engine's mask.

    With `functional`, calls of torch.nn.functional.dropout draw it too.
    """
    model = peft_model(loaded, member, start).train()
    keys = MaskKeys(member.seed)
    keys.training = True
    _install(model, keys)

    def on_batch(step: int, places: npt.NDArray[np.int64]) -> None:
        keys.step = step
        example = torch.from_numpy(split.index[places]).to(CPU)
        position = torch.arange(int(split.lengths[places].max()))
        key = token_key(example[:, None], position[None])
        keys.start_chunk(key, key[:, 0])

    with KeyedCalls(keys) if functional else nullcontext():
        return train_alone(model, split, member, optimizer_of(model, member), on_batch=on_batch)


def _install(model: Any, keys: MaskKeys) -> None:
    for name, module in list(model.named_modules()):
        path = name.removeprefix(PREFIX)
        module._keyed_path, module._mask_keys = path, keys
        if type(module) is nn.Dropout:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, KeyedDropout(module.p, path, keys))
    model.config._attn_implementation = ATTENTION
    model.get_submodule("base_model.model").config._attn_implementation = ATTENTION
