"""PiSSA: LoRA that starts from the r largest singular values of the weight (Meng et al. 2024, arXiv:2404.02948)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bench.methods.lora import LoRA


class PiSSA(LoRA):
    """LoRA with init "pissa", as a method of its own: so that comparisons tune it and name it apart."""

    name = "pissa"
    label = "PiSSA"
    looks: ClassVar = {None: (16, "D")}
    place = 7
    source = "arXiv:2404.02948"
    reads = LoRA.reads - {"init"}
    own_init = name
    adapts_embeddings = False
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)


METHOD = PiSSA()
