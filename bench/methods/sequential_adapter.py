"""Sequential adapter: h + up(act(down(h))) behind a layer (Houlsby et al. 2019, arXiv:1902.00751, section 2.1).

Houlsby: target_modules are the two output projections of a block; Pfeiffer et al. (2021, arXiv:2005.00247): the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bench.methods._base import LayerShape
from bench.methods._bottleneck import Bottleneck

if TYPE_CHECKING:
    from torch import Tensor


class SequentialAdapter(Bottleneck):
    """Sees what the frozen layer puts out, before the model's dropout; LayerNorms and biases stay frozen."""

    name = "sequential-adapter"
    label = "sequential adapter"
    looks: ClassVar = {None: (19, "X")}
    place = 8
    source = "arXiv:1902.00751"
    adds = False

    def n_in(self, shape: LayerShape) -> int:
        """The layer's outputs."""
        return shape.out_features

    def output(
        self, params: Mapping[str, Tensor], constants: Mapping[str, Any], h: Tensor, x: Tensor, *, dropped: bool = False
    ) -> Tensor:
        """h + up(act(down(h)))."""
        return h + self.delta(self.computed(params, constants, h), constants, h)


METHOD = SequentialAdapter()
