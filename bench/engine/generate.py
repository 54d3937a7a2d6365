"""Greedy generation of K trials at once: each token is the likeliest after the prompt and the tokens before it.

`ragged`: rows are (trial, example) pairs with prompts of any lengths, in full batches. Each row stops on its own; where
enough have stopped the others move together and the next prompts take the room, so a finished row costs little. Trials
need not have equally many rows: one that writes to the limit does not hold up one that stops early.

`equal`: examples go together whose prompts are equally long, so that nothing is padded: for architectures in which
a row's logits depend on the padding before it, or that keep more than keys and values (`guard.ragged_problem`).

Both keep keys and values from step to step. A trial alone generates the same, up to float order.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from bench.engine import kept
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.kept import Part
from bench.engine.paths import BankPath
from bench.engine.trial_rows import TrialRows

Ints = npt.NDArray[np.int64]
TURN = 4  # rows move where a quarter of them would be new, or has stopped
PADDING = 1.1  # most computed tokens of prompts over real ones, in a group of more than LEAST tokens
LEAST = {"cpu": 256, "cuda": 8192, "mps": 1024}  # tokens that are hardly slower than fewer; of GPUs by reckoning


def ragged(bank: Bank, split: Batches, *, end_id: int, limit: int, max_tokens: int) -> list[list[list[int]]]:
    """Return what each trial writes after each prompt, [K][N] token ids before the end token, at most `limit`.

    `max_tokens` bounds rows times the columns that they may come to: prompt and limit.
    """
    return Ragged(bank, split, end_id=end_id, limits_N=np.full(split.n, limit), max_tokens=max_tokens).written()


class Ragged:
    """Rows in flight, and the (trial, example) pairs that wait for a place, short prompts first."""

    def __init__(self, bank: Bank, split: Batches, *, end_id: int, limits_N: Ints, max_tokens: int) -> None:
        assert split.prompt_lengths is not None
        self.bank, self.split, self.end_id, self.max_tokens = bank, split, end_id, max_tokens
        self.prompts_N, self.limits_N = split.prompt_lengths, limits_N
        by_length = np.argsort(self.prompts_N, kind="stable")
        self.waiting_Qx2 = np.stack([np.tile(np.arange(bank.n_trials), split.n), by_length.repeat(bank.n_trials)], 1)
        self.trial_R, self.place_R = (np.zeros(0, dtype=np.int64) for _ in range(2))
        self.stopped_R = np.zeros(0, dtype=np.bool_)
        self.made: list[list[list[int]]] = [[[] for _ in range(split.n)] for _ in range(bank.n_trials)]
        self.cache, self.next_R, self.length_R = kept.fresh(), *(self._on(np.zeros(0, dtype=np.int64)),) * 2
        self.takes = takes_of(bank.model)
        self.steps = self.row_steps = 0  # forward passes after the prompts, and rows in them

    @torch.no_grad()
    def written(self) -> list[list[list[int]]]:
        """Write everything."""
        try:
            while len(self.waiting_Qx2) or not self.stopped_R.all():
                n_new = self._n_new()
                if self._is_turn(n_new):
                    self._turn(n_new)
                else:
                    self._step()
        finally:
            self.bank.keys.rows = None
        return self.made

    def choose(self, logits_RxV: Tensor, trial_R: Ints, place_R: Ints) -> Tensor:
        """Return the next token of each row, [R]."""
        return logits_RxV.argmax(dim=-1)

    def _n_new(self) -> int:
        """Return how many of those that wait have room beside the rows that go on."""
        going = self.place_R[~self.stopped_R]
        some = self.waiting_Qx2[: self.max_tokens, 1]
        longest_Q = np.maximum.accumulate(self.prompts_N[some] + self.limits_N[some])
        longest_Q = np.maximum(longest_Q, (self.prompts_N[going] + self.limits_N[going]).max(initial=0))
        fit = (len(going) + 1 + np.arange(len(some))) * longest_Q <= self.max_tokens
        n = int(fit.argmin()) if not fit.all() else len(some)
        return n if len(going) else min(max(1, n), len(some))

    def _is_turn(self, n_new: int) -> bool:
        n_rows, n_going = len(self.place_R), int((~self.stopped_R).sum())
        return not n_going or TURN * n_new >= n_going + n_new or TURN * (n_rows - n_going) >= n_rows

    def _turn(self, n_new: int) -> None:
        """Let the rows that stopped go, and the next prompts in."""
        going = np.flatnonzero(~self.stopped_R)
        new, self.waiting_Qx2 = self.waiting_Qx2[:n_new], self.waiting_Qx2[n_new:]
        rows, width = self._on(going), 0
        parts, tokens, lengths = [], [self.next_R[rows]], [self.length_R[rows]]
        if len(going):
            width = max(len(self.made[k][i]) + int(self.prompts_N[i]) for k, i in self._pairs(going)) - 1
            parts.append(Part(cache=self.cache, rows=rows, length=width))
        self.trial_R = np.concatenate([self.trial_R[going], new[:, 0]])
        self.place_R = np.concatenate([self.place_R[going], new[:, 1]])
        self.stopped_R = np.zeros(len(self.place_R), dtype=np.bool_)
        for group in _groups(self.prompts_N[new[:, 1]], LEAST[self.split.device.type]):
            cache, chosen = self._read(new[group, 0], new[group, 1])
            parts.append(Part(cache=cache, rows=None, length=int(self.prompts_N[new[group, 1]].max())))
            tokens.append(chosen)
            lengths.append(self._on(self.prompts_N[new[group, 1]]))
        if not parts:
            return
        self.cache, self.next_R, self.length_R = kept.joined(parts), torch.cat(tokens), torch.cat(lengths)
        self.bank.keys.rows = TrialRows.of(self.trial_R, self.bank.n_trials, self.split.device)
        self._note(np.arange(len(going), len(self.place_R)))

    def _read(self, trial_m: Ints, place_m: Ints) -> tuple[Cache, Tensor]:
        """Return the keys and values of prompts, and the tokens that follow."""
        ids_mxP, length_m = self.split.prompts(place_m, BankPath.pad_id(self.bank.model.config))
        self.bank.keys.rows = TrialRows.of(trial_m, self.bank.n_trials, self.split.device)
        cache = kept.fresh()
        return cache, self.choose(self._logits(ids_mxP, length_m, cache), trial_m, place_m)

    def _step(self) -> None:
        """Add a token to every row."""
        self.length_R = self.length_R + 1
        logits_RxV = self._logits(self.next_R[:, None], self.length_R, self.cache)
        self.next_R = self.choose(logits_RxV, self.trial_R, self.place_R)
        self.steps, self.row_steps = self.steps + 1, self.row_steps + len(self.place_R)
        self._note(np.flatnonzero(~self.stopped_R))

    def _logits(self, ids_RxT: Tensor, length_R: Tensor, cache: Cache) -> Tensor:
        """Return the logits behind the last token, [R, V], of rows of these lengths, the new tokens included."""
        with self.bank.precision():
            return behind_last(self.bank.model, ids_RxT, length_R, takes=self.takes, cache=cache)

    def _note(self, rows: Ints) -> None:
        """Write down the new tokens of these rows, and which of them stop."""
        tokens = self.next_R.tolist()
        for row, (k, i) in zip(rows, self._pairs(rows), strict=True):
            text = self.made[k][i]
            if tokens[row] != self.end_id:
                text.append(tokens[row])
            self.stopped_R[row] = tokens[row] == self.end_id or len(text) == self.limits_N[i]

    def _pairs(self, rows: Ints) -> Iterator[tuple[int, int]]:
        return zip(self.trial_R[rows].tolist(), self.place_R[rows].tolist(), strict=True)

    def _on(self, numbers: Ints) -> Tensor:
        return torch.from_numpy(numbers).to(self.split.device)


def takes_of(model: PreTrainedModel) -> frozenset[str]:
    """Return what a model's forward pass may be given, by name."""
    return frozenset(inspect.signature(type(model).forward).parameters)


