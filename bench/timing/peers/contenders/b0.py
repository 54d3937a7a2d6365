"""B0: Trainer + PEFT padded to 128 tokens, as the LoRA+ paper's script does by its default pad_to_max_length."""

from __future__ import annotations

from bench.timing.peers.contenders._peer import Peer
from bench.timing.peers.work import Work

SHARE_OF_STEPS = 8  # a step costs the same whatever its texts, so fewer of them tell as much


class Padded(Peer):
    """Every row has 128 tokens."""

    label = "B0 Trainer + PEFT, padded to 128"
    pads_to_fixed_length = True

    def n_steps(self, work: Work) -> int:
        """Return an eighth of the steps."""
        return max(2, work.steps // SHARE_OF_STEPS)


CONTENDER = Padded()
