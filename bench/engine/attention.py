"""Attention with keyed dropout, for every architecture that has transformers' attention interface.

Encoders and decoders alike: the mask, causal or not, comes from the model; grouped-query heads share keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bench.engine import waiting
from bench.engine.dropout import MaskKeys, drop_rows

ATTENTION = "lorasweep_keyed"


def use_keyed_attention(model: PreTrainedModel, keys: MaskKeys) -> None:
    """Route attention through `keyed_attention` where the model has transformers' attention interface.

    Every module gets `keys` as `_mask_keys`; a model with attention of its own keeps it.
    """
    for module in model.modules():
        module._mask_keys = keys
    if model.config._attn_implementation in ("sdpa", "eager"):
        model.config._attn_implementation = ATTENTION


def keyed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None, **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attend as transformers' own functions do, with keyed dropout of the weights (probability `dropout`).

    query [K*b, H, Q, d]; key and value [K*b, H or fewer, T, d]: heads that are fewer are shared by groups; the mask is
    bool (True: seen) or added to the scores; the output is [K*b, Q, H, d]. The other arguments of transformers'
    interface are without effect.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", False))
    causal = causal and attention_mask is None and query.shape[2] > 1
    keys: MaskKeys = module._mask_keys  # type: ignore[assignment]
    if not keys.training or dropout == 0:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, is_causal=causal
        )
        return out.transpose(1, 2).contiguous(), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if causal:
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = _masked(scores, attention_mask)
    weights = drop_rows(scores.softmax(dim=-1), dropout, f"{module._keyed_path}.attention", keys)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def keyed_mask(*args: Any, device: torch.device | str = "cpu", **kwargs: Any) -> Tensor | None:
    """Return what transformers' sdpa_mask does, which leaves a mask out where it sees nothing padded: not on a GPU."""
    from transformers.masking_utils import sdpa_mask

    if not waiting.may_ask(torch.device(device)):
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(*args, device=device, **kwargs)
    return mask


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, keyed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, keyed_mask)


_register()
