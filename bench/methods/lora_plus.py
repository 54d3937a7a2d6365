"""LoRA+: LoRA whose B learns lambda times faster, eta_B = lambda * eta_A (Hayou et al. 2024, arXiv:2402.12354)."""

from __future__ import annotations

from bench.methods.lora import LoRA


class LoRAPlus(LoRA):
    """LoRA in everything but the learning rates; embedding adapters have one of their own."""

    name = "lora+"
    label = "LoRA+"
    reads = LoRA.reads | {"loraplus_lr_embedding"}


METHOD = LoRAPlus()
