"""How much memory a pack of decoders takes by the planner's reckoning, and when layers compute again in backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench import sweep
from bench.core.spec import Trial
from bench.models import Located
from bench.schedule import planner, workloads
from bench.schedule.planner import Limits, Shape
from tests.support import sweep_helpers as helpers
from tests.support.engine_helpers import budget, trial

LLAMA: dict[str, Any] = {  # 384 wide, 6 layers, 6 heads of 64, 2 of keys and values, 1,024 in the MLP, which has a gate
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 1024, "head_dim": 64, "hidden_act": "silu",
    "vocab_size": 32000,
}  # fmt: skip
SHAPE = Shape(n_layers=6, hidden_size=384, train_tokens=58.0, inner_size=2048, qkv_size=640)
PEAK_4 = 327e6  # growth of the resident set in a step of 4 trials in 4 chunks (docs/log.md)


def member(**changes: Any) -> Trial:
    return trial(budget=budget(batch_size=16, precision="fp32", **changes), rank=8)


def test_sizes_are_read_off_a_decoder_s_config_alone(tmp_path: Any) -> None:
    def shape(**changes: Any) -> Shape | None:
        located = Located(name="m", directory=tmp_path, model_hash="h", tokenizer_hash="t", config={**LLAMA, **changes})
        return workloads.limits_of("cpu", located, 58.0).shape

    found = shape()
    assert found is not None
    assert (found.inner_size, found.qkv_size, found.values_kept) == (2048, 640, 10 * 384 + 4 * 1024 + 3 * 640)
    plain = shape(hidden_act="gelu", num_key_value_heads=None)
    assert plain is not None
    assert (plain.inner_size, plain.qkv_size) == (1024, 3 * 384)
    encoder = shape(architectures=["BertForMaskedLM"])
    assert encoder is not None
    assert (encoder.inner_size, encoder.values_kept) == (0, planner.VALUES_KEPT * 384)


def test_the_reckoning_is_within_a_quarter_of_the_peak_that_was_measured() -> None:
    one = member()
    assert planner.decoder_bytes(one, SHAPE, 4, on_cpu=True) == pytest.approx(PEAK_4, rel=0.25)


def test_layers_compute_again_before_memory_makes_a_pack_smaller_than_four() -> None:
    one, long = member(max_length=200), replace(SHAPE, train_tokens=200.0)
    usual = Limits(device_kind="cuda", shape=long, memory_bytes=40 * 2**30)
    assert not planner.checkpoints(one, usual)
    few = replace(usual, memory_bytes=4 * 2**30)
    needed = planner.decoder_bytes(one, long, 4, on_cpu=False)
    assert needed > planner.MEMORY_SHARE * few.memory_bytes > planner.decoder_bytes(one, long, 1, on_cpu=False)
    assert planner.checkpoints(one, few)
    assert planner.pack_limit(one, few) >= planner.LEAST_PACK
    off = replace(few, gradient_checkpointing=False)
    assert not planner.checkpoints(one, off)
    assert 1 <= planner.pack_limit(one, off) < planner.LEAST_PACK
    assert planner.checkpoints(one, replace(usual, gradient_checkpointing=True))
    assert not planner.checkpoints(one, replace(few, max_pack_size=1))


@pytest.mark.parametrize(("gigabytes", "asked", "says"), [(40, None, False), (4, None, True), (4, False, False)])
def test_the_plan_says_that_layers_compute_again(gigabytes: int, asked: bool | None, says: bool, tmp_path: Any) -> None:
    limits = Limits(device_kind="cuda", shape=replace(SHAPE, train_tokens=200.0), memory_bytes=gigabytes * 2**30)
    trials = tuple(replace(member(max_length=200), eta_A=1e-5 * (k + 1)) for k in range(8))
    study = helpers.study(pack_size=None, gradient_checkpointing=asked)
    options = replace(helpers.OPTIONS, limits=limits)
    shown = sweep.preview(study, trials, results_dir=tmp_path, options=options)
    assert any(line.startswith("gradient_checkpointing:") for line in shown.packing) is says
    assert (min(pack.size for pack in shown.packs) < planner.LEAST_PACK) is (asked is False)


def test_no_pack_takes_more_than_there_is() -> None:
    one = member(max_length=2000)
    for gigabytes in (1, 4, 16, 64):
        limits = Limits(device_kind="cuda", shape=replace(SHAPE, train_tokens=500.0), memory_bytes=gigabytes * 2**30)
        n = planner.pack_limit(one, limits)
        taken = planner.decoder_bytes(one, limits.shape, n, on_cpu=False, checkpointed=planner.checkpoints(one, limits))
        assert n == 1 or taken <= planner.MEMORY_SHARE * limits.memory_bytes
