"""A precision is refused before anything trains where engine or device lack it."""

from __future__ import annotations

import pytest
import torch

from bench import runtime
from bench.errors import BadInput


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
