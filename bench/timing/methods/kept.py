"""How many bytes a forward pass keeps for the backward pass: each saved tensor's storage once, weights left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def kept_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """Return the bytes that autograd keeps alive after `forward`, whose result it holds until they are counted.

    Two tensors of one storage count once; the storages of `weights` not at all, since they are there anyway. What a
    custom function keeps beside save_for_backward (index tables here) is not seen.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in weights}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # the tensor is held as well: no other may get its address before all is counted
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    total = sum(size for size, _ in kept.values())
    del result
    return total
