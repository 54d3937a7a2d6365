"""A precision is refused before anything trains where engine or device lack it."""

from __future__ import annotations

import pytest
import torch

from bench import runtime
from bench.errors import BadInput


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"--precision: must be one the engine has, but got fp16; known: .*fp32"):
        runtime.check_precision("fp16", "cpu")


@pytest.mark.parametrize(("has", "refused"), [({}, True), ({"avx512_bf16": True}, False), ({"amx_bf16": True}, False)])
def test_bf16_needs_a_cpu_that_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], refused: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    if refused:
        with pytest.raises(BadInput, match="use --precision fp32"):
            runtime.check_precision("bf16", "cpu")
    else:
        runtime.check_precision("bf16", "cpu")
