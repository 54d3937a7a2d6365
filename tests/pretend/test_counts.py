"""What a training step takes on a GPU, counted without one: tensors that say cuda:0 and have shapes, but no data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench.engine.sizes import Shape, shape_of
from bench.schedule import planner
from tests.pretend import stub

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = stub.why_not()
pytestmark = [pytest.mark.pretend, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
ENCODER = Shape(n_layers=12, hidden_size=768, train_tokens=14.1, n_weights=124_645_632)
DECODER = shape_of(
    {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "vocab_size": 32000,
    },
    is_decoder=True, train_tokens=256,
)  # fmt: skip


def counted(case: str) -> dict[str, Any]:
    """Return what a case takes, counted in a process of its own, into which the stub is loaded."""
    made = stub.compiled(Path(tempfile.gettempdir()) / f"lorasweep-stub-{os.getuid()}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretend.count", str(made), case], cwd=ROOT, capture_output=True, text=True,
        timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_step_of_64_trials_of_roberta_base_launches_few_kernels() -> None:
    """A look at every layer's masks alone would launch more: they come out of a few hashes."""
    found = counted("lora-64")
    assert (found["path"], found["n_chunks"]) == ("unpadded", 2)
    assert found["kernels"] <= 2500
    assert found["moved_bytes"] <= 101e9
    assert found["by_operation"].get("nonzero", 0) == found["by_operation"].get("_local_scalar_dense", 0) == 0


def test_triton_s_kernels_spare_a_third_of_launches_and_a_quarter_of_bytes() -> None:
    """60 % of the 121 GB that a step moved at first."""
    found = counted("lora-64-kernels")
    assert (found["path"], found["n_chunks"]) == ("unpadded", 2)
    launched = {name: n for name, n in found["by_operation"].items() if "." in name}
    assert set(launched) == {
        "attention.forward_kernel", "attention.backward_kernel", "norm.forward_kernel", "norm.backward_kernel",
        "masks.masks_kernel",
    }  # fmt: skip
    assert launched["norm.forward_kernel"] == launched["norm.backward_kernel"] == 2 * 12 * 2
    assert found["kernels"] <= 1650
    assert found["moved_bytes"] <= 0.6 * 121e9


@pytest.mark.slow
def test_a_recorded_step_moves_as_much_and_its_fillers() -> None:
    found = counted("lora-64-recorded")
    assert found["kernels"] <= 1650
    assert found["moved_bytes"] <= 1.1 * 0.6 * 121e9


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lora-32", "lora-64", "full-8", "llama-1", "llama-1-all", "llama-4"])
def test_the_memory_that_is_planned_is_within_a_quarter_of_what_lives(case: str) -> None:
    """Beside the base, whose bytes would hide errors; of decoders, each tensor of which is reckoned, within a tenth."""
    from tests.pretend.count import CASES, trials_of

    found, one = counted(case), CASES[case]
    trial, n = trials_of(one)[0], one.n_trials
    of_base = 2 * (ENCODER.n_weights if one.base == "roberta-base" else 6_738_415_616)
    planned = (
        planner.gpu_encoder_bytes(trial, ENCODER, n)
        if one.base == "roberta-base"
        else planner.decoder_bytes(trial, DECODER, n, on_cpu=False, checkpointed=one.checkpoints)
    )
    within = 0.25 if one.base == "roberta-base" else 0.1
    assert planned == pytest.approx(found["peak_bytes"] - of_base, rel=within)
