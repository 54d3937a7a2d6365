"""K modules of one kind side by side, each with weights of its own: a new head, or a base that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """K Linears of their own, for a new head or a base that is trained: rows are K * b."""

    def __init__(self, weight_KxOxI: Tensor, bias_KxO: Tensor | None, path: str) -> None:
        super().__init__()
        self.weight_KxOxI, self.bias_KxO, self.path = weight_KxOxI, bias_KxO, path

    def forward(self, x: Tensor) -> Tensor:
        """Return x W_k^T + b_k for each trial's rows, in at least float32."""
        n_trials, n_out, n_in = self.weight_KxOxI.shape
        x_KxNxI = x.reshape(n_trials, -1, n_in).to(self.weight_KxOxI.dtype)
        y_KxNxO = torch.bmm(x_KxNxI, self.weight_KxOxI.transpose(1, 2))
        if self.bias_KxO is not None:
            y_KxNxO = y_KxNxO + self.bias_KxO[:, None]
        return y_KxNxO.reshape(*x.shape[:-1], n_out)


class StackedLayerNorm(nn.Module):
    """K LayerNorms of their own, for a new head or a base that is trained: rows are K * b."""

    def __init__(self, weight_KxD: Tensor, bias_KxD: Tensor | None, eps: float) -> None:
        super().__init__()
        self.weight_KxD, self.bias_KxD, self.eps = weight_KxD, bias_KxD, eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised rows scaled and, where there is a bias, shifted by each trial's own."""
        n_trials, width = self.weight_KxD.shape
        x_KxNxD = x.reshape(n_trials, -1, width).to(self.weight_KxD.dtype)
        y_KxNxD = torch.nn.functional.layer_norm(x_KxNxD, (width,), eps=self.eps)
        y_KxNxD = y_KxNxD * self.weight_KxD[:, None]
        return (y_KxNxD if self.bias_KxD is None else y_KxNxD + self.bias_KxD[:, None]).view_as(x)


class StackedEmbedding(nn.Module):
    """K tables of their own, for a base that is trained; all trials look up the same N ids."""

    def __init__(self, weight_KxVxD: Tensor, path: str) -> None:
        super().__init__()
        self.weight_KxVxD, self.path = weight_KxVxD, path

    def look_up(self, ids_N: Tensor) -> Tensor:
        """Return each trial's rows: [K, N, D]."""
        n_trials, n_rows, width = self.weight_KxVxD.shape
        first_K = torch.arange(n_trials, device=ids_N.device) * n_rows
        flat = self.weight_KxVxD.view(n_trials * n_rows, width)
        return torch.nn.functional.embedding(first_K[:, None] + ids_N, flat)

    def forward(self, ids: Tensor) -> Tensor:
        """Refuse: a model's own forward pass may share ids between trials, and the rows would not tell.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.path}: full fine-tuning of several trials at once needs the unpadded path")
