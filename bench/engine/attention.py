"""Attention with keyed dropout, for every module that asks transformers' attention interface.

Encoders and decoders alike: the mask, causal or not, windowed or not, comes from the model; grouped-query heads share
keys and values. A module with attention of its own keeps it, and the mask that transformers makes for it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bench.core.errors import BadInput
from bench.engine import waiting
from bench.engine.blocks import Drops, Form, stream_attention
from bench.engine.dropout import MaskKeys, drop_rows

ATTENTION, PACKED = "lorasweep_keyed", "lorasweep_packed"
INTERFACE = "ALL_ATTENTION_FUNCTIONS"  # what a module asks for transformers' attention interface
# Arguments of the interface that transformers' own sdpa_attention_forward takes and never reads: the mask has the
# window already, the others are for kernels of packed sequences, or say what else a model should return.
_IDLE = frozenset({
    "sliding_window", "position_ids", "cache_position", "deterministic", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
    "num_items_in_batch", "logits_to_keep",
})  # fmt: skip


def use_keyed_attention(model: PreTrainedModel, keys: MaskKeys) -> None:
    """Route attention through `keyed_attention` where the model's modules ask transformers' attention interface.

    Every module gets `keys` as `_mask_keys`. Attention that a model computes by itself reads a mask of its own form,
    which transformers builds for the implementation that the config names: so that name stays as it is there.
    """
    for module in model.modules():
        module._mask_keys = keys
    if asks_interface(model) and model.config._attn_implementation in ("sdpa", "eager"):
        model.config._attn_implementation = ATTENTION


def asks_interface(model: nn.Module) -> bool:
    """Return whether a module of the model looks its attention up in transformers' registry: its source says so."""
    kinds: set[type] = {type(module) for module in model.modules()}
    return any(map(_names_interface, kinds))


@functools.cache  # reading sources takes longer than building a pack of a small model
def _names_interface(kind: type) -> bool:
    try:
        return INTERFACE in inspect.getsource(kind)
    except (OSError, TypeError):  # a class without a file
        return False


def keyed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None,
    position_bias: Tensor | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, sinks: Tensor | None = None, **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attend as transformers' own functions do, with keyed dropout of the weights (probability `dropout`).

    query [K*b, H, Q, d]; key and value [K*b, H or fewer, T, d]: heads that are fewer are shared by groups; the mask is
    bool (True: seen) or added to the scores; the output is [K*b, Q, H, d]. scores = cap tanh(q k^T scaling / cap) +
    position_bias [., H, Q, T] (ALiBi, T5). Sinks, [H] or [K*b, H, Q, 1], are scores of no key: they take their share of
    the softmax and add nothing (gpt_oss calls them s_aux).

    Raises:
        BadInput: for an argument that would be without effect here.
    """
    _refuse_unknown(module, kwargs)
    keys: MaskKeys = module._mask_keys  # type: ignore[assignment]
    if keys.lengths is not None:
        _refuse_in_stream(module, position_bias=position_bias, sinks=s_aux if sinks is None else sinks)
        path, window = f"{module._keyed_path}.attention", kwargs.get("sliding_window")
        kept = Drops(keys=keys, path=path, p=dropout if keys.training else 0.0)
        form = Form(
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling, softcap=softcap,
            window=window if isinstance(window, int) else None,
            causal=bool(is_causal if is_causal is not None else getattr(module, "is_causal", True)),
        )  # fmt: skip
        return stream_attention(query, key, value, keys.lengths, form, kept), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))
    causal = causal and attention_mask is None and query.shape[2] > 1
    sinks = s_aux if sinks is None else sinks
    drops = keys.training and dropout > 0
    if not drops and softcap is None and sinks is None and position_bias is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, is_causal=causal
        )
        return out.transpose(1, 2).contiguous(), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    if causal:
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = _masked(scores, attention_mask)
    weights = scores.softmax(dim=-1) if sinks is None else _beside_sinks(scores, sinks)
    if drops:
        weights = drop_rows(weights, dropout, f"{module._keyed_path}.attention", keys)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _beside_sinks(scores: Tensor, sinks: Tensor) -> Tensor:
    """Return the softmax over keys and one sink, without the sink's share: [K*b, H, Q, T]."""
    shaped = sinks.view(1, -1, 1, 1) if sinks.ndim == 1 else sinks
    column = shaped.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the scores where the mask sees, the smallest number elsewhere.

    Not -inf: padding behind a sliding window sees nothing at all, and its nan would reach every layer's values.
    """
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask


def _refuse_unknown(module: nn.Module, kwargs: dict[str, object]) -> None:
    unknown = sorted(name for name, value in kwargs.items() if name not in _IDLE and _says_something(value))
    if unknown:
        rule, got = "attention must take no argument that is not known here", ", ".join(unknown)
        way_out = "use another architecture"
        raise BadInput(f"model, {type(module).__name__}", rule, got=got, way_out=way_out)


def _refuse_in_stream(module: nn.Module, **given: Tensor | None) -> None:
    known = ", ".join(name for name, value in given.items() if value is not None)
    if known:
        rule = "attention over a packed stream takes neither a bias by position nor sinks"
        raise BadInput(f"model, {type(module).__name__}", rule, got=known, way_out="use the bank path")


def _says_something(value: object) -> bool:
    return value is not None and value is not False


def keyed_mask(*args: Any, device: torch.device | str = "cpu", **kwargs: Any) -> Tensor | None:
    """Return what transformers' sdpa_mask does, which leaves a mask out where it sees nothing padded: not on a GPU."""
    from transformers.masking_utils import sdpa_mask

    if not waiting.may_ask(torch.device(device)):
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(*args, device=device, **kwargs)
    return mask


def no_mask(*args: Any, **kwargs: Any) -> None:
    """Return None: the examples of a packed stream are told apart by their lengths."""


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(PACKED, keyed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, no_mask)
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, keyed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, keyed_mask)


_register()
