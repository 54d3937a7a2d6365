"""A small model of the same architecture as a large one: its config with every size divided, its weights drawn large.

Small enough to be looked at in a second on a CPU, and large in its numbers: attention scores of several units, norms
and biases away from 1 and 0, so that soft caps, sinks, windows and masks are all felt.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from bench.core.seeds import derive

Kind = Literal["classification", "causal"]
_AUTO = {"classification": AutoModelForSequenceClassification, "causal": AutoModelForCausalLM}
VOCAB, POSITIONS, WINDOW = 96, 64, 5  # a window shorter than the texts that are looked at
FEW_LAYERS = 2
MOST = 200_000_000  # numbers of a model that is looked at: 1.6 GB in float64
GAIN = 2.0  # standard deviation of a weight is GAIN / sqrt(fan-in)
# What is divided, all by one power of two, so that heads times width stays the hidden size.
_WIDTHS = re.compile(
    r"(\w*hidden_size|d_model|n_embd|dim|hidden_dim|d_inner|d_ff|d_kv|d_head|ffn_dim|n_inner|head_dim|rotary_dim"
    r"|\w*(intermediate_size|_ffn_dim|_head_dim|_lora_rank|embed_proj_dim|embedding_size))"
)
_LAYERS = re.compile(r"n_layers?|num_layers|num_(hidden|encoder|decoder)_layers|(encoder|decoder)_layers")
_POSITIONS = re.compile(r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_seq_length")
_WINDOWS = re.compile(r"(sliding|attention)_window|local_attention|window_size|attention_chunk_size")
_IDLE = re.compile(
    r"_name_or_path|architectures|(torch_)?dtype|transformers_version|id2label|label2id|num_labels|problem_type|use_cache"
)


def from_values(values: Mapping[str, Any]) -> PretrainedConfig:
    """Return the config that a config.json holds."""
    own = {key: value for key, value in values.items() if key not in ("model_type", "id2label", "label2id")}
    config: PretrainedConfig = AutoConfig.for_model(str(values["model_type"]), **own)
    return config


def on_meta(config: PretrainedConfig, kind: Kind) -> PreTrainedModel:
    """Return a model of this config without numbers: its modules and shapes."""
    with torch.device("meta"):
        model: PreTrainedModel = _AUTO[kind].from_config(copy.deepcopy(config), trust_remote_code=False)
    return model


def configs(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """Yield configs of the same architecture, the smallest first; the last one is the config as it is."""
    own = _plain(config.to_dict())
    seen: list[dict[str, Any]] = []
    for factor in (_factor(own), 1):
        small = _shrink(own, factor, _few_layers(own))
        if small in seen:
            continue
        seen.append(small)
        try:
            made = type(config)(**{key: value for key, value in copy.deepcopy(small).items() if key != "model_type"})
        except Exception:  # sizes that do not go together, by the checks of the config's class
            continue
        yield _settled(made)
    yield _settled(copy.deepcopy(config))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that say how a model computes; names of labels and files say nothing of it."""
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if isinstance(key, str) and not _IDLE.fullmatch(key)
    }


