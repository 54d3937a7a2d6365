"""Head only: the pretrained weights stay as they are, the new classifier learns. The floor that adapters must clear."""

from __future__ import annotations

from typing import ClassVar

from bench.methods._base import Method


class Head(Method):
    """No adapter and no pretrained weight is trained; the head's rate follows head_policy, eta_A by default."""

    name = "head"
    label = "head only"
    looks: ClassVar = {None: (6, "*")}
    reads = frozenset()


METHOD = Head()
