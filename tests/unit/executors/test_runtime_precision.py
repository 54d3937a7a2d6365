"""A precision is refused before anything trains where engine or device lack it; what loads a model lets the CPU take
denormal numbers for 0.
"""

from __future__ import annotations

import os

import pytest
import torch

from bench import models, study, tasks
from bench.core.errors import BadInput
from bench.core.spec import TrainBudget
from bench.data.splits import TextData
from bench.engine import hardware, run
from bench.executors import runtime
from bench.models import _targets as targets


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_full_precision_is_taken_anywhere(precision: str) -> None:
    runtime.check_precision(precision, "cpu")


@pytest.mark.parametrize(
    ("precision", "has", "refused"),
    [
        ("bf16", {}, True),
        ("bf16", {"avx512_bf16": True}, False),
        ("bf16", {"amx_bf16": True}, False),
        ("fp16", {"avx512_bf16": True}, True),
        ("fp16", {"avx512_fp16": True}, False),
    ],
)
def test_half_precision_needs_a_cpu_that_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, has: dict[str, bool], refused: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    if refused:
        with pytest.raises(BadInput, match=f"this CPU has none of .*, but got {precision}; use --precision fp32"):
            runtime.check_precision(precision, "cpu")
    else:
        runtime.check_precision(precision, "cpu")


@pytest.mark.parametrize("name", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_gpu_s_blocks_may_grow_unless_the_user_has_set_the_allocator(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    for known in hardware.ALLOCATOR:
        monkeypatch.delenv(known, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "max_split_size_mb:64")
    run.settle_process()
    found = {known: os.environ[known] for known in hardware.ALLOCATOR if known in os.environ}
    assert found == (
        {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if name is None else {name: "max_split_size_mb:64"}
    )


def test_loading_for_a_sweep_flushes_denormals() -> None:
    task, located = tasks.get("demo"), models.locate("tiny-roberta")
    data = tasks.load(task, None)
    assert isinstance(data, TextData)
    shared = {
        "task": "demo", "model": "tiny-roberta", "data_hash": "", "model_hash": "",
        "budget": TrainBudget(max_steps=1, eval_steps=1),
    }  # fmt: skip
    default = targets.default_targets(located.model_type)
    trial = study.make_trial("lora", {"seed": 0, "eta_A": 1e-3}, shared=shared, default_targets=default)
    tiny = torch.full((64,), 1e-39)
    assert (tiny * 0.5).all()
    runtime.load_for(trial, task=task, data=data, located=located)
    assert not (tiny * 0.5).any()
