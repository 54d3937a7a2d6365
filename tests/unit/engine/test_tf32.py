"""tf32: every product of training and evaluation is multiplied in it, nothing after; on a CPU it is float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.clock import Clock
from bench.core.spec import Pack, Precision
from bench.engine.run import EngineOptions, run_pack
from tests.support.engine_helpers import budget, member, random_data, tiny_model

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


class Products(TorchDispatchMode):
    """Notes how CUDA would multiply at each product, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a product."""
        if func.overloadpacket.__name__ in PRODUCTS:
            self.seen.append(torch.backends.cuda.matmul.fp32_precision)
        return func(*args, **(kwargs or {}))


def course(precision: Precision, path: Any) -> tuple[np.ndarray, list[str]]:
    one = member("lora", budget=budget(max_steps=3, eval_steps=3, precision=precision))
    options = EngineOptions(device=torch.device("cpu"), path=path)
    with Products() as products:
        (outcome,) = run_pack(
            Pack(trials=(one,)), random_data(), tiny_model(dtype=torch.float32), options, clock=Clock()
        )
    return np.array([outcome.train_loss, outcome.eval_loss]), products.seen


@pytest.mark.parametrize("path", ["unpadded", "bank"])
def test_each_product_is_multiplied_in_tf32_and_what_follows_is_not(path: str) -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    single, seen_single = course("fp32", path)  # what the guard compares, in float32, it keeps
    losses, seen = course("tf32", path)
    assert len(seen) > 100
    assert set(seen) == {"tf32"}
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert np.array_equal(losses, single)
    assert "tf32" not in seen_single
