"""Dropout whose mask depends on nothing but its key: (seed, step, module, example, position, feature).

So chunking, pack size and engine path never change a mask, and all trials of a pack share it: their cells are paired
and the mask is drawn once. The uniform numbers are a counter-based hash (the finaliser of splitmix64, Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators", applied to the key), the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.core.seeds import derive
from bench.engine import hardware, kernels
from bench.engine.trial_rows import TrialRows

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number, splitmix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_MOST_BYTES = 1 << 28  # of the hash of masks that are drawn together
_LEVELS = 1 << 16  # a probability is rounded to 1/65536: four uniform numbers come out of one hash


_Call = tuple[str, int]  # a module and how often it was called before in the chunk
_Kind = tuple[int, int | None, float, torch.dtype]  # which rows, features (None: as many as there are), p, dtype


@dataclass(kw_only=True, slots=True)
class Together:
    """The masks that a chunk's modules draw, by kind: those of one kind come out of one hash, on a GPU few kernels.

    Which will be asked for, the chunk before tells. Whether it was right does not matter: a mask depends on its key
    alone, and one that was not foreseen is drawn by itself.
    """

    expected: dict[_Kind, list[_Call]] = field(default_factory=dict)
    asked: dict[_Kind, list[_Call]] = field(default_factory=dict)
    ready: dict[tuple[_Kind, int, _Call], Tensor] = field(default_factory=dict)  # by kind, features and call
    rows: list[Tensor] = field(default_factory=list)  # the keys of this chunk, in the order of their first use

    def start_chunk(self, rows: Sequence[Tensor]) -> None:
        """Forget the last chunk's masks; expect that this one's modules ask as the last one's did."""
        if self.asked:
            self.expected = self.asked
        self.asked, self.ready, self.rows = {}, {}, list(rows)

    def kind_of(self, p: float, key: Tensor, n_features: int, dtype: torch.dtype) -> _Kind:
        """Return the kind of a mask; rows that are neither tokens nor first tokens are attention's, of one width."""
        place = next((i for i, known in enumerate(self.rows) if known is key), None)
        if place is None:
            place = len(self.rows)
            self.rows.append(key)
        return place, n_features if place < 2 else None, p, dtype

    def due(self, kind: _Kind, call: _Call, most: int) -> list[_Call]:
        """Return the calls, this one first, whose masks are to be drawn now: `most` of them at most."""
        self.asked.setdefault(kind, []).append(call)
        expected = self.expected.get(kind, [])
        later = expected[expected.index(call) + 1 :] if call in expected else []
        return [call, *later[: max(0, most - 1)]]


class Salts:
    """The salts of a recorded chunk's masks, in device memory: a replay finds those of its own step there."""

    MOST = 1024  # calls of a chunk

    def __init__(self, device: torch.device) -> None:
        self._salts = torch.zeros(self.MOST, dtype=torch.int64, device=device)
        self._calls: list[_Call] = []

    def from_the_start(self) -> Salts:
        """Forget which calls have a place."""
        self._calls = []
        return self

    def take(self, calls: Sequence[_Call]) -> Tensor:
        """Return where the salts of these calls will be: [L]."""
        start = len(self._calls)
        self._calls += calls
        if len(self._calls) > self.MOST:
            raise RuntimeError(f"a chunk draws more than {self.MOST} masks")
        return self._salts[start : start + len(calls)]

    def fill(self, keys: MaskKeys) -> None:
        """Put in the salts of the step at hand."""
        self._salts[: len(self._calls)].copy_(keys.salts_now(self._calls, self._salts.device))


