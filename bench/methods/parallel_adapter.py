"""Parallel adapter: h + up(act(down(x))) beside a layer (He et al. 2022, arXiv:2110.04366, section 3.3).

He et al. put it beside a whole feed-forward sub-layer; here it stands beside each Linear that target_modules names, so
that it is LoRA with biases and an activation between its factors.
"""

from __future__ import annotations

from typing import ClassVar

from bench.methods._base import LayerShape
from bench.methods._bottleneck import Bottleneck


class ParallelAdapter(Bottleneck):
    """Sees the frozen layer's input, so both can be computed at once."""

    name = "parallel-adapter"
    label = "parallel adapter"
    looks: ClassVar = {None: (18, "P")}
    place = 8
    source = "arXiv:2110.04366"

    def n_in(self, shape: LayerShape) -> int:
        """The layer's inputs."""
        return shape.in_features


METHOD = ParallelAdapter()
