"""The held-out part: apart from what is trained on, by texts; like the evaluation split; as many as it says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import tasks
from bench.data import causal, containment, held_out
from bench.data.causal import Layout
from bench.data.held_out import HeldOut, hold_out
from bench.data.splits import Split, TextData, hash_data

WORDS = tuple(f"word{i}" for i in range(300))  # the first ones are common, as words are


def split(texts: Sequence[str], pairs: Sequence[str] | None = None, labels: Sequence[int] | None = None) -> Split:
    found = np.zeros(len(texts), dtype=np.int64) if labels is None else np.array(labels, dtype=np.int64)
    return Split(texts=tuple(texts), pairs=None if pairs is None else tuple(pairs), labels=found)


def data(train: Split, evaluation: Split | None = None) -> TextData:
    evaluation = evaluation or train
    return TextData(train=train, eval=evaluation, data_hash=hash_data(train, evaluation))


def drawn(train: Split, n: int, cache: Path, evaluation: Split | None = None) -> HeldOut:
    """Return what is held out, worked out anew."""
    for path in (cache / "held_out").glob("*"):
        path.unlink()
    return hold_out(data(train, evaluation), n, cache_dir=cache)


def normal(text: str) -> str:
    """Return a text in lower case, its words apart by one space, without punctuation: written for these tests alone."""
    return f" {' '.join(re.findall('[a-z0-9]+', text.lower()))} "


def texts_of(some: Split, places: Iterable[int]) -> set[str]:
    """Return the normalised texts at these places that have a word."""
    found = [some.texts, *([] if some.pairs is None else [some.pairs])]
    return {normal(texts[i]) for i in places for texts in found} - {"  "}


def overlaps(some: Split, part: HeldOut) -> list[tuple[str, str]]:
    """Return every held-out and trained-on text of which one stands in the other."""
    held, trained = texts_of(some, part.select), texts_of(some, part.train)
    return [(a, b) for a in held for b in trained if a in b or b in a]


def phrases(n: int, seed: int, *, punctuation: bool = True) -> tuple[list[str], list[str]]:
    """Return sentences, and the sentences with phrases of them in between, as SST-2's train is made."""
    rng = np.random.default_rng(seed)
    sentences, texts = [], []
    for _ in range(n):
        words = [WORDS[int(300 * u**3)] for u in rng.random(rng.integers(4, 24))]
        sentences.append(" ".join(words))
        for _ in range(6):
            a, b = sorted(rng.choice(len(words) + 1, size=2, replace=False))
            phrase = " ".join(words[a:b])
            texts.append(phrase.capitalize() + " ." * int(rng.integers(2)) if punctuation else phrase)
        texts.append(sentences[-1] + (" ." if punctuation else ""))
    return sentences, texts


TEXT = st.lists(st.sampled_from(["a", "b", "Film", "film-making", "!", "it's", "A,", "...", "x"]), max_size=6).map(
    " ".join
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=60), st.integers(0, 12), st.booleans(), st.randoms(use_true_random=False))
def test_no_held_out_text_stands_in_a_trained_one_or_holds_one(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], n: int, in_pairs: bool, random: object
) -> None:
    half = len(texts) // 2
    train = split(texts[:half], texts[half : 2 * half]) if in_pairs and half else split(texts)
    part = drawn(train, n, tmp_path_factory.mktemp("c"))
    assert overlaps(train, part) == []
    assert not set(part.train) & set(part.select)
    assert len(part.train) + len(part.select) + part.n_left_out == len(train)
    assert len(part.select) <= min(n, len(train) // 10)
    assert part.n_left_out <= len(train) / 4
    again = drawn(train, len(part.select), tmp_path_factory.mktemp("c"))
    assert again.select.tolist() == part.select.tolist(), "the number that came out gives the same examples"


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=14))
def test_containment_is_what_python_finds_in_every_run_of_words(texts: list[str]) -> None:
    found = containment.distinct(texts)
    inner, outer = containment.pairs(found)
    expected = set()
    for o, text in enumerate(texts):
        words = re.findall("[a-z0-9]+", text.lower()) or [text.strip() or " "]
        runs = {"".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)}
        expected |= {(i, found.of[o]) for i, key in enumerate(found.keys) if key in runs and i != found.of[o]}
    assert set(zip(inner.tolist(), outer.tolist(), strict=True)) == {(int(i), int(o)) for i, o in expected}


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("The Film-making", "why the film making of it", True),
        ("it's", "so its end", True),
        ("art", "a start", False),
        ("a b c", "a b, d c", False),
        ("the quick brown fox jumps over the lazy dog", "And THE quick brown fox jumps over the lazy dog!", True),
        ("the quick brown fox jumps over the lazy dog", "the quick brown fox jumps over the lazy doggerel", False),
        ("電影", "這部電影很好", True),
        ("ß", "STRASSE SS", True),
    ],
)
def test_a_text_stands_in_another_up_to_case_and_punctuation(inner: str, outer: str, expected: bool) -> None:
    found = containment.pairs(containment.distinct([inner, outer]))
    assert [side.tolist() for side in found] == ([[0], [1]] if expected else [[], []])


