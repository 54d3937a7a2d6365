"""Where a device has no float64 (Apple's), nothing is computed in it: read off every operation of steps and scores."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core import devices
from bench.core.clock import Clock
from bench.core.spec import Pack, Trial
from bench.data.splits import Encoded, EncodedData
from bench.engine import hardware
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.memory import meter_of
from bench.engine.run import EngineOptions, prepare, run_pack
from bench.models import LoadedModel
from tests.support.causal_helpers import causal_data, language_model
from tests.support.engine_helpers import budget, random_data, tiny_model, trial

CPU = torch.device("cpu")
STEPS = {"max_steps": 4, "eval_steps": 2, "precision": "fp32"}


class NoFloat64(TorchDispatchMode):
    """Raises where an operation gives float64."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            raise AssertionError(f"{func.name()} gives float64")
        return made


def test_the_mode_catches_float64() -> None:
    with NoFloat64(), pytest.raises(AssertionError, match="gives float64"):
        torch.ones(2).double()


def numbers() -> EncodedData:
    """Return data labelled with each text's number of tokens, in float64."""

    def labelled(split: Encoded) -> Encoded:
        return replace(split, labels=split.lengths.astype(np.float64))

    data = random_data()
    assert data.select is not None
    splits = {"train": labelled(data.train), "select": labelled(data.select), "eval": labelled(data.eval)}
    return replace(data, **splits, n_labels=1, metric="pearson")


def case(kind: str) -> tuple[LoadedModel, EncodedData, dict[str, Any]]:
    """Return a model in float32, its data and what its trials adapt."""
    if kind == "causal":
        loaded = language_model("llama")
        loaded.model.float()
        return loaded, causal_data(), {"target_modules": ("q_proj", "v_proj")}
    data = numbers() if kind == "numbers" else random_data()
    return tiny_model(dtype=torch.float32, num_labels=data.n_labels), data, {}


def members(**changes: Any) -> tuple[Trial, ...]:
    return tuple(trial(budget=budget(**STEPS), eta_A=rate, **changes) for rate in (1e-3, 1e-2))


def course(kind: str, method: str, mode: contextlib.AbstractContextManager[Any]) -> list[np.ndarray]:
    """Return the losses of steps and of evaluations, of which every operation runs in the mode."""
    loaded, data, changes = case(kind)
    trials = members(method=method, **changes)
    ready = prepare(Pack(trials=trials), data, loaded, EngineOptions(device=CPU))
    dev = Batches(data.eval, device=CPU)
    loop = Loop(
        ready.bank, ready.path, ready.train, trials[0].budget, n_chunks=2, clock=Clock(), objective=ready.objective,
        evaluate=lambda: ready.objective.evaluate(ready.path, dev, n_trials=len(trials)).loss_K,
    )  # fmt: skip
    with mode:
        state = loop.run()
    points = np.array([[point.metric_value for point in curve] for curve in state.curves])
    return [np.stack(state.losses_SxK), np.stack(state.norms_SxK), points]


@pytest.mark.parametrize("kind", ["classes", "numbers", "causal"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_steps_and_scores_need_no_float64(monkeypatch: pytest.MonkeyPatch, kind: str, method: str) -> None:
    wide = course(kind, method, contextlib.nullcontext())
    monkeypatch.setattr(devices, "widest_float", lambda device: torch.float32)
    narrow = course(kind, method, NoFloat64())
    for mine, theirs in zip(narrow, wide, strict=True):
        assert np.isfinite(mine).all()
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def gpus() -> list[str]:
    return ["cuda"] * torch.cuda.is_available() + ["mps"] * devices.has_mps()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["classes", "numbers", "causal"])
def test_a_gpu_trains_and_scores_as_the_cpu_does(kind: str) -> None:
    if not gpus():
        pytest.skip("no GPU that torch can use")
    loaded, data, changes = case(kind)
    trials = members(**changes)
    for name in gpus():
        device = torch.device(name)
        clock = Clock(synchronize=hardware.waiting_for(device))
        there = run_pack(
            Pack(trials=trials), data, loaded, EngineOptions(device=device), clock=clock, meter=meter_of(device)
        )
        here = run_pack(Pack(trials=trials), data, loaded, EngineOptions(device=CPU), clock=Clock())
        for mine, theirs in zip(there, here, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
            assert mine.eval_loss == pytest.approx(theirs.eval_loss, rel=1e-3)


@pytest.mark.gpu
def test_a_gpu_has_random_numbers_and_computes_in_float32() -> None:
    if not gpus():
        pytest.skip("no GPU that torch can use")
    for name in gpus():
        device = torch.device(name)
        before = hardware.generator_state(device).clone()
        torch.rand(1, device=device)
        assert not torch.equal(before, hardware.generator_state(device))
        assert hardware.computes(torch.float32, name)
