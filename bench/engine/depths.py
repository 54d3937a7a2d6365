"""How deep a parameter lies: layers are counted from the top one, 1, down; embeddings lie below them all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from torch import nn

from bench.core.spec import Trial
from bench.engine.params import Slot

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")


def with_depths(slots: Sequence[Slot], model: nn.Module, head: Collection[str], trials: Sequence[Trial]) -> list[Slot]:
    """Return the slots with their depths, where some trial's rates fall with it (layer_decay)."""
    if all(trial.layer_decay == 1 for trial in trials):
        return list(slots)
    own = [name for name, _ in model.named_parameters() if name not in head]
    n_layers, below = 1 + max((_layer(name) or 0 for name in own), default=0), _below(own)

    def depth(slot: Slot) -> int:
        if slot.name in head:
            return 0
        layer = _layer(slot.name)
        if layer is not None:
            return n_layers - layer
        return n_layers + 1 if slot.name.rpartition(".")[0] in below else 0

    return [replace(slot, depth=depth(slot)) for slot in slots]


def trained_base(names: Iterable[str], layers: Collection[int] | None) -> list[str]:
    """Return which of a base's parameters full fine-tuning trains: all, or these layers and what lies above them."""
    own = list(names)
    if layers is None:
        return own
    below = _below(own)

    def is_trained(name: str) -> bool:
        layer = _layer(name)
        return layer in layers if layer is not None else name.rpartition(".")[0] not in below

    return [name for name in own if is_trained(name)]


def _layer(name: str) -> int | None:
    """Return the first number in a parameter's path: that of its layer."""
    found = _NUMBER.search(name)
    return None if found is None else int(found[1])


def _below(names: Sequence[str]) -> set[str]:
    """Return the modules, in the model's order, that come before the first layer: the embeddings."""
    first = next((place for place, name in enumerate(names) if _layer(name) is not None), 0)
    return {name.rpartition(".")[0] for name in names[:first]}
