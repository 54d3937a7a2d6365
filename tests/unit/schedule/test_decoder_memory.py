"""How much memory a pack of decoders takes by the planner's reckoning, and when layers compute again in backward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import sweep
from bench.core.clock import Clock
from bench.core.spec import Meaning, Pack, Trial
from bench.engine import blocks, chunking, decoder_sizes
from bench.engine.batching import Chunk
from bench.engine.decoder_sizes import decoder_of
from bench.engine.loop import Loop
from bench.engine.run import EngineOptions, prepare
from bench.engine.sizes import VALUES_KEPT, Shape, shape_of
from bench.models import Located
from bench.schedule import decoders, pack_sizes, planner, workloads
from bench.schedule.planner import Limits
from bench.timing.peers.model import random_model
from tests.support import sweep_helpers as helpers
from tests.support.causal_helpers import causal_data
from tests.support.engine_helpers import budget, trial
from tests.support.live_bytes import LiveBytes
from tests.support.oracle import CPU

LLAMA: dict[str, Any] = {  # 384 wide, 6 layers, 6 heads of 64, 2 of keys and values, 1,024 in the MLP, which has a gate
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 1024, "head_dim": 64, "hidden_act": "silu",
    "vocab_size": 32000,
}  # fmt: skip
SHAPE = shape_of(LLAMA, is_decoder=True, train_tokens=58.0)


def member(**changes: Any) -> Trial:
    return trial(budget=budget(batch_size=16, precision="fp32", **changes), rank=8)


def test_sizes_are_read_off_a_decoder_s_config_alone(tmp_path: Any) -> None:
    def shape(**changes: Any) -> Shape | None:
        located = Located(name="m", directory=tmp_path, model_hash="h", tokenizer_hash="t", config={**LLAMA, **changes})
        return workloads.limits_of("cpu", located, 58.0).shape

    found = shape()
    assert found is not None
    assert found.decoder is not None
    assert found.decoder.sides == {
        "q": (384, 384), "k": (384, 128), "v": (384, 128), "o": (384, 384), "gate": (384, 1024), "up": (384, 1024),
        "down": (1024, 384),
    }  # fmt: skip
    assert found.products == 6 * (384 * (384 + 256 + 384) + 3 * 384 * 1024)
    plain = shape(hidden_act="gelu", num_key_value_heads=None)
    assert plain is not None
    assert plain.products == 6 * (4 * 384**2 + 2 * 384 * 1024)
    encoder = shape(architectures=["BertForMaskedLM"])
    assert encoder is not None
    assert (encoder.decoder, encoder.token_bytes(member())) == (None, 6 * VALUES_KEPT * 384 * 4)


MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2}, "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {"head_dim": 16, "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh"},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 160, "n_positions": 64}, "opt": {"ffn_dim": 160},
}  # fmt: skip


POSITIONS = {"gpt2": 64, "opt": 66}  # rows of a table that is not counted


def config_of(kind: str) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 160}
    return {
        "model_type": kind, "architectures": ["XForCausalLM"], "vocab_size": 50, "max_position_embeddings": 64,
        "word_embed_proj_dim": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        **({} if kind == "gpt2" else sizes), **MODELS[kind],
    }  # fmt: skip


@pytest.mark.parametrize("tied", [None, False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_weights_of_a_base_are_counted_its_head_with_them(kind: str, tied: bool | None) -> None:
    config = config_of(kind) | ({} if tied is None else {"tie_word_embeddings": tied})
    matrices = [p for name, p in random_model(config, 0).model.named_parameters() if p.dim() == 2]
    assert sum(p.numel() for p in matrices) - (64 * POSITIONS.get(kind, 0)) == decoder_of(config, 64).n_base


def packed_loop(
    kind: str, targets: Any, n_trials: int, *, p: float = 0.0, again: bool = False, path: Any = "packed"
) -> Loop:
    loaded, data = random_model(config_of(kind), 0), causal_data(n_train=40)
    settings = {"batch_size": 16, "precision": "fp32", "max_steps": 20}
    trials = [
        trial(budget=budget(**settings), rank=4, eta_A=1e-3 * (1 + k), target_modules=targets, lora_dropout=p)
        for k in range(n_trials)
    ]
    data = replace(data, train=replace(data.train, ids=data.train.ids % 50))
    options = EngineOptions(device=CPU, gradient_checkpointing=again, n_chunks=1, path=path)
    ready = prepare(Pack(trials=tuple(trials)), data, loaded, options)
    return Loop(
        ready.bank, ready.path, ready.train, trials[0].budget, n_chunks=1, clock=Clock(),
        evaluate=lambda: np.zeros(n_trials), objective=ready.objective,
    )  # fmt: skip


def kept_by_autograd(loop: Loop) -> tuple[int, Chunk]:
    """Return the bytes that are kept for the backward pass of a batch beside weights, masks included, and the batch."""
    known = {t.untyped_storage()._cdata for t in (*loop.bank.model.state_dict().values(), loop.bank.params.values)}
    found: dict[int, int] = {}

    def look(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known and tensor.is_floating_point():
            found[storage._cdata] = storage.nbytes()
        return tensor

    chunk = loop.split.chunk(np.arange(16))
    with loop.bank.training(), torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        losses = loop.objective.summed_loss(loop.path, chunk)
    masks = [
        mask
        for node in functions_behind(losses)
        for name in ("masks", "kept")
        for mask in getattr(node, name, None) or ()
    ]
    return sum(found.values()) + sum(mask.untyped_storage().nbytes() for mask in masks if mask is not None), chunk


def functions_behind(losses: Tensor) -> set[Any]:
    """Return autograd's functions: masks are attributes of theirs."""
    found, left = set[Any](), [losses.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [upper for upper, _ in node.next_functions]
    return found


KINDS = pytest.mark.parametrize(
    ("kind", "targets", "p"),
    [
        ("llama", "all-linear", 0.0), ("llama", ("q_proj", "v_proj"), 0.0), ("llama", "all-linear", 0.2),
        ("qwen3", ("q_proj", "down_proj"), 0.0), ("gemma2", "all-linear", 0.0), ("gpt2", "all-linear", 0.0),
        ("gpt2", ("c_attn",), 0.2), ("opt", "all-linear", 0.0),
    ],
)  # fmt: skip


@pytest.mark.parametrize("n_trials", [1, 3])
@KINDS
def test_what_is_kept_for_backward_is_reckoned(kind: str, targets: Any, p: float, n_trials: int) -> None:
    """Within a sixth of what autograd is seen to keep: the rest is means of norms, masks of embeddings and the like."""
    loop = packed_loop(kind, targets, n_trials, p=p)
    counted, chunk = kept_by_autograd(loop)
    assert reckoned(loop, chunk, on_cpu=True) == pytest.approx(counted, rel=1 / 6)


@pytest.mark.parametrize("n_trials", [1, 3])
@KINDS
def test_what_is_kept_with_a_gpu_s_attention_is_reckoned(
    kind: str, targets: Any, p: float, n_trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention padded to the longest text, by torch's kernel; a CPU's keeps for backward what a GPU's does."""
    monkeypatch.setattr(blocks.waiting, "may_ask", lambda device: False)
    loop = packed_loop(kind, targets, n_trials, p=p)
    counted, chunk = kept_by_autograd(loop)
    assert min(chunk.lengths) < max(chunk.lengths)
    assert reckoned(loop, chunk, on_cpu=False) == pytest.approx(counted, rel=1 / 6)


def reckoned(loop: Loop, chunk: Chunk, *, on_cpu: bool) -> float:
    """Return what the planner takes this chunk of the loop's pack to keep."""
    shape = replace(shape_of(config_of(loop.bank.model.config.model_type), is_decoder=True), lengths=chunk.lengths)
    plan = decoders.Plan(trial=loop.bank.trials[0], shape=shape, n_trials=loop.bank.n_trials, on_cpu=on_cpu)
    size = len(chunk.lengths)
    chunks = decoders.chunks_of(chunk.lengths, batch_size=size, n_batches=1, parts=1, padded=plan.padded)
    assert chunks.tokens.tolist() == [sum(chunk.lengths)]
    return float(decoders.kept_bytes(plan, chunks)[0])


@pytest.mark.parametrize(("again", "path"), [(False, "packed"), (True, "packed"), (False, "bank")])
@pytest.mark.parametrize("n_trials", [1, 4])
def test_the_peak_of_a_step_is_reckoned(monkeypatch: Any, n_trials: int, again: bool, path: str) -> None:
    """Within a quarter of the tensors that live at once in the longest of the batches."""
    with LiveBytes() as ledger:
        loop = packed_loop("llama", "all-linear", n_trials, again=again, path=path)
        order = list(loop.split.order(seed=0, batch_size=16, max_steps=20))
        loop.step(order[0])
        before = ledger.live
        ledger.restart()
        worst = np.max if path == "bank" else np.sum
        loop.step(max(order, key=lambda places: int(worst(loop.split.lengths[places]))))
    shape = replace(shape_of(config_of("llama"), is_decoder=True), lengths=tuple(loop.split.lengths.tolist()))
    assert shape.decoder is not None
    shape = replace(shape, decoder=replace(shape.decoder, is_packed=path == "packed"))
    monkeypatch.setattr(decoders.chunking, "least_chunks", lambda *given, **more: 1)  # as the loop was built
    plan = decoders.Plan(trial=loop.bank.trials[0], shape=shape, n_trials=n_trials, checkpointed=again)
    assert decoders.step_bytes(plan) == pytest.approx(ledger.peak - before, rel=0.25)


def test_families_that_train_as_one_stream_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "architectures.md").read_text(encoding="utf-8")
    lines = page[page.index("## Causal") :].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert {row[0] for row in rows if row[1] == "equal" and row[3].startswith("packed")} == decoder_sizes.PACKED
    assert not decoder_of({**LLAMA, "model_type": "bloom"}, 384).is_packed


def test_an_evaluation_on_the_bank_path_has_logits_of_every_token() -> None:
    """By hand: 256 MiB are 2,097 tokens of 32,000 float32 numbers; a third of them are targets, copied thrice."""
    shape = replace(shape_of({**LLAMA, "model_type": "bloom"}, is_decoder=True), lengths=(19,) * 100)
    plan = decoders.Plan(trial=member(), shape=shape, n_trials=4)
    assert decoders.evaluation_logits(plan) == 2 * 2_097 * 32_000 * 4
    assert decoders.evaluation_bytes(plan) == 2_097 * 4 * (3 * 384 + 3 * 1024)
    assert decoders.evaluation_logits(replace(plan, shape=shape_of(LLAMA, is_decoder=True))) == 0


def test_keys_and_values_count_where_texts_are_scored() -> None:
    """By hand: 8,192 tokens in 6 layers, 2 heads of 64 for keys and for values, float32, twice."""
    plan = decoders.Plan(trial=member(), shape=shape_of(LLAMA, is_decoder=True), n_trials=4)
    scored = replace(plan, trial=replace(plan.trial, meaning=Meaning(metric_name="exact_match")))
    assert decoders.cache_bytes(plan) == 0
    assert decoders.cache_bytes(scored) == 2 * 8_192 * 6 * 2 * 2 * 64 * 4


def test_the_longest_batch_counts_not_the_mean_one() -> None:
    lengths = (10,) * 90 + (100,) * 10
    even = shape_of(LLAMA, is_decoder=True)
    even = replace(even, lengths=(19,) * 100)
    ragged = replace(even, lengths=lengths)
    long = member(max_steps=200)
    assert planner.decoder_bytes(long, ragged, 4, on_cpu=True) > 1.3 * planner.decoder_bytes(long, even, 4, on_cpu=True)
    found = decoders.chunks_of(lengths, batch_size=16, n_batches=200, parts=1, padded="nothing")
    assert len(found.tokens) == 200
    assert found.tokens.max() >= 1.5 * np.mean(lengths) * 16
    assert {int(n) for n in found.tokens} <= {16 * 10 + 90 * long for long in range(11)} | {
        4 * 10 + 90 * long for long in range(5)
    }


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

LLAMA_7B = shape_of(
    {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "vocab_size": 32000,
    },
    is_decoder=True, train_tokens=250.0,
)  # fmt: skip


@pytest.mark.parametrize("gigabytes", [40, 80, 141])
def test_a_batch_of_long_texts_is_cut_until_a_chunk_fits(gigabytes: int) -> None:
    """In 8 chunks, the most there were, 128 texts of 250 tokens kept 31 GB at a time, whatever the device."""
    memory = gigabytes * 10**9
    one = trial(budget=budget(batch_size=128, max_length=256, precision="bf16"), rank=8)
    of_token = LLAMA_7B.token_bytes(one)
    rows = chunking.memory_rows(memory, of_token)
    assert rows is not None
    cut = chunking.n_chunks(128 * 250, hidden_size=4096, is_half=True, on_cpu=False, least=1, rows=rows, most=128)
    kept = 128 * 250 / cut * of_token
    assert kept <= chunking.CHUNK_SHARE * memory
    assert cut == 1 or 128 * 250 / (cut - 1) * of_token > chunking.CHUNK_SHARE * memory, "no more"
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


def test_no_pack_on_a_cpu_takes_more_than_there_is_and_none_is_smaller_than_it_could_be() -> None:
    one = member(max_length=300, max_steps=50)
    shape = replace(shape_of(LLAMA, is_decoder=True), lengths=tuple(range(12, 300)))
    sizes = []
    for megabytes in (400, 1000, 1200, 1600, 8000):
        limits = Limits(shape=shape, memory_bytes=megabytes * 10**6, gradient_checkpointing=False)
        room, n = planner.MEMORY_SHARE * megabytes * 10**6, planner.pack_limit(one, limits)
        assert n == 1 or planner.decoder_bytes(one, shape, n, on_cpu=True) <= room
        larger = range(n + 1, planner.MAX_PACK_SIZE["cpu"] + 1)
        assert all(planner.decoder_bytes(one, shape, k, on_cpu=True) > room for k in larger)
        sizes.append(n)
    assert sizes[0] == 1 < sizes[-2] < sizes[-1] == planner.MAX_PACK_SIZE["cpu"]
