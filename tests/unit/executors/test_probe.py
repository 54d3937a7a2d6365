"""What a probe of pack sizes measures: the work of a step, not what else the machine does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bench.core.spec import Pack
from bench.engine.loop import Loop
from bench.executors import runtime
from tests.support.engine_helpers import budget, member, random_data, tiny_model

WAITED = 3.0  # s in each step; a step of this model computes for milliseconds


def test_on_a_cpu_waiting_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step during which others have the processor takes no longer: else a busy machine would choose pack sizes."""
    plain = Loop.step

    def step(loop: Loop, batch: Any) -> None:
        time.sleep(WAITED)
        plain(loop, batch)

    monkeypatch.setattr(Loop, "step", step)
    pack = Pack(trials=(member("lora", budget=budget(max_steps=3, eval_steps=3)),))
    found = runtime._probe(pack, (random_data(), tiny_model()), device="cpu", checkpoints=lambda trial: False)
    assert 0 < found < WAITED
