"""Models that compute a part of themselves in float32, whatever their weights are, computing it in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Doubles(TorchFunctionMode):
    """While entered, float32 is float64 in casts and softmaxes: norms and attention of many models go through it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return what func does, in float64 where it would be float32."""
        kwargs = {name: _double(value) for name, value in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            return args[0].double()
        return func(*map(_double, args), **kwargs)


def _double(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
