"""DeBERTa-v2's relative positions: the one input of an adapted layer that has no rows, so that trials cannot split it.

With share_att_key (DeBERTa-v3's setting) the table of relative positions, [P, d], goes through the adapted query and
key projections of every layer. Each trial makes its own of it, so the attention bias is computed trial by trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.engine.dropout import MaskKeys, drop_table


def separate_positions(model: nn.Module, keys: MaskKeys, n_trials: int) -> None:
    """Make every attention of `model` that projects a table of relative positions do so trial by trial."""
    for module in model.modules():
        bias = getattr(module, "disentangled_attention_bias", None)
        if bias is None:
            continue
        if isinstance(getattr(module, "pos_dropout", None), nn.Module):
            dropout: Any = module.pos_dropout
            module.pos_dropout = TableDropout(float(dropout.p), dropout.path, keys)
        module.disentangled_attention_bias = _by_trial(bias, keys, n_trials)  # type: ignore[assignment]


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
        """Return the bias of K * b * H rows, as the model's own method does for b * H."""
        parts = []
        for k, (q, k_) in enumerate(zip(query.chunk(n_trials), key.chunk(n_trials), strict=True)):
            with keys.table_of(k):
                parts.append(bias(q, k_, relative_pos, table, scale_factor))
        return torch.cat(parts)

    return compute