def test_containment_is_the_same_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    found = containment.distinct(phrases(60, 0)[1])
    whole = containment.pairs(found)
    monkeypatch.setattr(containment, "_CHUNK", 200)
    for side, again in zip(whole, containment.pairs(found), strict=True):
        np.testing.assert_array_equal(side, again)


def test_of_phrases_and_sentences_whole_ones_are_held_out_as_long_as_those_evaluated(tmp_path: Path) -> None:
    _, texts = phrases(400, 0)
    sentences, _ = phrases(200, 1)
    train, evaluation = split(texts, labels=[i % 2 for i in range(len(texts))]), split(sentences)
    part = drawn(train, 60, tmp_path, evaluation)
    assert len(part.select) == 60
    assert overlaps(train, part) == []
    lengths = [
        np.array([len(normal(t).split()) for t in some]) for some in (sentences, [texts[i] for i in part.select])
    ]
    assert distance(*lengths) < 0.12
    assert distance(lengths[0], np.array([len(normal(t).split()) for t in texts])) > 0.4, "phrases are shorter"
    whole = {normal(texts[i]) for i in range(6, len(texts), 7)}
    assert np.mean([normal(texts[i]) in whole for i in part.select]) > 0.97, "whole sentences"
    assert abs(train.labels[part.select].mean() - 0.5) < 0.05


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two empirical distributions (Kolmogorov and Smirnov)."""
    at = np.union1d(one, other)
    shares = (np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (one, other))
    return float(np.abs(np.subtract(*shares)).max())


@pytest.mark.parametrize("seed", [0, 1])
def test_neither_the_order_of_the_file_nor_of_a_pair_matters(tmp_path: Path, seed: int) -> None:
    _, texts = phrases(60, 2)
    labels = [len(t) % 3 for t in texts]
    turn = np.random.default_rng(seed).permutation(len(texts))
    train, turned = split(texts, labels=labels), split([texts[i] for i in turn], labels=[labels[i] for i in turn])
    chosen = {texts[i] for i in drawn(train, 30, tmp_path).select}
    assert len(chosen) > 20
    assert {turned.texts[i] for i in drawn(turned, 30, tmp_path).select} == chosen
    sides = split([f"left {i}" for i in range(200)], [f"right {i}" for i in range(200)])
    part = drawn(sides, 20, tmp_path)
    other = drawn(replace(sides, texts=sides.pairs or (), pairs=sides.texts), 20, tmp_path)
    assert part.select.tolist() == other.select.tolist()


def test_labels_have_the_shares_of_train_whatever_their_lengths(tmp_path: Path) -> None:
    """Long texts are of class 1 and short ones of class 0, as a class often has its length."""
    texts = [" ".join([f"w{i}"] * (3 if i % 4 else 12)) for i in range(1000)]
    part = drawn(split(texts, labels=[int(i % 4 == 0) for i in range(1000)]), 100, tmp_path)
    assert np.mean([i % 4 == 0 for i in part.select]) == pytest.approx(0.25, abs=0.02)


def test_numbers_as_labels_have_the_shares_of_their_fifths(tmp_path: Path) -> None:
    """A fifth of the held-out numbers lies in each fifth of train's, though most of these are small."""
    numbers = np.random.default_rng(0).exponential(size=1000)
    texts = tuple(f"sentence number {i} of many" for i in range(1000))
    train = Split(texts=texts, pairs=None, labels=numbers)
    part = drawn(train, 100, tmp_path)
    fifths = np.searchsorted(np.quantile(numbers, (0.2, 0.4, 0.6, 0.8)), numbers[part.select])
    assert np.bincount(fifths, minlength=5) == pytest.approx(np.full(5, 20), abs=3)


def test_pairs_that_share_a_sentence_are_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = [f"sentence {rng.integers(150)} here" for _ in range(400)]
    second = [f"Sentence {rng.integers(150, 600)} here." for _ in range(400)]
    train = split(first, second)
    part = drawn(train, 40, tmp_path)
    assert len(part.select) > 0
    assert not texts_of(train, part.select) & texts_of(train, np.setdiff1d(np.arange(400), part.select))


