"""Which examples a step sees, and how a batch is cut and laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.engine.batching import Batches
from bench.engine.chunking import EVAL_ROWS, GPU_EVAL_ROWS, evaluation_rows
from tests.support.engine_helpers import random_split
from tests.support.oracle import CPU


def batches(n: int = 50, **changes: int) -> Batches:
    return Batches(random_split(n, seed=1, types=True, **changes), device=CPU)


def order(seed: int, *, n: int = 50, batch_size: int = 8, max_steps: int = 14) -> list[list[int]]:
    return [list(b) for b in batches(n).order(seed=seed, batch_size=batch_size, max_steps=max_steps)]


def flat(steps: list[list[int]]) -> list[int]:
    return [place for step in steps for place in step]


def test_every_epoch_visits_every_example_once_and_ends_with_a_short_batch() -> None:
    steps = order(0)
    assert [len(b) for b in steps] == [8, 8, 8, 8, 8, 8, 2] * 2
    first, second = flat(steps[:7]), flat(steps[7:])
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second, "epochs are shuffled anew"
    assert first != list(range(50))


def test_order_is_keyed_by_the_seed_alone() -> None:
    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3, max_steps=5) == order(3)[:5]
    assert flat(order(3, max_steps=7)) == flat(order(3, batch_size=5, max_steps=10)), (
        "the batch size cuts the same permutation elsewhere"
    )
    assert order(0) != order(1), "0 is a seed like any other"


def test_order_does_not_depend_on_the_token_ids() -> None:
    left = random_split(50, seed=1)
    right = random_split(50, seed=2)
    assert not np.array_equal(left.lengths, right.lengths)
    orders = [[list(b) for b in Batches(s, device=CPU).order(seed=0, batch_size=8, max_steps=9)] for s in (left, right)]
    assert orders[0] == orders[1]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 49), min_size=1, max_size=20, unique=True), st.integers(1, 9))
def test_chunks_partition_the_batch(places: list[int], n_chunks: int) -> None:
    split = batches()
    chunks = split.chunks(np.array(places), n_chunks)
    assert sorted(int(p) for c in chunks for p in c.place_b) == sorted(places)
    assert 1 <= len(chunks) <= n_chunks
    assert all(c.n_examples == len(c.place_b) > 0 for c in chunks)
    longest = [c.longest for c in chunks]
    assert longest == sorted(longest), "short examples first"
    assert sum(c.n_tokens for c in chunks) == int(split.lengths[places].sum())


def test_chunks_hold_about_equally_many_tokens() -> None:
    split = Batches(random_split(200, seed=1, longest=40), device=CPU)
    tokens = [c.n_tokens for c in split.chunks(np.arange(200), 4)]
    assert len(tokens) == 4
    assert max(tokens) < 1.1 * min(tokens)


def test_a_chunk_is_the_examples_tokens_in_order() -> None:
    source = random_split(50, seed=1, types=True)
    places = np.array([31, 4, 17])
    chunk = Batches(source, device=CPU).chunk(places)
    ids, types = chunk.padded(chunk.ids_N, 1), chunk.padded(chunk.type_ids_N, 0)  # type: ignore[arg-type]
    assert ids.shape == (3, int(source.lengths[places].max())) == (chunk.n_examples, chunk.longest)
    assert source.type_ids is not None
    for row, place in enumerate(places):
        part, n = slice(source.offsets[place], source.offsets[place + 1]), int(source.lengths[place])
        assert ids[row, :n].tolist() == source.ids[part].tolist()
        assert types[row, :n].tolist() == source.type_ids[part].tolist()
        assert set(ids[row, n:].tolist()) <= {1}
        stream = chunk.ids_N[chunk.row_N == row]
        assert stream.tolist() == source.ids[part].tolist()
        assert int(chunk.ids_N[chunk.first_b[row]]) == int(source.ids[part][0])
        assert chunk.position_N[chunk.row_N == row].tolist() == list(range(n))
    assert chunk.labels_b.tolist() == source.labels[places].tolist()
    assert chunk.example_b.tolist() == source.index[places].tolist()


@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_the_whole_split_in_bounded_chunks(max_tokens: int) -> None:
    split = batches()
    chunks = list(split.chunks_of(max_tokens))
    assert sorted(torch.cat([c.place_b for c in chunks]).tolist()) == list(range(50))
    assert all(c.n_examples == 1 or c.n_examples * c.longest <= max_tokens for c in chunks)
    assert (len(chunks) == 1) == (max_tokens == 10_000)


@settings(max_examples=60)
@given(
    places=st.lists(st.integers(0, 49), min_size=1, max_size=9, unique=True),
    tokens=st.sampled_from([1, 8, 32]), length=st.sampled_from([1, 4, 16]), types=st.booleans(),
)  # fmt: skip
def test_a_filled_chunk_is_the_chunk_and_more(places: list[int], tokens: int, length: int, types: bool) -> None:
    """Round numbers of tokens and positions; the chunk's own tokens as they were, and whole examples after them."""
    chunk = Batches(random_split(50, seed=1, types=types), device=CPU).chunk(np.array(places))
    full = chunk.rounded(tokens=tokens, length=length)
    assert (full.n_tokens % tokens, full.longest % length) == (0, 0)
    assert full.n_tokens - chunk.n_tokens < tokens
    assert full.longest - chunk.longest < length
    for name in ("ids_N", "type_ids_N", "row_N", "position_N", "first_b", "example_b"):
        own, more = getattr(chunk, name), getattr(full, name)
        assert (own is None) == (more is None)
        if own is not None:
            assert torch.equal(more[: len(own)], own)
            assert len(more) == (full.n_tokens if name.endswith("N") else full.n_examples)
    for row in range(full.n_examples):
        first, n = int(full.first_b[row]), int((full.row_N == row).sum())
        assert 1 <= n <= full.longest
        assert full.row_N[first : first + n].tolist() == [row] * n
        assert full.position_N[first : first + n].tolist() == list(range(n))


def test_an_evaluation_s_chunks_fill_a_gpu_but_where_rows_are_padded() -> None:
    assert evaluation_rows("unpadded", on_cpu=True, cpu_rows=4096) == 4096
    assert evaluation_rows("unpadded", on_cpu=False) == evaluation_rows("packed", on_cpu=False) == GPU_EVAL_ROWS
    assert evaluation_rows("bank", on_cpu=False) == EVAL_ROWS  # logits of every token
    assert evaluation_rows("bank", on_cpu=True, vocab_size=32_000) == 2_097, "256 MiB of float32 logits"
    assert evaluation_rows("packed", on_cpu=True, vocab_size=32_000) == EVAL_ROWS
