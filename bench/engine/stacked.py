"""K modules of one kind side by side, each with weights of its own: a new head, or a base that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.core.errors import BadInput
from bench.engine.params import ParamBank


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


def train_base(model: PreTrainedModel, params: ParamBank) -> None:
    """Make every pretrained weight a view of the buffer: K is 1, so a [1, ...] parameter is the weight itself.

    A weight with two names, as of an output layer that is tied to the embedding, stays one.
    """
    fresh: dict[int, nn.Parameter] = {}
    for name in params.names():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf in module._parameters:
            stacked = params.trained(name)
            weight = nn.Parameter(stacked.detach()[0])
            weight.grad = None if stacked.grad is None else stacked.grad[0]
            fresh[id(module._parameters[leaf])] = weight
    for module in model.modules():
        for leaf, old in list(module._parameters.items()):
            if id(old) in fresh:
                module._parameters[leaf] = fresh[id(old)]


def stack_base(model: PreTrainedModel, params: ParamBank) -> None:
    """Put K weights of their own in the place of every pretrained module that has some."""
    for path in dict.fromkeys(name.rpartition(".")[0] for name in params.names()):
        module = model.get_submodule(path)
        if isinstance(module, nn.Embedding):
            put(model, path, StackedEmbedding(params[f"{path}.weight"], path))
        elif not isinstance(module, StackedLinear | StackedLayerNorm):  # the new head is stacked already
            put(model, path, stacked(module, path, params))


def stacked(module: nn.Module, path: str, params: ParamBank) -> nn.Module:
    """Return the module that computes with K weights of `params` what this one does with its own.

    Raises:
        BadInput: where it is of another kind.
    """
    if isinstance(module, nn.Linear):
        return StackedLinear(params[f"{path}.weight"], None if module.bias is None else params[f"{path}.bias"], path)
    if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        bias_KxD = None if module.bias is None else params[f"{path}.bias"]
        return StackedLayerNorm(params[f"{path}.weight"], bias_KxD, module.eps)
    raise BadInput(
        "model", "a module with K weights of its own must be a Linear or a LayerNorm",
        got=f"{type(module).__name__} at {path}", way_out="use a checkpoint that brings this module's weights",
    )  # fmt: skip


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of that at this path."""
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
