"""LoRA+: LoRA whose B learns lambda times faster, eta_B = lambda * eta_A (Hayou et al. 2024, arXiv:2402.12354)."""

from __future__ import annotations

from typing import ClassVar

from bench.methods.lora import LoRA


class LoRAPlus(LoRA):
    """LoRA in everything but the learning rates; embedding adapters have one of their own."""

    name = "lora+"
    label = "LoRA+"
    looks: ClassVar = {None: (3, "s")}
    place = 1
    source = "arXiv:2402.12354"
    reads = LoRA.reads | {"loraplus_lr_embedding"}
    at_equal_rates = LoRA.name
    timed = ({"lr_ratio": 16.0},)


METHOD = LoRAPlus()
