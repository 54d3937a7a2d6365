"""The head's products of all trials go together, however few logits exist at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.engine import cross_entropy

N_TRIALS, N_TARGETS, WIDTH, N_IDS = 3, 20, 8, 60


class Products(TorchDispatchMode):
    """Collects the matrix products: their names and the shapes of what they multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "mm" in name:
            self.seen.append((name, tuple(next(a for a in args if a.ndim > 1).shape)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("trains_head", "grad"), [(False, True), (True, True), (False, False)])
def test_the_heads_product_is_one_for_all_trials(
    *, trains_head: bool, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = 7
    monkeypatch.setattr(cross_entropy, "AT_ONCE", at_once * N_TRIALS * N_IDS * 8)
    head = nn.Linear(WIDTH, N_IDS, bias=False, dtype=torch.float64).requires_grad_(trains_head)
    hidden = torch.randn(N_TRIALS, N_TARGETS, WIDTH, dtype=torch.float64, requires_grad=grad)
    wanted = torch.randint(N_IDS, (N_TARGETS,))
    with Products() as products, torch.set_grad_enabled(grad):
        losses = cross_entropy.target_losses(lambda part, _: head(part), hidden, wanted, trains_head=trains_head)
        if grad:
            losses.sum().backward()
    assert {name for name, _ in products.seen} == {"mm"}, "a batched product reads the head once for each trial"
    rows = [shape[0] for _, shape in products.seen if shape[1] == WIDTH]
    assert rows.count(N_TRIALS * at_once) >= 2
    logits = head(hidden).log_softmax(-1)
    torch.testing.assert_close(losses, -logits.gather(-1, wanted.expand(N_TRIALS, -1)[..., None])[..., 0])
