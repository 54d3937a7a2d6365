"""The tasks made for tiny-decoder's digits beside UUIDs: differences of numbers, and texts as hex digits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bench import models, tasks
from bench.data import causal
from bench.data.splits import Split, TextData
from bench.embedded.demo import grammar


def load(name: str) -> TextData:
    data = tasks.load(tasks.get(name))
    assert isinstance(data, TextData)
    return data


def problems(split: Split) -> list[tuple[int, int, int]]:
    assert split.pairs is not None
    both = [
        re.fullmatch(r"(\d\d)-(\d\d)=(\d\d)", asked + said)
        for asked, said in zip(split.texts, split.pairs, strict=True)
    ]
    return [(int(found[1]), int(found[2]), int(found[3])) for found in both if found is not None]


def test_every_difference_is_right_and_none_is_trained_on_and_scored() -> None:
    data = load("arithmetic")
    train, evaluation = problems(data.train), problems(data.eval)
    assert (len(train), len(evaluation)) == (len(data.train), len(data.eval)) == (3_000, 500)
    assert all(a - b == c for a, b, c in (*train, *evaluation))
    assert len({(a, b) for a, b, _ in (*train, *evaluation)}) == 3_500
    borrows = np.mean([a % 10 < b % 10 for a, b, _ in evaluation])
    assert 0.3 < borrows < 0.6, "digit by digit without a borrow is not enough"
    assert load("arithmetic").data_hash == data.data_hash


def test_the_texts_are_the_demo_s_and_come_back_from_their_digits() -> None:
    data = load("demo-hex")
    for split, texts in zip((data.train, data.eval), grammar.generate_splits(), strict=True):
        assert split.pairs is not None
        read = [bytes.fromhex(digits).decode() for digits in split.pairs]
        assert read == [text[:40] for text in texts.texts]
    assert set(data.train.texts) == {""}


@pytest.mark.parametrize("name", ["arithmetic", "demo-hex"])
def test_tiny_decoder_reads_them_whole_and_can_be_chosen_on_held_out_ones(name: str) -> None:
    task = tasks.get(name)
    assert task.causal is not None
    settings = {"metric": task.metric, "max_length": 128, "n_select": 20}
    data = causal.encode(load(name), models.locate("tiny-decoder"), task.causal, **settings)  # type: ignore[arg-type]
    assert max(data.train.lengths.max(), data.eval.lengths.max()) < 128
    assert data.select is not None
    assert len(data.select) == 20
