"""Texts to token ids: as the model's tokenizer gives them, cached, and the held-out part chosen by content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import models
from bench.core.errors import BadInput
from bench.data import splits
from bench.data.splits import Split, TextData, hash_data
from bench.data.text import encode, take
from tests.support.tiny_models import save_tiny


def _split(texts: list[str], pairs: list[str] | None = None) -> Split:
    labels = np.arange(len(texts), dtype=np.int64) % 2
    return Split(texts=tuple(texts), pairs=None if pairs is None else tuple(pairs), labels=labels)


def _data(train: Split, evaluation: Split | None = None) -> TextData:
    evaluation = evaluation or _split(["a good film .", "not very good"])
    return TextData(train=train, eval=evaluation, data_hash=hash_data(train, evaluation))


def _encode(data: TextData, located: models.Located, cache_dir: Path, **changes: Any) -> splits.EncodedData:
    options: dict[str, Any] = {"n_labels": 2, "metric": "accuracy", "max_length": 16, "n_select": 0}
    return encode(data, located, cache_dir=cache_dir, **{**options, **changes})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[models.Located]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORASWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield models.locate(str(save_tiny(tmp_path_factory.mktemp("bert"))))


SENTENCES = [f"{a} {b} film ." for a in ("good", "bad", "very", "not") for b in ("a", "plot", "why", "good", "bad")]


def test_ids_are_the_tokenizer_s_own(bert: models.Located, tmp_path: Path) -> None:
    long = " ".join(["good"] * 30)
    encoded = _encode(_data(_split(["a good film .", "", long])), bert, tmp_path).train
    # [CLS] a good film . [SEP] / [CLS] [SEP] / cut to 16 with both ends kept
    assert encoded.ids[:6].tolist() == [2, 8, 5, 7, 14, 3]
    assert encoded.lengths.tolist() == [6, 2, 16]
    assert encoded.ids[6:8].tolist() == [2, 3]
    assert encoded.ids[-1] == 3
    assert encoded.ids.dtype == np.int32
    assert encoded.index.tolist() == [0, 1, 2]


def test_pairs_have_type_ids_where_the_model_embeds_types(bert: models.Located, tmp_path: Path) -> None:
    data = _data(_split(["good film"], ["why ?"]), _split(["a"], ["b"]))
    encoded = _encode(data, bert, tmp_path).train
    assert encoded.ids.tolist() == [2, 5, 7, 3, 12, 13, 3]
    assert encoded.type_ids is not None
    assert encoded.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert encoded.type_ids.dtype == np.int8


def test_roberta_has_no_type_ids_and_its_positions_are_counted(tmp_path: Path) -> None:
    located = models.locate(str(save_tiny(tmp_path / "roberta", "roberta")))
    encoded = _encode(_data(_split(["good film"], ["why"]), _split(["a"], ["b"])), located, tmp_path).train
    assert encoded.type_ids is None
    assert encoded.ids[0] == 0
    assert (encoded.ids == 2).sum() == 3
    assert models.max_tokens(located) == 38
    with pytest.raises(BadInput, match="max_length: must be <= 38, the most that roberta takes, but got 39"):
        _encode(_data(_split(["a"])), located, tmp_path, max_length=39)


def test_a_second_run_reads_the_cache_and_gives_the_same(
    bert: models.Located, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _data(_split(SENTENCES))
    first = _encode(data, bert, tmp_path, n_select=2)
    monkeypatch.setattr(models, "load_tokenizer", lambda located: pytest.fail("tokenised again"))
    second = _encode(data, bert, tmp_path, n_select=2)
    for one, two in ((first.train, second.train), (first.select, second.select), (first.eval, second.eval)):
        assert one is not None
        assert two is not None
        for name in ("ids", "type_ids", "offsets", "labels", "index"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    # Neither labels nor the held-out part enter the cached ids.
    _encode(data, bert, tmp_path, n_select=0)
    with pytest.raises(pytest.fail.Exception, match="tokenised again"):
        _encode(data, bert, tmp_path, max_length=5)
    with pytest.raises(pytest.fail.Exception, match="tokenised again"):
        _encode(_data(_split(SENTENCES[::-1])), bert, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None])
def test_a_damaged_cache_file_is_written_again(bert: models.Located, tmp_path: Path, damage: bytes | None) -> None:
    data = _data(_split(SENTENCES))
    first = _encode(data, bert, tmp_path)
    for path in (tmp_path / "tokens").iterdir():
        path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    np.testing.assert_array_equal(_encode(data, bert, tmp_path).train.ids, first.train.ids)
    assert sorted(p.suffix for p in (tmp_path / "tokens").iterdir()) == [".npz", ".npz"]


def test_a_pickle_in_the_cache_is_not_loaded(bert: models.Located, tmp_path: Path) -> None:
    data = _data(_split(SENTENCES))
    first = _encode(data, bert, tmp_path)
    for path in (tmp_path / "tokens").iterdir():
        np.savez(path, ids=np.array([{}], dtype=object), offsets=np.zeros(len(SENTENCES) + 1, dtype=np.int64))
    np.testing.assert_array_equal(_encode(data, bert, tmp_path).train.ids, first.train.ids)


def test_a_cache_that_cannot_be_written_is_done_without(bert: models.Located, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    encoded = _encode(_data(_split(SENTENCES)), bert, tmp_path / "file")
    assert len(encoded.train) == len(SENTENCES)


def test_the_held_out_part_leaves_training_and_nothing_is_lost(bert: models.Located, tmp_path: Path) -> None:
    whole = _encode(_data(_split(SENTENCES)), bert, tmp_path)
    assert whole.select is None
    split = _encode(_data(_split(SENTENCES)), bert, tmp_path, n_select=1000)
    assert split.select is not None
    assert (len(split.train), len(split.select)) == (18, 2)  # 10 % of 20
    both = np.concatenate([split.train.index, split.select.index])
    assert sorted(both) == list(range(20))
    for part in (split.train, split.select):
        for i, place in enumerate(part.index):
            tokens = part.ids[part.offsets[i] : part.offsets[i + 1]]
            np.testing.assert_array_equal(tokens, whole.train.ids[slice(*whole.train.offsets[place : place + 2])])
            assert part.labels[i] == whole.train.labels[place]


def test_take_keeps_examples_whole_in_any_order(bert: models.Located, tmp_path: Path) -> None:
    whole = _encode(_data(_split(["good", "a bad film .", ""])), bert, tmp_path).train
    turned = take(whole, np.array([2, 0, 1]))
    assert turned.ids.tolist() == [2, 3, 2, 5, 3, 2, 8, 6, 7, 14, 3]
    assert turned.offsets.tolist() == [0, 2, 5, 11]
    assert turned.index.tolist() == [2, 0, 1]
    assert len(take(whole, np.array([], dtype=np.int64)).ids) == 0


def test_no_two_splits_of_the_same_bytes_hash_alike() -> None:
    splits = [_split(["ab", "c"]), _split(["a", "bc"]), _split(["ab"], ["c"]), _split(["abc"])]
    assert len({hash_data(split, split) for split in splits}) == 4
    assert hash_data(splits[0], splits[1]) != hash_data(splits[1], splits[0])
