"""How much memory a pack of decoders takes by the planner's reckoning, and when layers compute again in backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench import sweep
from bench.core.spec import Trial
from bench.engine import chunking
from bench.engine.sizes import VALUES_KEPT, Shape
from bench.models import Located
from bench.schedule import pack_sizes, planner, workloads
from bench.schedule.planner import Limits
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
    assert (encoder.inner_size, encoder.values_kept) == (0, VALUES_KEPT * 384)


def test_the_reckoning_is_within_a_quarter_of_the_peak_that_was_measured() -> None:
    one = member()
    assert planner.decoder_bytes(one, SHAPE, 4, on_cpu=True) == pytest.approx(PEAK_4, rel=0.25)


def test_layers_compute_again_before_memory_makes_a_pack_smaller_than_four() -> None:
    one, long = member(max_length=1500), replace(SHAPE, train_tokens=1500.0)
    usual = Limits(device_kind="cuda", shape=long, memory_bytes=40 * 2**30)
    assert not planner.checkpoints(one, usual)
    few = replace(usual, memory_bytes=2**30)  # four trials of one example are more, and a chunk has no less
    needed = [planner.decoder_bytes(one, long, n, on_cpu=False, memory_bytes=few.memory_bytes) for n in (1, 4)]
    assert needed[0] < planner.MEMORY_SHARE * few.memory_bytes < needed[1]
    assert planner.checkpoints(one, few)
    assert planner.pack_limit(one, few) >= planner.LEAST_PACK
    off = replace(few, gradient_checkpointing=False)
    assert not planner.checkpoints(one, off)
    assert 1 <= planner.pack_limit(one, off) < planner.LEAST_PACK
    assert planner.checkpoints(one, replace(usual, gradient_checkpointing=True))
    assert not planner.checkpoints(one, replace(few, max_pack_size=1))


@pytest.mark.parametrize(("gigabytes", "asked", "says"), [(40, None, False), (1, None, True), (1, False, False)])
def test_the_plan_says_that_layers_compute_again(gigabytes: int, asked: bool | None, says: bool, tmp_path: Any) -> None:
    limits = Limits(device_kind="cuda", shape=replace(SHAPE, train_tokens=1500.0), memory_bytes=gigabytes * 2**30)
    trials = tuple(replace(member(max_length=1500), eta_A=1e-5 * (k + 1)) for k in range(8))
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
        again = planner.checkpoints(one, limits)
        taken = planner.decoder_bytes(
            one, limits.shape, n, on_cpu=False, checkpointed=again, memory_bytes=limits.memory_bytes
        )
        assert n == 1 or taken <= planner.MEMORY_SHARE * limits.memory_bytes


# --- chunks by memory ------------------------------------------------------------------------------------------------

LLAMA_7B = Shape(n_layers=32, hidden_size=4096, train_tokens=250.0, inner_size=2 * 11008, qkv_size=3 * 4096)


@pytest.mark.parametrize("gigabytes", [40, 80, 141])
def test_a_batch_of_long_texts_is_cut_until_a_chunk_fits(gigabytes: int) -> None:
    """In 8 chunks, the most there were, 128 texts of 250 tokens kept 31 GB at a time, whatever the device."""
    memory = gigabytes * 10**9
    rows = chunking.memory_rows(memory, LLAMA_7B.token_bytes("bf16"))
    assert rows is not None
    cut = chunking.n_chunks(128 * 250, hidden_size=4096, is_half=True, on_cpu=False, least=1, rows=rows, most=128)
    kept = 128 * 250 / cut * LLAMA_7B.token_bytes("bf16")
    assert kept <= chunking.CHUNK_SHARE * memory
    assert cut == 1 or 128 * 250 / (cut - 1) * LLAMA_7B.token_bytes("bf16") > chunking.CHUNK_SHARE * memory, "no more"
    one = trial(budget=budget(batch_size=128, max_length=256, precision="bf16"), rank=8)
    limits = Limits(device_kind="cuda", shape=LLAMA_7B, memory_bytes=memory)
    assert planner.pack_limit(one, limits) >= planner.LEAST_PACK
    assert not planner.checkpoints(one, limits), "a chunk less costs nothing, layers computed again a third"


def test_no_chunk_holds_less_than_an_example() -> None:
    for tokens in (10, 10**5, 10**9):
        found = chunking.n_chunks(tokens, hidden_size=64, is_half=True, on_cpu=False, least=2, rows=100.0, most=16)
        assert 2 <= found <= 16


def test_the_most_trials_of_a_pack_are_those_measured_to_gain_or_what_memory_allows() -> None:
    roberta = Shape(n_layers=12, hidden_size=768, train_tokens=14.1, n_weights=124_645_632)
    one = trial(budget=budget(batch_size=32, precision="bf16", max_length=128), rank=8)

    def limit(gigabytes: float) -> int:
        limits = Limits(device_kind="cuda", shape=roberta, memory_bytes=int(gigabytes * 1e9))
        return planner.pack_limit(one, limits)

    assert limit(141) == 128 == planner.MAX_PACK_SIZE["cuda"]
    assert 1 <= limit(2) < limit(4) < 128
    kind = {planner.kind_of(one): 32}
    limits = Limits(device_kind="cuda", shape=roberta, memory_bytes=141 * 10**9, measured=kind)
    assert planner.pack_limit(one, limits) == 32
    assert pack_sizes.sizes(128) == (1, 11, 64, 128)
    assert pack_sizes.sizes(16) == (1, 4, 16)
