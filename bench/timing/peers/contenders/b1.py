"""B1: Trainer + PEFT with dynamic padding, random batches: what a careful user runs."""

from __future__ import annotations

from bench.timing.peers.contenders._peer import Peer


class Dynamic(Peer):
    """Rows are padded to the longest of their batch; evaluation is Trainer's default, batches of 8."""

    label = "B1 Trainer + PEFT, dynamic padding"


CONTENDER = Dynamic()
