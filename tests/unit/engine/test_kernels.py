"""Triton kernels beside torch's operations: by Triton's interpreter on a CPU, compiled without a device, on a GPU."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.checks import doctor
from bench.core.clock import Clock
from bench.core.spec import Pack
from bench.engine import dropout, kernel_probe, kernels
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.run import EngineOptions, prepare
from bench.engine.spans import blocks_of, spans_of
from tests.support.engine_helpers import budget, member, random_data, tiny_model
from tests.support.kernel_cases import step_gaps

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def asked(what: str, name: str, **env: str) -> Any:
    """Return what tests.support.kernel_cases says in a process of its own: Triton reads its settings when imported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kernel_cases", what, name], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | env, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.parametrize("name", kernels.NAMES)
def test_the_interpreter_finds_no_difference(name: str) -> None:
    assert asked("interpret", name, TRITON_INTERPRET="1") is None


@needs_triton
def test_a_pack_by_kernels_has_the_losses_and_gradients_of_torch() -> None:
    gaps = asked("interpret", "step", TRITON_INTERPRET="1")
    assert len(gaps) == 9
    assert max(gaps) < 1e-5


@needs_triton
@pytest.mark.parametrize("name", kernels.NAMES)
def test_kernels_compile_for_gpus_that_are_not_there(name: str) -> None:
    sizes = asked("compile", name, TRITON_INTERPRET="0")
    assert len(sizes) >= 2
    assert min(sizes) > 1000


@pytest.mark.gpu
@pytest.mark.parametrize("name", kernels.NAMES)
def test_a_gpu_finds_no_difference(name: str) -> None:
    assert kernel_probe.problems(torch.device("cuda"))[name] is None


@pytest.mark.gpu
def test_a_pack_on_a_gpu_has_the_losses_and_gradients_of_torch() -> None:
    assert max(step_gaps("cuda")) < 1e-4


def test_the_checks_see_a_mask_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's operations in the kernels' place the checks find nothing, with a mask of another key they do."""

    def summed(norm: Any, x: Tensor, out: Tensor, mask: Tensor | None, shift: int = 0) -> Tensor:
        return norm(x + out if mask is None else x + out * mask.roll(shift, 0))

    def drawn(salts: Tensor, p: float, key: Tensor, n: int, dtype: torch.dtype, shift: int = 0) -> Tensor:
        return dropout._drawn(key + (salts + shift).view(-1, *[1] * key.ndim), p, n, dtype)

    for shift in (0, 1):
        monkeypatch.setattr(kernel_probe, "normed_sum", functools.partial(summed, shift=shift))
        monkeypatch.setattr(dropout, "_by_kernel", functools.partial(drawn, shift=shift))
        for check in (kernel_probe.norm_problem, kernel_probe.masks_problem):
            assert (check(CPU) is None) == (shift == 0)


def test_texts_go_by_blocks_that_hold_them() -> None:
    assert blocks_of((3, 16, 17, 30, 128, 2)) == ((16, 0, 2), (32, 2, 2), (128, 4, 1), (16, 5, 1))


def test_long_texts_and_wide_numbers_have_no_spans() -> None:
    def has_spans(length: int, dtype: torch.dtype) -> bool:
        chunk = dataclasses.replace(Batches(random_data().train, device=CPU).chunk(np.arange(2)), longest=length)
        return spans_of(chunk, chunk.ids_N, 64, dtype) is not None

    assert not has_spans(9, torch.bfloat16), "a CPU has no kernel unless asked"
    with kernels.use("attention"):
        assert [n for n in (32, 33, 128, 129) if has_spans(n, torch.bfloat16)] == [32, 33, 128]
        assert [n for n in (32, 33) if has_spans(n, torch.float32)] == [32]
        assert not has_spans(9, torch.float64)


def test_a_cpu_uses_no_kernel_and_says_nothing() -> None:
    kernel_probe.settle(torch.device("cpu"))
    assert not any(kernels.used(name, torch.device("cpu")) for name in kernels.NAMES)


def test_a_kernel_that_is_refused_is_told_in_the_row_and_by_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str | None] = {"masks": None, "attention": "3.0e-01 off" + 300 * "x", "norm": None}
    monkeypatch.setattr(kernel_probe, "problems", lambda device: found)
    one = member("lora", budget=budget(max_steps=2, eval_steps=2))
    ready = prepare(Pack(trials=(one,)), random_data(), tiny_model(), EngineOptions(device=CPU))
    loop = Loop(
        ready.bank, ready.path, ready.train, one.budget, n_chunks=1, clock=Clock(), evaluate=lambda: np.zeros(1)
    )
    assert loop.engine_path == "unpadded"
    assert doctor.kernels("cpu").level == "ok"
    loop.split.device = torch.device("cuda:0")
    assert loop.engine_path == f"unpadded, torch's attention ({('3.0e-01 off' + 300 * 'x')[:160]})"
    check = doctor.kernels("cuda:0")
    assert (check.level, "torch's attention (3.0e-01 off" in check.found) == ("note", True)
    found.update(dict.fromkeys(kernels.NAMES, "Triton is not installed"))
    assert loop.engine_path == "unpadded, torch's masks, attention, norm (Triton is not installed)"
    assert kernel_probe.refused(torch.device("cuda:0"), kernels.ANYWHERE) == (
        "torch's masks (Triton is not installed)",
    )
    found.update(dict.fromkeys(kernels.NAMES))
    assert loop.engine_path == "unpadded"


def test_a_kernel_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(kernels, "_settled", {})
    monkeypatch.setattr(kernel_probe, "problems", lambda device: dict.fromkeys(kernels.NAMES, "differs"))
    kernel_probe.settle(device)
    assert not kernels.used("masks", device)
    monkeypatch.setattr(kernel_probe, "problems", lambda device: dict.fromkeys(kernels.NAMES))
    kernel_probe.settle(device)
    assert kernels.used("masks", device)
    with kernels.use():
        assert not kernels.used("masks", device)
    with pytest.raises(ValueError, match="not among"), kernels.use("mask"):
        pass
