"""MiLoRA: LoRA that starts from the r smallest singular values of the weight (Wang et al. 2024, arXiv:2406.09044)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bench.methods.lora import LoRA


class MiLoRA(LoRA):
    """LoRA with init "milora", as a method of its own: so that comparisons tune it and name it apart."""

    name = "milora"
    label = "MiLoRA"
    looks: ClassVar = {None: (15, "<")}
    place = 7
    source = "arXiv:2406.09044"
    reads = LoRA.reads - {"init"}
    own_init = name
    adapts_embeddings = False
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)


METHOD = MiLoRA()