def test_a_question_asked_of_every_text_joins_nothing(tmp_path: Path) -> None:
    train = split([f"text number {i}" for i in range(400)], ["is it good?"] * 400)
    assert len(drawn(train, 40, tmp_path).select) == 40
    twice = split([f"text number {i // 2}" for i in range(400)], ["is it good?"] * 400)
    part = drawn(twice, 40, tmp_path)
    assert {i // 2 for i in part.select}.isdisjoint(i // 2 for i in part.train)


def test_one_text_twenty_times_cannot_be_held_out_in_part(tmp_path: Path) -> None:
    assert len(drawn(split(["a"] * 20), 2, tmp_path).select) == 0
    assert drawn(split(["a"] * 20), 2, tmp_path).by is None


@pytest.mark.parametrize("n", [12, 119, 120, 121, 1000])
def test_more_than_can_be_held_out_is_the_same_as_what_can(tmp_path: Path, n: int) -> None:
    train = split([f"text {i}" for i in range(120)])
    part, least = drawn(train, n, tmp_path), drawn(train, 12, tmp_path)
    assert (len(part.select), part.by) == (12, held_out.BY)
    assert part.select.tolist() == least.select.tolist()


def test_what_one_group_may_cost_is_bounded(tmp_path: Path) -> None:
    """A word that stands in every text is not held out: nothing would be left to train on."""
    texts = ["film", *(f"film {i} is long" for i in range(300))]
    part = drawn(split(texts), 30, tmp_path, split(["word"] * 10))
    assert len(part.select) == 30
    assert 0 in np.setdiff1d(np.arange(301), np.union1d(part.select, part.train)), (
        "left out: it stands in those held out"
    )


def test_it_is_kept_and_a_damaged_file_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = data(split(phrases(40, 3)[1]))
    first = hold_out(train, 20, cache_dir=tmp_path)
    (path,) = (tmp_path / "held_out").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    assert hold_out(train, 20, cache_dir=tmp_path).select.tolist() == first.select.tolist()
    monkeypatch.setattr(held_out, "_draw", lambda *_: pytest.fail("drawn again"))
    assert hold_out(train, 20, cache_dir=tmp_path).train.tolist() == first.train.tolist()
    (tmp_path / "file").write_text("")
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        hold_out(train, 20, cache_dir=tmp_path / "file")


def test_prompts_are_joined_without_their_template_and_targets_do_not_join() -> None:
    layout = Layout(prompt="q", target="t", template="Q: {prompt} A: ")
    train = causal.split_of([(f"What is {i}", "Paris") for i in range(50)] + [("What is 7 or so", "Rome")], layout)
    made = causal.data_of(train, train, layout, "exact_match")
    bare = causal.joined(made, layout).train
    assert bare.texts[7] == "What is 7"
    assert bare.pairs is None
    part = hold_out(causal.joined(made, layout), 5)
    assert len(part.select) == 5
    assert overlaps(bare, part) == []
    whole = causal.split_of([("", f"a text {i}") for i in range(50)], Layout(target="t"))
    assert causal.joined(causal.data_of(whole, whole, Layout(), "perplexity"), Layout()).train.texts[3] == "a text 3"


@pytest.mark.skipif("LORASWEEP_DATA" not in os.environ, reason="needs LORASWEEP_DATA")
@pytest.mark.parametrize(("name", "n_select"), [("sst2", 1000), ("cola", 855), ("mrpc", 366)])
def test_glue_is_held_out_without_overlap_and_with_the_lengths_of_dev(name: str, n_select: int, tmp_path: Path) -> None:
    found = tasks.load(tasks.get(name), Path(os.environ["LORASWEEP_DATA"]))
    assert isinstance(found, TextData)
    part = hold_out(found, 1000, cache_dir=tmp_path)
    assert len(part.select) == n_select
    held, trained = texts_of(found.train, part.select), texts_of(found.train, part.train)
    runs = {
        " " + " ".join(w[a:b]) + " "
        for w in map(str.split, held)
        for a in range(len(w))
        for b in range(a + 1, len(w) + 1)
    }
    assert not runs & trained, "nothing that is trained on stands in a held-out text"
    sizes = {len(text.split()) for text in held}
    for words in map(str.split, trained):
        for n in sizes:
            assert not any(" " + " ".join(words[a : a + n]) + " " in held for a in range(len(words) - n + 1))

    def lengths(some: Split, places: Iterable[int]) -> np.ndarray:
        return np.array([sum(len(normal(t).split()) for t in (some.texts[i], some.pairs[i] if some.pairs else ""))
                         for i in places])  # fmt: skip

    assert distance(lengths(found.train, part.select), lengths(found.eval, range(len(found.eval)))) < 0.03
    shares = [np.bincount(labels) / len(labels) for labels in (found.train.labels, found.train.labels[part.select])]
    np.testing.assert_allclose(*shares, atol=0.02)
    print(f"{name}: {len(part.select)} held out, {part.n_left_out} left out, {len(part.train)} trained on")
