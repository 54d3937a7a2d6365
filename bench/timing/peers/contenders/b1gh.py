"""B1gh: B1g whose frozen weights are held in bf16 themselves, so that autocast need not cast them at every use.

The adapters and the head stay in fp32, as PEFT keeps adapters of a bf16 model.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from bench.core.spec import Precision
from bench.timing.peers.contenders.b1g import Grouped


class HalfWeights(Grouped):
    """Batches of similar length, bf16 weights."""

    label = "B1gh Trainer + PEFT, group_by_length, frozen weights in bf16"
    precisions: ClassVar[tuple[Precision, ...]] = ("bf16",)
    frozen_dtype = torch.bfloat16


CONTENDER = HalfWeights()
