"""DeBERTa's relative positions: the one input of an adapted layer that has no rows, so that trials cannot split it.

The table of relative positions, [P, d], goes through projections of every layer: pos_proj and pos_q_proj in the first
DeBERTa, the query and key projections of the tokens with share_att_key (DeBERTa-v3's setting). Where they are adapted,
each trial makes its own of it, so the attention bias is computed trial by trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.engine.dropout import MaskKeys, drop_table

_BIAS = ("disentangled_attention_bias", "disentangled_att_bias")  # the method's name in DeBERTa-v2, in DeBERTa


def table_bias(module: nn.Module) -> str | None:
    """Return the name of the method that makes an attention bias of a table of relative positions, or None."""
    return next((name for name in _BIAS if hasattr(module, name)), None)


def separate_positions(model: nn.Module, keys: MaskKeys, n_trials: int) -> None:
    """Make every attention of `model` that projects a table of relative positions do so trial by trial."""
    for module in model.modules():
        name = table_bias(module)
        if name is None:
            continue
        if isinstance(getattr(module, "pos_dropout", None), nn.Module):
            dropout: Any = module.pos_dropout
            module.pos_dropout = TableDropout(float(dropout.p), dropout.path, keys)
        setattr(module, name, _by_trial(getattr(module, name), keys, n_trials))


class TableDropout(nn.Module):
    """Stands in for nn.Dropout on a table [P, d] that all examples and trials share: row p's mask is keyed by p."""

    def __init__(self, p: float, path: str, keys: MaskKeys) -> None:
        super().__init__()
        self.p, self.path, self.keys = p, path, keys

    def forward(self, x: Tensor) -> Tensor:
        """Return x times its mask while training, x otherwise."""
        return drop_table(x, self.p, self.path, self.keys)


def _by_trial(bias: Callable[..., Tensor], keys: MaskKeys, n_trials: int) -> Callable[..., Tensor]:
    def compute(query: Tensor, key: Tensor, relative_pos: Tensor, table: Tensor, scale_factor: int) -> Tensor:
        """Return the bias of K * b (times H, in DeBERTa-v2) rows, as the model's own method does for b."""
        parts = []
        for k, (q, k_) in enumerate(zip(query.chunk(n_trials), key.chunk(n_trials), strict=True)):
            with keys.table_of(k):
                parts.append(bias(q, k_, relative_pos, table, scale_factor))
        return torch.cat(parts)

    return compute
