"""B1g: Trainer + PEFT with group_by_length, the strongest practical baseline: padding is a few percent.

It changes which examples share a batch. Its evaluation is grouped as well, in batches of the training size.
"""

from __future__ import annotations

from bench.timing.peers.contenders._peer import Peer


class Grouped(Peer):
    """Batches of similar length."""

    label = "B1g Trainer + PEFT, group_by_length"
    strategy = "group_by_length"
    eval_batch_size = None


CONTENDER = Grouped()
