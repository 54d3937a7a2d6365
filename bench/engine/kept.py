"""Keys and values that are kept while texts are generated, for rows that come and go.

Rows end in the same column, whatever their lengths: row r's keys are the last ones of its layer's columns, what lies
before them is zero and is not seen. A step then adds one column for all rows, windows and relative positions keep their
distances, and transformers makes its own masks from which columns are seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

ROOM = 32  # columns that are added at least, where they run out


class KeptLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, [R, H, L, d], in buffers with room: a step writes a column and copies nothing."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with the prompts' keys and values, without room."""
        self.hold(key_states, value_states, key_states.shape[-2])

    def hold(self, keys: Tensor, values: Tensor, length: int) -> None:
        """Take these buffers, of which `length` columns are filled."""
        self.keys, self.values, self.length, self.is_initialized = keys, values, length, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add columns; return all keys and values there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None
        assert self.values is not None
        stop = self.length + key_states.shape[-2]
        if stop > self.keys.shape[-2]:
            more = max(stop - self.keys.shape[-2], ROOM, self.length // 4)
            self.keys, self.values = (_widened(x, more) for x in (self.keys, self.values))
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns a mask has, and the first of them."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the filled columns."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: there is no most."""
        return -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some rows of a cache, of which the last `length` columns are kept; `rows` None: all of them."""

    cache: Cache
    rows: Tensor | None
    length: int


def fresh() -> Cache:
    """Return a cache that holds nothing."""
    return Cache(layer_class_to_replicate=KeptLayer)


def joined(parts: Sequence[Part]) -> Cache:
    """Return one cache of all rows of the parts, in order, with room for ROOM columns.

    The parts lose their layers one by one, so that only one layer is held twice.
    """
    whole = fresh()
    for i in range(len(parts[0].cache.layers)):
        keys, values = ([_last(part, i, name) for part in parts] for name in ("keys", "values"))
        layer = KeptLayer()
        layer.hold(_stacked(keys), _stacked(values), max(part.length for part in parts))
        whole.layers.append(layer)
        for part in parts:
            part.cache.layers[i].keys = part.cache.layers[i].values = None
    return whole


def _last(part: Part, i: int, name: str) -> Tensor:
    layer = part.cache.layers[i]
    tensor: Tensor = getattr(layer, name)[:, :, layer.length - part.length : layer.length]
    return tensor if part.rows is None else tensor[part.rows]


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    rows, width = sum(len(part) for part in parts), max(part.shape[2] for part in parts)
    _, heads, _, size = parts[0].shape
    whole, start = parts[0].new_zeros(rows, heads, width + ROOM, size), 0
    for part in parts:
        whole[start : start + len(part), :, width - part.shape[2] : width] = part
        start += len(part)
    return whole


def _widened(x: Tensor, more: int) -> Tensor:
    wide = x.new_zeros(*x.shape[:2], x.shape[2] + more, x.shape[3])
    wide[:, :, : x.shape[2]] = x
    return wide
