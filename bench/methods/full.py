"""Full fine-tuning: every pretrained weight is trained at eta_A, one trial at a time."""

from __future__ import annotations

from collections.abc import Hashable

from bench.methods._base import Method
from bench.spec import Trial


class Full(Method):
    """No adapter. The base is not frozen, so nothing can be shared and a pack holds one trial."""

    name = "full"
    label = "full fine-tuning"
    reads = frozenset()
    trains_base = True

    def pack_key(self, trial: Trial) -> Hashable:
        """Unlike every other trial's."""
        return ("full", trial.trial_id)


METHOD = Full()
