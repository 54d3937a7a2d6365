"""OLoRA: LoRA that starts from the first r columns and rows of the weight's Q R (Büyükakyüz 2024, arXiv:2406.01775)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bench.methods.lora import LoRA


class OLoRA(LoRA):
    """LoRA with init "olora", as a method of its own: so that comparisons tune it and name it apart."""

    name = "olora"
    label = "OLoRA"
    looks: ClassVar = {None: (14, "^")}
    place = 7
    source = "arXiv:2406.01775"
    reads = LoRA.reads - {"init"}
    own_init = name
    adapts_embeddings = False
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)


METHOD = OLoRA()