def build(config: PretrainedConfig, like: type[PreTrainedModel], dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of this config and class on the CPU in eval mode, its weights drawn from a seed of their own.

    Raises:
        ValueError: for one of more than MOST numbers, which is not small.
    """
    with torch.device("meta"):
        n = sum(parameter.numel() for parameter in like._from_config(copy.deepcopy(config)).parameters())
    if n > MOST:
        raise ValueError(f"a model of {n:,} numbers is too large to be looked at")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("twin") & 0x7FFFFFFF)
        model: PreTrainedModel = like._from_config(config).to(dtype).eval()
        _draw(model)
    return model


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    drawn: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in drawn or not parameter.is_floating_point():
                continue
            drawn.add(id(parameter))
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                fan_in = 1 if isinstance(module, nn.Embedding) else math.prod(parameter.shape[1:])
                parameter.normal_(0, GAIN / math.sqrt(max(1, fan_in)))


def _settled(made: PretrainedConfig) -> PretrainedConfig:
    """Set what does not belong to an architecture alike for all its models."""
    made.num_labels = 3
    for part in (made, made.get_text_config()):
        if getattr(part, "pad_token_id", None) is None:  # as models.load_model sees to it
            ends = getattr(part, "eos_token_id", None)
            part.pad_token_id = (ends[0] if isinstance(ends, list) else ends) or 0
        if getattr(part, "use_cache", False):
            part.use_cache = False
    made._attn_implementation = None
    return made


def _shrink(values: Mapping[str, Any], factor: int, layers: tuple[int, ...], *, n_layers: int = 0) -> dict[str, Any]:
    """Return the values with fewer layers, narrower, with a small vocabulary; nested configs alike."""
    n_layers = _n_layers(values) or n_layers
    small: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            small[key] = _shrink(value, factor, layers, n_layers=n_layers)
        elif isinstance(value, list) and len(value) == n_layers > len(layers):
            small[key] = [value[i] for i in layers]
        elif isinstance(value, bool) or not isinstance(value, int | list):
            small[key] = value
        else:
            small[key] = _smaller(key, value, factor, len(layers))
    return small


def _smaller(key: str, value: Any, factor: int, n_layers: int) -> Any:
    if key.endswith(("token_id", "token_index")):
        ids = [value] if isinstance(value, int) else value
        short = [i if not isinstance(i, int) or i < VOCAB // 2 else VOCAB // 2 + i % (VOCAB // 2) for i in ids]
        return short[0] if isinstance(value, int) else short
    if isinstance(value, list):
        narrow = key == "mrope_section" and all(i % factor == 0 for i in value)
        return [i // factor for i in value] if narrow else value
    if key == "vocab_size":
        return min(value, VOCAB)
    if _LAYERS.fullmatch(key):
        return min(value, n_layers)
    if _POSITIONS.fullmatch(key):
        return min(value, POSITIONS)
    if _WINDOWS.fullmatch(key):
        return min(value, WINDOW)
    return value // factor if _WIDTHS.fullmatch(key) else value


def _n_layers(values: Mapping[str, Any]) -> int:
    return max((v for k, v in values.items() if _LAYERS.fullmatch(k) and isinstance(v, int)), default=0)


def _few_layers(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return which layers stay: the first of each kind that the config's lists of layers tell apart, two at least."""
    nested = [values, *(v for v in values.values() if isinstance(v, dict))]
    own = max(nested, key=_n_layers)
    n_layers = _n_layers(own)
    lists = [v for v in own.values() if isinstance(v, list) and len(v) == n_layers]
    kinds = [tuple(str(each[i]) for each in lists) for i in range(n_layers)]
    first = {kind: i for i, kind in reversed(list(enumerate(kinds)))}
    chosen = sorted({*first.values(), *range(min(FEW_LAYERS, n_layers))})
    return tuple(chosen)


def _factor(values: Mapping[str, Any]) -> int:
    """Return the largest power of two that divides every width and leaves 8 numbers of each."""
    nested = [values, *(v for v in values.values() if isinstance(v, dict))]
    widths = [v for own in nested for k, v in own.items() if _WIDTHS.fullmatch(k) and type(v) is int and v > 0]
    heads = [_head_width(own) for own in nested]
    factor = 1
    while all(w % (2 * factor) == 0 and w // (2 * factor) >= 8 for w in [*widths, *filter(None, heads)]):
        if not widths:
            break
        factor *= 2
    return factor


def _head_width(values: Mapping[str, Any]) -> int | None:
    hidden = next((values[k] for k in ("hidden_size", "d_model", "n_embd", "dim") if type(values.get(k)) is int), None)
    names = ("num_attention_heads", "n_heads", "n_head", "encoder_attention_heads", "num_heads")
    heads = next((values[k] for k in names if type(values.get(k)) is int), None)
    return hidden // heads if hidden and heads else None
