"""Within a training step the host never asks for a value on the device: on a GPU it would have to wait for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.clock import Clock
from bench.core.spec import Pack, Trial
from bench.data.splits import EncodedData
from bench.engine import loop as loops
from bench.engine import waiting
from bench.engine.run import EngineOptions, prepare
from bench.models import LoadedModel
from bench.models._targets import ALL_LINEAR
from tests.support.causal_helpers import causal_data, language_model
from tests.support.engine_helpers import random_data, tiny_model, trial

# What a GPU answers only after it has done everything before: a value for Python, or a shape that depends on values.
WAITS = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero",
    "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount", "aten::repeat_interleave.Tensor",
}  # fmt: skip


HOST_READS = ("tolist", "numpy", "cpu", "__array__")  # of a tensor; on a CPU no operation stands for them


class NoWaiting(TorchDispatchMode):
    """Raises where an operation would make the host wait for a GPU."""

    def __enter__(self) -> Any:
        self.patches = pytest.MonkeyPatch()
        for name in HOST_READS:
            self.patches.setattr(torch.Tensor, name, _refuse)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patches.undo()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        if name in WAITS:
            raise AssertionError(f"{name} makes the host wait")
        if name.startswith("aten::index") and any(_is_mask(arg) for arg in args[1:2]):
            raise AssertionError(f"{name} by a mask makes the host wait")
        return func(*args, **(kwargs or {}))


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("reading a tensor makes the host wait")


def _is_mask(indices: Any) -> bool:
    return isinstance(indices, (list, tuple)) and any(
        isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: x.tolist(), lambda x: x.cpu(),
        lambda x: np.asarray(x), lambda x: x.nonzero(),
        lambda x: x[x > 0], lambda x: x.masked_select(x > 0), lambda x: torch.where(x > 0), lambda x: torch.equal(x, x),
    ],
)  # fmt: skip
def test_the_mode_catches_what_waits(ask: Callable[[torch.Tensor], object]) -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="makes the host wait"):
        ask(torch.arange(6.0))


def mora(mora_type: int) -> Trial:
    nothing = {"lora_alpha": None, "use_rslora": None, "init": None}
    return trial(method="mora", mora_type=mora_type, mora_rounding="floor", lora_dropout=0.1, **nothing)


@pytest.mark.parametrize("path", ["unpadded", "bank"])
@pytest.mark.parametrize(
    ("one", "precision"),
    [
        (trial(lora_dropout=0.1), "fp32"), (trial(lora_dropout=0.1), "bf16"), (trial(lora_dropout=0.1), "fp16"),
        (mora(1), "fp32"), (mora(6), "fp32"),
    ],
)  # fmt: skip
def test_no_operation_of_a_step_makes_the_host_wait(
    one: Trial, precision: Any, path: Literal["unpadded", "bank"], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    loaded = tiny_model(dtype=dtype, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    _steps_without_waiting(one, precision, loaded, random_data(), path, monkeypatch)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_no_operation_of_a_decoder_s_step_makes_the_host_wait(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = language_model(kind, 0.1)
    loaded.model.float()
    one = trial(lora_dropout=0.1, target_modules=ALL_LINEAR)
    _steps_without_waiting(one, "fp32", loaded, causal_data(), "packed", monkeypatch)


def _steps_without_waiting(
    one: Trial, precision: Any, loaded: LoadedModel, data: EncodedData, path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "may_ask", lambda device: False)
    budget = replace(one.budget, precision=precision, weight_decay=0.1)
    members = tuple(replace(one, budget=budget, eta_A=1e-3 * (i + 1)) for i in range(3))
    options = EngineOptions(device=torch.device("cpu"), path=path, n_chunks=2)
    ready = prepare(Pack(trials=members), data, loaded, options)
    loop = loops.Loop(
        ready.bank, ready.path, ready.train, budget, n_chunks=ready.n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(3), objective=ready.objective,
    )  # fmt: skip
    for places in ready.train.order(seed=0, batch_size=8, max_steps=2):
        with NoWaiting():
            loss_K, norm_K = loop.step(places)
    assert torch.isfinite(loss_K).all()
    assert torch.isfinite(norm_K).all()
    assert not loop.all_alive, "nobody looked"