class MaskKeys:
    """Whose masks are drawn now: the seed, the step, and the example and position of each row of the chunk in hand.

    `training` is False while evaluating: then no mask is drawn. `token_key` is set by the engine's path for each
    chunk: one 64-bit number for each token of the chunk, in the path's own layout ([b, T] padded, [N] unpadded, [1, N]
    packed). `lengths` are those of the examples of a packed stream, whose rows are trials; None: rows are K * b.
    """

    def __init__(self, seed: int, *, n_trials: int = 1) -> None:
        self.seed, self.n_trials = seed, n_trials
        self.step = 0
        self.training = False
        self.token_key: Tensor | None = None
        self.first_key: Tensor | None = None  # [b]: the keys of the first tokens
        self.lengths: tuple[int, ...] | None = None
        self.table_trial: int | None = None  # whose turn it is with a table that all rows share
        self.rows: TrialRows | None = None  # where trials have unequally many rows, while texts are generated
        self.together: Together | None = None  # None: each mask is drawn by itself, which keeps less memory
        self.salts: Salts | None = None  # where the salts lie while a chunk is recorded
        self._calls: dict[str, int] = {}

    def start_chunk(self, token_key: Tensor, first_key: Tensor) -> None:
        """Set the rows of the chunk in hand; modules that are called twice in it get two different masks.

        `token_key` is int64 in the path's own layout, `first_key` [b] the keys of the examples' first tokens; of a
        packed stream, whose rows are trials, [1, N] and [1].
        """
        self.token_key, self.first_key = token_key, first_key
        self._calls = {}
        if self.together is not None:
            self.together.start_chunk((token_key, first_key))

    @contextmanager
    def stream_of(self, lengths: tuple[int, ...]) -> Iterator[None]:
        """Let modules see a packed stream of examples of these lengths while inside."""
        self.lengths = lengths
        try:
            yield
        finally:
            self.lengths = None

    @contextmanager
    def of_rows(
        self, token_key: Tensor, first_key: Tensor, lengths: tuple[int, ...] | None, calls: dict[str, int]
    ) -> Iterator[None]:
        """Draw masks for other rows than the chunk's while inside, and as if only `calls` had been made."""
        kept = self.token_key, self.first_key, self.lengths, self._calls, self.together
        self.token_key, self.first_key, self.lengths, self._calls = token_key, first_key, lengths, dict(calls)
        self.together = None
        try:
            yield
        finally:
            self.token_key, self.first_key, self.lengths, self._calls, self.together = kept

    @property
    def calls(self) -> dict[str, int]:
        """How often each module has drawn a mask in the chunk in hand: a copy, for `of_rows`."""
        return dict(self._calls)

    def salt(self, path: str) -> int:
        """Return what the masks of the module at `path` are keyed by in this call of it, beside their rows.

        Raises:
            RuntimeError: while a chunk is recorded, which would keep it for all steps to come.
        """
        return self._salt_of(self._call(path))

    def salt_on(self, path: str, device: torch.device) -> Tensor:
        """Return what `salt` does, on the device, where a recorded chunk reads it again: [1], int64."""
        return self.salts_of([self._call(path)], device)

    def _call(self, path: str) -> _Call:
        n = self._calls.get(path, 0)
        self._calls[path] = n + 1
        return path, n

    def _salt_of(self, call: _Call) -> int:
        self.refuse_while_recorded()
        return derive("dropout", self.seed, self.step, *call)

    def salts_of(self, calls: Sequence[_Call], device: torch.device) -> Tensor:
        """Return the salts of the calls on the device: [L], int64."""
        return self.salts_now(calls, device) if self.salts is None else self.salts.take(calls)

    def salts_now(self, calls: Sequence[_Call], device: torch.device) -> Tensor:
        """Return the salts of this step: [L], int64."""
        salts = [self._salt_of(call) for call in calls]
        if len(salts) == 1:
            return torch.full((1,), salts[0], device=device)  # a kernel, where torch.tensor would be a copy
        return hardware.sent(torch.tensor(salts), device)

    def refuse_while_recorded(self) -> None:
        """Raise RuntimeError while a chunk is recorded: what depends on the step would be kept for all to come."""
        if self.salts is not None:
            raise RuntimeError("a mask by this step's salt cannot be recorded")

    @contextmanager
    def salted_by(self, salts: Salts) -> Iterator[None]:
        """Take salts from where later steps will put theirs while inside."""
        self.salts = salts.from_the_start()
        try:
            yield
        finally:
            self.salts = None

    @contextmanager
    def table_of(self, trial: int) -> Iterator[None]:
        """Let adapted layers take a table [1, P, d] without rows, for one trial, instead of the rows of all."""
        self.table_trial = trial
        try:
            yield
        finally:
            self.table_trial = None

    def mask(self, path: str, p: float, key: Tensor, n_features: int, dtype: torch.dtype) -> Tensor:
        """Return the mask of the module at `path`: 0 or 1 / (1 - p), [*key.shape, n_features].

        A feature's number does not depend on n_features, so a wider mask begins with the narrower one.
        """
        call = self._call(path)
        if self.together is None:
            return keyed_mask(self._salt_of(call), p, key, n_features, dtype)  # never recorded
        kind = self.together.kind_of(p, key, n_features, dtype)
        if (kind, n_features, call) in self.together.ready:
            self.together.due(kind, call, 1)
            return self.together.ready.pop((kind, n_features, call))
        words = key.numel() * -(-n_features // 4)
        calls = self.together.due(kind, call, _MOST_BYTES // (8 * words))
        masks = keyed_masks(self.salts_of(calls, key.device), p, key, n_features, dtype)
        later = ((kind, n_features, one) for one in calls[1:])
        self.together.ready.update(zip(later, masks[1:], strict=True))
        return masks[0]


def token_key(example: Tensor, position: Tensor) -> Tensor:
    """Return one 64-bit number for each (example, position); both int64, their shapes broadcast."""
    return _mix(example * _GOLDEN + _mix(position + 1))


def keyed_mask(salt: int, p: float, key: Tensor, n_features: int, dtype: torch.dtype) -> Tensor:
    """Return 0 with probability p, else 1 / (1 - p), for each key and feature: [*key.shape, n_features].

    p in [0, 1] is rounded to a multiple of 2^-16 (each word of the hash gives four features), and the scale follows
    the rounded one.
    """
    if kernels.used("masks", key.device):
        (mask,) = _by_kernel(torch.full((1,), salt, device=key.device), p, key, n_features, dtype)
        return mask
    return _drawn(key + salt, p, n_features, dtype)


def keyed_masks(salts_L: Tensor, p: float, key: Tensor, n_features: int, dtype: torch.dtype) -> Sequence[Tensor]:
    """Return `keyed_mask` of each salt, out of one hash."""
    if kernels.used("masks", key.device):
        return _by_kernel(salts_L, p, key, n_features, dtype).unbind()
    return _drawn(key + salts_L.view(-1, *[1] * key.ndim), p, n_features, dtype).unbind()


def _drawn(salted: Tensor, p: float, n_features: int, dtype: torch.dtype) -> Tensor:
    """Return the masks of keys with their salts: [*salted.shape, n_features]."""
    n_words = -(-n_features // 4)
    word = torch.arange(1, n_words + 1, device=salted.device, dtype=torch.int64) * _GOLDEN
    hashed = _mix(_mix(salted)[..., None] + word)
    uniform = hashed.view(torch.int16)[..., :n_features]
    threshold, scale = threshold_and_scale(p)
    return (uniform >= threshold).to(dtype).mul_(scale)


def _by_kernel(salts_L: Tensor, p: float, key: Tensor, n_features: int, dtype: torch.dtype) -> Tensor:
    """Return what `_drawn` does of key + salt, [L, *key.shape, n_features]; float64 is drawn by torch's operations."""
    if dtype == torch.float64:
        return _drawn(key + salts_L.view(-1, *[1] * key.ndim), p, n_features, dtype)
    from bench.engine.kernels import masks

    return masks.draw(key, salts_L, *threshold_and_scale(p), n_features, dtype)


def threshold_and_scale(p: float) -> tuple[int, float]:
    """Return the least signed 16-bit number that keeps a feature, and what the feature is multiplied by then."""
    dropped = round(p * _LEVELS)
    if dropped == _LEVELS:  # as nn.Dropout(1): nothing is left, and nothing to scale
        return _LEVELS // 2 - 1, 0.0
    return dropped - _LEVELS // 2, _LEVELS / (_LEVELS - dropped)


def _mix(x: Tensor) -> Tensor:
    """Return splitmix64's finaliser of each 64-bit number."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, n: int) -> Tensor:
    """Return x >> n as unsigned numbers: torch's shift of int64 drags the sign along."""
    return (x >> n) & ((1 << (64 - n)) - 1)


class KeyedDropout(nn.Module):
    """Stands in for nn.Dropout in a model whose rows are K trials times the chunk's examples.

    Takes [K*b, d] (rows of first tokens), [K*b, T, d] or [K*b*T, d] (padded tokens) or [K*b, H, T, T] (attention
    weights).
    """

    def __init__(self, p: float, path: str, keys: MaskKeys) -> None:
        super().__init__()
        self.p, self.path, self.keys = p, path, keys

    def forward(self, x: Tensor) -> Tensor:
        """Return x times its mask while training, x otherwise."""
        if not self.keys.training or self.p == 0:
            return x
        return drop_rows(x, self.p, self.path, self.keys)


class KeyedCalls(TorchFunctionMode):
    """While entered, torch.nn.functional.dropout draws the keyed mask: OPT drops by calls of it, not by modules.

    The calls of one forward pass are told apart by their order. Everything else goes on as it is.
    """

    def __init__(self, keys: MaskKeys) -> None:
        super().__init__()
        self.keys = keys

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return func(*args, **kwargs), or the keyed mask's product in its place."""
        if func is not torch.nn.functional.dropout:
            return func(*args, **(kwargs or {}))
        return self._drop(*args, **(kwargs or {}))

    def _drop(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return drop_rows(input, p, "functional", self.keys) if training and p > 0 else input


def drop_rows(x: Tensor, p: float, path: str, keys: MaskKeys) -> Tensor:
    """Return x [K*b, ...] times the mask of its b examples, the same for each of the K trials."""
    token, first = keys.token_key, keys.first_key
    if token is None or first is None:
        raise RuntimeError("start_chunk comes before the forward pass")
    b = first.shape[0]
    if keys.lengths is not None:
        return _drop_packed(x, p, path, keys, token)
    if x.ndim == 2 and x.shape[0] != keys.n_trials * b and x.shape[0] == keys.n_trials * token.numel():
        mask = keys.mask(path, p, token.flatten(), x.shape[-1], x.dtype)  # OPT flattens [K*b, T, d] to [K*b*T, d]
        return (x.unflatten(0, (keys.n_trials, -1)) * mask).flatten(0, 1)
    if x.ndim == 2:
        mask = keys.mask(path, p, first, x.shape[-1], x.dtype)
    elif x.ndim == 3:
        mask = keys.mask(path, p, token, x.shape[-1], x.dtype)
    elif x.ndim == 4:
        mask = attention_mask_of(keys, path, p, token, n_heads=x.shape[1], n_keys=x.shape[3], dtype=x.dtype)
    else:
        raise ValueError(f"dropout on {x.ndim} dimensions at {path}: 2, 3 and 4 are known")
    return (x.unflatten(0, (-1, b)) * mask).flatten(0, 1)


def _drop_packed(x: Tensor, p: float, path: str, keys: MaskKeys, token_1xN: Tensor) -> Tensor:
    """Return x [S, N, d], or its rows [S*N, d], times the mask of its tokens; S is 1 or K."""
    if x.ndim not in (2, 3):
        raise ValueError(f"dropout on {x.ndim} dimensions of a packed stream at {path}: 2 and 3 are known")
    mask = keys.mask(path, p, token_1xN, x.shape[-1], x.dtype)
    return (x.reshape(-1, *mask.shape[1:]) * mask).view(x.shape)


def drop_table(x: Tensor, p: float, path: str, keys: MaskKeys) -> Tensor:
    """Return x [..., P, d], a table that all examples share, times a mask keyed by the place in it."""
    if not keys.training or p == 0:
        return x
    nowhere = torch.full((), -1, device=x.device)  # a kernel, where torch.tensor would be a copy from the host
    place = token_key(nowhere, torch.arange(x.shape[-2], device=x.device))
    keys.refuse_while_recorded()
    salt = derive("dropout", keys.seed, keys.step, path, "table")
    return x * keyed_mask(salt, p, place, x.shape[-1], x.dtype)


def attention_mask_of(
    keys: MaskKeys, path: str, p: float, query_key: Tensor, *, n_heads: int, n_keys: int, dtype: torch.dtype
) -> Tensor:
    """Return the dropout mask of attention weights: [b, H, Q, n_keys] for query keys [b, Q].

    The feature of (head h, key position j) is j * H + h, so that padding, which adds key positions, changes nothing.
    """
    return _by_head(keys.mask(path, p, query_key, n_keys * n_heads, dtype), n_keys, n_heads)


def attention_mask_by(
    salt: int, p: float, query_key: Tensor, *, n_heads: int, n_keys: int, dtype: torch.dtype
) -> Tensor:
    """Return what `attention_mask_of` does, for one call's salt: a call may make its mask in several parts."""
    return _by_head(keyed_mask(salt, p, query_key, n_keys * n_heads, dtype), n_keys, n_heads)


def _by_head(flat_bxQxF: Tensor, n_keys: int, n_heads: int) -> Tensor:
    return flat_bxQxF.unflatten(-1, (n_keys, n_heads)).permute(0, 3, 1, 2)
