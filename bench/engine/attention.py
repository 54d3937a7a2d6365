"""Attention with keyed dropout, for every architecture that has transformers' attention interface.

Encoders and decoders alike: the mask, causal or not, comes from the model; grouped-query heads share keys and values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bench.engine.dropout import MaskKeys, drop_rows

ATTENTION = "lorasweep_keyed"


def use_keyed_attention(model: PreTrainedModel, keys: MaskKeys) -> None:
    """Route attention through `keyed_attention` where the model has transformers' attention interface."""
    for module in model.modules():
        module._mask_keys = keys
    if model.config._attn_implementation in ("sdpa", "eager"):
        model.config._attn_implementation = ATTENTION


def keyed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None, **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attend as transformers' own functions do, [K*b, H, T, d] in, [K*b, T, H, d] out, with keyed dropout."""
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


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, keyed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)


_register()