def behind_last(
    model: Any, ids_RxT: Tensor, length_R: Tensor, *, takes: frozenset[str], cache: Cache | None = None
) -> Tensor:
    """Return a model's logits behind the last token, [R, V], of rows that end in one column (`Batches.prompts`).

    `length_R` counts each row's tokens, those in `cache` included; `takes` is `takes_of` the model.
    """
    width = (0 if cache is None else cache.get_seq_length()) + ids_RxT.shape[1]
    place_RxL = torch.arange(width, device=ids_RxT.device) - (width - length_R)[:, None]
    more: dict[str, Any] = {"position_ids": place_RxL[:, -ids_RxT.shape[1] :].clamp(min=0), "logits_to_keep": 1}
    kept = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    logits_RxTxV: Tensor = model(
        input_ids=ids_RxT, attention_mask=(place_RxL >= 0).long(), **kept,
        **{name: value for name, value in more.items() if name in takes},
    ).logits  # fmt: skip
    return logits_RxTxV[:, -1]


def _groups(lengths: Ints, least: int) -> Iterator[slice]:
    """Yield runs of prompts, sorted by length, that are read together: little padding, or few tokens."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop < len(lengths):
            computed, real = (stop + 1 - start) * int(lengths[stop]), int(lengths[start : stop + 1].sum())
            if computed <= max(PADDING * real, least):
                continue
        yield slice(start, stop)
        start = stop


def equal(bank: Bank, split: Batches, *, end_id: int, limit: int, max_tokens: int) -> list[list[list[int]]]:
    """Return what `ragged` returns, prompts of one length together; `max_tokens` bounds tokens as there."""
    made: list[list[list[int]]] = [[[] for _ in range(split.n)] for _ in range(bank.n_trials)]
    for places in equal_prompts(split, max(1, max_tokens // bank.n_trials), limit):
        ids_KxbxL = _of_one_length(bank, split, places, end_id=end_id, limit=limit)
        for k, rows in enumerate(ids_KxbxL.tolist()):
            for place, row in zip(places, rows, strict=True):
                made[k][place] = until(row, end_id)
    return made


def equal_prompts(split: Batches, max_tokens: int, limit: int) -> Iterator[Ints]:
    """Yield all places of the split, together where their prompts are equally long, so many that they fit."""
    assert split.prompt_lengths is not None
    for length in np.unique(split.prompt_lengths):
        places = np.flatnonzero(split.prompt_lengths == length)
        size = max(1, max_tokens // int(length + limit))
        yield from (places[start : start + size] for start in range(0, len(places), size))


@torch.no_grad()
def _of_one_length(bank: Bank, split: Batches, places: Ints, *, end_id: int, limit: int) -> Tensor:
    """Return the continuations of prompts of one length: ids [K, b, at most limit], int64.

    After a row's end token there are more of them; generation stops where every row has one.
    """
    prompts_bxP, _ = split.prompts(places, end_id)
    chunk = split.chunk(places)
    bank.keys.start_chunk(chunk.row_N, chunk.first_b)  # of no effect outside training, but must be there
    cache = DynamicCache(config=bank.model.config)
    step_RxT = prompts_bxP.repeat(bank.n_trials, 1)
    ended_R = torch.zeros(len(step_RxT), dtype=torch.bool, device=split.device)
    made: list[Tensor] = []
    for _ in range(limit):
        with bank.precision():
            logits_RxTxV = bank.model(input_ids=step_RxT, past_key_values=cache, use_cache=True).logits
        next_R = torch.where(ended_R, end_id, logits_RxTxV[:, -1].argmax(dim=-1))
        made.append(next_R)
        ended_R = ended_R | (next_R == end_id)
        if bool(ended_R.all()):
            break
        step_RxT = next_R[:, None]
    return torch.stack(made, dim=1).unflatten(0, (bank.n_trials, len(places)))


def until(ids: list[int], end_id: int) -> list[int]:
    """Return the ids before the first end token."""
    return ids[: ids.index(end_id)] if end_id in ids else ids
