"""On a GPU: packs against the CPU, no waiting in a step, memory that runs out, two processes, a state taken up.

Without a GPU these tests are skipped; `-m gpu` runs them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bench import methods
from bench.core.clock import Clock
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Trial
from bench.data.splits import EncodedData
from bench.engine import hardware, loop, state
from bench.engine.dropout import keyed_mask, token_key
from bench.engine.run import DTYPES, EngineOptions, prepare, run_pack
from bench.executors._workers import WorkerOptions
from bench.executors.local import LocalExecutor
from bench.executors.processes import Place, ProcessExecutor
from bench.models import LoadedModel
from bench.models._targets import ALL_LINEAR
from tests.support import gpu_worker
from tests.support.causal_helpers import causal_data, language_model
from tests.support.engine_helpers import budget, member, random_data, tiny_model
from tests.support.gpu_worker import ran
from tests.support.sweep_helpers import PROVENANCE

pytestmark = pytest.mark.gpu
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
SHORT: dict[str, Any] = {"max_steps": 4, "eval_steps": 2, "weight_decay": 0.01, "max_grad_norm": 0.5}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
# How far a mean loss may be from the CPU's. In half precision the order of additions alone makes this much of it.
GAP = {"fp32": 2e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}


@pytest.fixture(autouse=True)
def _on_cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU of CUDA")
    yield
    torch.cuda.empty_cache()


def pack_of(method: str, precision: Any = "fp32", n: int = 3, **changes: Any) -> Pack:
    one = member(method, budget=budget(**SHORT, precision=precision), **changes)
    return Pack(trials=tuple(_at(one, 1e-3 * (i + 1)) for i in range(n)))


def _at(one: Trial, rate: float) -> Trial:
    return replace(one, eta_A=rate, eta_B=None if one.eta_B is None else 2 * rate)


def dtype_of(pack: Pack) -> torch.dtype:
    one = pack.trials[0]
    return torch.float32 if methods.get(one.method).trains_base else DTYPES[one.budget.precision]


def same(there: list[Outcome], here: list[Outcome], gap: float) -> None:
    for mine, theirs in zip(there, here, strict=True):
        assert mine.status == theirs.status
        assert mine.train_loss == pytest.approx(theirs.train_loss, abs=gap)
        assert mine.eval_loss == pytest.approx(theirs.eval_loss, abs=gap)


# --- packs against the CPU -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masks_are_those_of_the_cpu_bit_for_bit(dtype: torch.dtype) -> None:
    examples, positions = torch.arange(40)[:, None], torch.arange(60)[None]
    here = keyed_mask(-1234567890123456789, 0.1, token_key(examples, positions), 768, dtype)
    there = keyed_mask(-1234567890123456789, 0.1, token_key(examples.to(GPU), positions.to(GPU)), 768, dtype)
    assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("path", ["unpadded", "bank"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("method", methods.names())
def test_an_encoder_trains_as_on_the_cpu(method: str, precision: str, path: str) -> None:
    alone = methods.get(method).trains_base and path == "bank"
    pack = pack_of(method, precision, n=1 if alone else 3)
    make = functools.partial(tiny_model, dtype=dtype_of(pack), **DROPOUT)
    here, there = (ran(pack, random_data(), make(), device, path=path) for device in (CPU, GPU))
    same(there, here, GAP[precision])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "mora", "full", "dora"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "opt"])
def test_a_decoder_trains_and_writes_as_on_the_cpu(kind: str, method: str, precision: str) -> None:
    trains_base = methods.get(method).trains_base
    pack = pack_of(method, precision, n=1 if trains_base else 3, target_modules=None if trains_base else ALL_LINEAR)

    def make() -> LoadedModel:
        loaded = language_model(kind, 0.1)
        loaded.model.to(dtype_of(pack))
        return loaded

    here, there = (ran(pack, causal_data(max_new_tokens=5), make(), device) for device in (CPU, GPU))
    same(there, here, GAP[precision])
    if precision == "fp32":
        assert [x.metric_value for x in there] == pytest.approx([x.metric_value for x in here], abs=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", methods.names())
def test_steps_that_are_recorded_are_those_that_are_not(method: str, precision: str) -> None:
    one = pack_of(method, precision)
    longer = {"max_steps": 50, "eval_steps": 50}
    pack = replace(one, trials=tuple(replace(t, budget=replace(t.budget, **longer)) for t in one.trials))

    def course(recorded: bool) -> tuple[np.ndarray, loop.Loop]:
        loaded = tiny_model(dtype=dtype_of(pack), **DROPOUT)
        ready = prepare(pack, random_data(), loaded, EngineOptions(device=GPU, n_chunks=1))
        found = loop.Loop(
            ready.bank, ready.path, ready.train, pack.trials[0].budget, n_chunks=1, clock=Clock(),
            evaluate=lambda: np.zeros(pack.size), objective=ready.objective,
        )  # fmt: skip
        assert found.graphs is not None
        if not recorded:
            found.graphs = None
        return np.stack(found.run(12).losses_SxK + [x.cpu().numpy() for x, _ in found.since]), found

    here, with_graphs = course(True)
    there, _ = course(False)
    np.testing.assert_allclose(here, there, atol=GAP[precision])
    assert with_graphs.graphs is not None
    assert with_graphs.graphs.problem is None
    assert 0 < len(with_graphs.graphs.recorded) < 12


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["unpadded", "bank"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["lora", "mora", "dora"])
def test_a_step_of_an_encoder_waits_for_nothing(method: str, precision: str, path: Literal["unpadded", "bank"]) -> None:
    pack = pack_of(method, precision)
    _step_without_waiting(pack, random_data(), tiny_model(dtype=dtype_of(pack), **DROPOUT), path)


@pytest.mark.parametrize("path", ["packed", "bank"])
def test_a_step_of_a_decoder_waits_for_nothing(path: Literal["packed", "bank"]) -> None:
    loaded = language_model("llama", 0.1)
    loaded.model.to(torch.bfloat16)
    _step_without_waiting(pack_of("lora", "bf16", target_modules=ALL_LINEAR), causal_data(), loaded, path)


def _step_without_waiting(pack: Pack, data: EncodedData, loaded: LoadedModel, path: Any) -> None:
    """`error` raises where the host waits for the device (torch.cuda.set_sync_debug_mode)."""
    ready = prepare(pack, data, loaded, EngineOptions(device=GPU, path=path, n_chunks=2))
    one = loop.Loop(
        ready.bank, ready.path, ready.train, pack.trials[0].budget, n_chunks=2, clock=Clock(),
        evaluate=lambda: np.zeros(pack.size), objective=ready.objective,
    )  # fmt: skip
    first, second = list(ready.train.order(seed=0, batch_size=8, max_steps=2))
    one.step(first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_K, _ = one.step(second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss_K).all()


# --- memory, processes, states ---------------------------------------------------------------------------------------


def test_a_pack_that_does_not_fit_is_halved_and_its_memory_is_free_again() -> None:
    pack = pack_of("lora", n=16, target_modules=("query", "value"))
    make = functools.partial(
        tiny_model, dtype=torch.float32, hidden_size=256, intermediate_size=1024, vocab_size=60, **DROPOUT
    )
    data = random_data(n_train=400)
    data = replace(data, train=data.train)
    pack = replace(pack, trials=tuple(replace(t, budget=replace(t.budget, batch_size=256)) for t in pack.trials))
    executor = LocalExecutor(
        load=lambda _: (data, make()), train=lambda p, x: ran(p, x[0], x[1], GPU), provenance=PROVENANCE,
        metric_name="accuracy", free=torch.cuda.empty_cache,
    )  # fmt: skip
    whole = ran(pack, data, make(), GPU)
    took = whole[0].peak_memory_bytes
    assert took is not None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(GPU)
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 0.6 * took) / total, GPU)
    try:
        parts = list(executor.stream(pack, study="s"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert len(parts) > 1
    assert {record.outcome.status for part in parts for record in part} == {Status.OK}
    losses = [record.outcome.train_loss for part in parts for record in part]
    assert losses == pytest.approx([x.train_loss for x in whole], rel=1e-4)
    executor._loaded.clear()
    assert torch.cuda.memory_allocated(GPU) - before < took / 10


def test_a_pack_that_stopped_goes_on_from_its_state(tmp_path: Path) -> None:
    pack = pack_of("lora", "bf16")
    make = functools.partial(tiny_model, dtype=torch.bfloat16, **DROPOUT)
    whole = ran(pack, random_data(), make(), GPU)

    class Killed(Exception):
        """Stands for a kill."""

    def stop(steps: int) -> None:
        raise Killed

    clock, options = Clock(synchronize=hardware.waiting_for(GPU)), EngineOptions(device=GPU, n_chunks=2)
    more: dict[str, Any] = {"clock": clock, "state_dir": tmp_path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.Keeper, "is_due", lambda keeper: True)
        patch.setattr(loop.Loop, "_add_points", lambda *_: stop(0))
        with pytest.raises(Killed):
            run_pack(pack, random_data(), make(), options, **more)
    again = run_pack(pack, random_data(), make(), options, **{**more, "clock": Clock()})
    assert [x.train_loss for x in again] == [x.train_loss for x in whole]
    assert [x.eval_loss for x in again] == [x.eval_loss for x in whole]


def test_two_processes_share_a_gpu_and_give_the_rows_of_one(tmp_path: Path) -> None:
    make = functools.partial(gpu_worker.tiny_executor, GPU)
    places = [Place(name="cuda:0", make=make, threads=None) for _ in range(2)]
    executor = ProcessExecutor(
        places=places, provenance=PROVENANCE, metric_name="accuracy",
        options=WorkerOptions(time_limit_seconds=math.inf), log_dir=tmp_path,
    )  # fmt: skip
    packs = [pack_of("lora"), pack_of("bitfit")]
    batches = list(executor.stream_many(packs, study="s"))
    found = {row.trial.trial_id: row.outcome for batch in batches for row in batch.records}
    for pack in packs:
        here = ran(pack, random_data(), gpu_worker.loaded(), GPU)
        same([found[trial.trial_id] for trial in pack.trials], here, 1e-6)
