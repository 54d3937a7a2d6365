"""Full fine-tuning: every pretrained weight is trained at eta_A."""

from __future__ import annotations

from typing import ClassVar

from bench.methods._base import Method


class Full(Method):
    """No adapter. The base is not frozen, so K trials are K models side by side, which pays on a GPU only.

    With layers_to_transform the other layers and the embeddings stay frozen.
    """

    name = "full"
    label = "full fine-tuning"
    looks: ClassVar = {None: (7, "D")}
    place = 3
    reads = frozenset({"layers_to_transform"})
    trains_base = True
    timed = ({},)


METHOD = Full()
