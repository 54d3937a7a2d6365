"""Full fine-tuning of K models side by side: each trains as alone; weights stay in float32 in half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench import methods
from bench.core.spec import Trial
from bench.engine.sizes import Shape
from bench.methods._base import base_precision
from bench.schedule import planner
from bench.schedule.planner import Limits
from tests.support.engine_helpers import budget, random_data, tiny_model, trial
from tests.support.oracle import train_pack

NOT_READ: dict[str, Any] = dict.fromkeys(
    ("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "eta_B")
)


def full(rate: float, **changes: Any) -> Trial:
    short = budget(max_steps=10, eval_steps=10, max_grad_norm=0.5, weight_decay=0.1, warmup_steps=2, **changes)
    return trial(**NOT_READ, method="full", eta_A=rate, budget=short)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_models_side_by_side_train_as_each_alone(kind: str, dropout: float) -> None:
    loaded = tiny_model(kind, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    data, trials = random_data(types=kind == "bert"), [full(1e-3), full(4e-3), full(1e-4)]
    together = train_pack(loaded, data, trials, path="unpadded")
    for k, member in enumerate(trials):
        alone = train_pack(loaded, data, [member], path="bank")
        np.testing.assert_allclose(together.losses_SxK[:, k], alone.losses_SxK[:, 0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(together.norms_SxK[:, k], alone.norms_SxK[:, 0], rtol=0, atol=1e-8)
        assert together.bank.n_trainable(member) == alone.bank.n_trainable(member)
    assert all(p.dtype == torch.float64 for p in loaded.model.parameters())


def test_the_bank_path_refuses_models_side_by_side() -> None:
    with pytest.raises(ValueError, match="needs the unpadded path"):
        train_pack(tiny_model(), random_data(), [full(1e-3), full(2e-3)], path="bank")


@pytest.mark.parametrize("path", ["bank", "unpadded"])
def test_trained_weights_stay_in_float32_and_are_computed_with_in_bf16(path: str) -> None:
    loaded, data = tiny_model(dtype=torch.float32), random_data()
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}

    def losses(precision: Any) -> Any:
        return train_pack(loaded, data, [full(1e-3, precision=precision)], path=path)

    half, single = losses("bf16"), losses("fp32")
    gap = np.abs(half.losses_SxK - single.losses_SxK)
    assert 0 < gap.max() < 0.05
    assert half.bank.params.values.dtype == torch.float32
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())
    assert base_precision("bf16", methods.get("full")) == "fp32"
    assert base_precision("bf16", methods.get("lora")) == "bf16"


@pytest.mark.parametrize("precision", ["bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_models_side_by_side_train_in_half_precision_nearly_as_in_fp32(precision: Any, dropout: float) -> None:
    loaded = tiny_model(dtype=torch.float32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    rates = (1e-3, 4e-3, 1e-4)

    def pack(name: Any) -> Any:
        return train_pack(loaded, random_data(), [full(rate, precision=name) for rate in rates], path="unpadded")

    half, single = pack(precision), pack("fp32")
    gap = np.abs(half.losses_SxK - single.losses_SxK)
    assert 0 < gap.max() < 0.05
    np.testing.assert_allclose(half.norms_SxK[0], single.norms_SxK[0], rtol=0.02)  # the first backward, before drift


def test_a_cpu_and_an_unknown_architecture_train_one_base_at_a_time() -> None:
    shape = Shape(n_layers=12, hidden_size=768, train_tokens=14.4, n_weights=124_000_000)
    room = {"device_kind": "cuda", "memory_bytes": 139 * 2**30}
    assert planner.pack_limit(full(1e-3), Limits(device_kind="cpu", shape=shape)) == 1
    assert planner.pack_limit(full(1e-3), Limits(**room, shape=None)) == 1  # type: ignore[arg-type]
    n = planner.pack_limit(full(1e-3), Limits(**room, shape=shape))  # type: ignore[arg-type]
    # 16 bytes a weight and the activations of 461 tokens in float64: about 2.3 GB a trial, of 60 % of the memory
    assert 30 <= n <= 42
    lora = planner.pack_limit(trial(budget=budget()), Limits(**room, shape=shape))  # type: ignore[arg-type]
    assert n < lora == planner.MAX_PACK_SIZE["cuda"]
