"""Token ids as the tokenizer itself gives them: special tokens where it puts them, and none twice."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bench import models as registry
from bench.data import causal
from bench.data.causal import Layout
from bench.data.special_tokens import frame_of
from bench.data.splits import Encoded, Split, TextData
from bench.data.text import encode
from bench.models import Located
from tests.support.tiny_models import save_tiny

CORPUS = ("what is two plus two ?", "the answer is four .", "a good film , and why not", "name a bird ; a wren")
PROMPTS, TARGETS = ("what is two plus two ?", "name a bird ;", "why"), ("the answer is four .", " a wren", "not")
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "[gMASK]")
KINDS = ("byte_level_bpe", "word_piece", "unigram")
# What the post-processor puts around one text, and around two.
FRAMES = {
    "neither": ("$A", "$A $B"),
    "begin": ("<s> $A", "<s> $A <s> $B"),
    "end": ("$A </s>", "$A </s> $B </s>"),
    "both": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "two_in_front": ("[gMASK] <s> $A", "[gMASK] <s> $A $B"),
    "another_behind": ("<s> $A <pad>", "<s> $A <pad> $B <pad>"),
}
EVERY = list(itertools.product(KINDS, FRAMES))


@cache
def trained(kind: str) -> Tokenizer:
    """A tokenizer of its kind, trained on a few words; no post-processor."""
    special = list(SPECIAL)
    if kind == "byte_level_bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "word_piece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def saved(directory: Path, kind: str, frame: str) -> Located:
    """A model directory with such a tokenizer."""
    save_tiny(directory, vocab_size=400, max_position_embeddings=128)
    for path in directory.glob("*token*"):
        path.unlink()
    own = Tokenizer.from_str(trained(kind).to_str())
    single, pair = FRAMES[frame]
    known = [(token, own.token_to_id(token)) for token in SPECIAL]
    used = [both for both in known if both[0] in f"{single} {pair}".split()]
    own.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(directory)
    return registry.locate(str(directory))


def rows(encoded: Encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def split_of(texts: tuple[str, ...], pairs: tuple[str, ...] | None) -> Split:
    return Split(texts=texts, pairs=pairs, labels=np.zeros(len(texts), dtype=np.int64))


def causal_ids(located: Located, texts: tuple[str, ...], targets: tuple[str, ...], **layout: Any) -> Encoded:
    split = split_of(texts, targets)
    data = TextData(train=split, eval=split, data_hash="0" * 16)
    chosen = Layout(prompt="prompt", **layout)
    return causal.encode(data, located, chosen, metric="perplexity", max_length=100, n_select=0).train


@pytest.mark.parametrize(("kind", "frame"), EVERY)
def test_prompt_and_target_are_framed_as_the_tokenizer_frames_one_text(kind: str, frame: str, tmp_path: Path) -> None:
    located = saved(tmp_path / "model", kind, frame)
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    behind = [] if "$A </s>" in FRAMES[frame][0] else [tokenizer.eos_token_id]
    for text, target, ids in zip(PROMPTS, TARGETS, rows(causal_ids(located, PROMPTS, TARGETS)), strict=True):
        # The tokenizer's own answer to the prompt; the target's tokens come before what stands behind the text.
        own, inside = tokenizer(text)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        n = next(i for i in range(len(own)) if own[i : i + len(inside)] == inside) + len(inside)
        wanted = tokenizer(target, add_special_tokens=False)["input_ids"]
        assert ids == own[:n] + wanted + own[n:] + behind
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids.count(tokenizer.bos_token_id) == ("<s>" in FRAMES[frame][0])


@pytest.mark.parametrize(("kind", "frame"), EVERY)
def test_a_text_without_a_prompt_is_the_tokenizer_s_answer_and_the_end(kind: str, frame: str, tmp_path: Path) -> None:
    located = saved(tmp_path / "model", kind, frame)
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    behind = [] if "$A </s>" in FRAMES[frame][0] else [tokenizer.eos_token_id]
    encoded = causal_ids(located, ("",) * len(CORPUS), CORPUS)
    assert rows(encoded) == [tokenizer(text)["input_ids"] + behind for text in CORPUS]
    n_before = FRAMES[frame][0].split().index("$A")
    assert encoded.prompt_lengths is not None
    assert set(encoded.prompt_lengths.tolist()) == {max(1, n_before)}, "the first token of all cannot be predicted"


@pytest.mark.parametrize(("kind", "frame"), EVERY)
def test_a_template_that_brings_special_tokens_gets_none_twice(kind: str, frame: str, tmp_path: Path) -> None:
    """As `apply_chat_template` gives it: the rendered text, tokenised with nothing added, is all there is."""
    located = saved(tmp_path / "model", kind, frame)
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    before = FRAMES[frame][0].split("$A")[0].replace(" ", "") or "<s>"
    tokenizer.chat_template = f"{before}{{{{ messages[0].content }}}} ;"
    prompts = tuple(f"{before}{prompt} ;" for prompt in PROMPTS)
    targets = tuple(f"{target}</s>" for target in TARGETS)
    others = [tokenizer.pad_token_id] if frame == "another_behind" else []
    for given, prompt, target, ids in zip(
        PROMPTS, prompts, targets, rows(causal_ids(located, prompts, targets)), strict=True
    ):
        chat = tokenizer.apply_chat_template([{"role": "user", "content": given}], return_dict=False)
        assert chat == tokenizer(prompt, add_special_tokens=False)["input_ids"]
        wanted = tokenizer(target, add_special_tokens=False)["input_ids"]
        assert ids == [*chat, *wanted, *([*others, tokenizer.eos_token_id] if others else [])]


def test_a_template_with_the_last_token_in_front_only_gets_the_others(tmp_path: Path) -> None:
    located = saved(tmp_path / "model", "unigram", "two_in_front")
    plain = rows(causal_ids(located, ("why",), ("not",)))
    assert rows(causal_ids(located, ("<s>why",), ("not",)))[0][:2] == plain[0][:2]
    assert rows(causal_ids(located, ("[gMASK]<s>why",), ("not",)))[0][:2] == plain[0][:2]


@pytest.mark.parametrize("frame", ["neither", "begin"])
def test_a_cut_prompt_keeps_its_begin_token(frame: str, tmp_path: Path) -> None:
    located = saved(tmp_path / "model", "byte_level_bpe", frame)
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    for text in (PROMPTS[0], f"<s>{PROMPTS[0]}"):
        (ids,) = rows(causal_ids(located, (text,), ("not",), max_prompt_tokens=3))
        has_begin = frame == "begin" or text.startswith("<s>")
        inside = tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"]
        wanted = tokenizer("not", add_special_tokens=False)["input_ids"]
        assert ids == [tokenizer.bos_token_id] * has_begin + inside[-3:] + wanted + [tokenizer.eos_token_id]


@pytest.mark.parametrize(("kind", "frame"), EVERY)
@pytest.mark.parametrize("paired", [False, True])
def test_classification_sees_what_transformers_gives(kind: str, frame: str, paired: bool, tmp_path: Path) -> None:
    located = saved(tmp_path / "model", kind, frame)
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    split = split_of(CORPUS, CORPUS[::-1] if paired else None)
    data = TextData(train=split, eval=split, data_hash="0" * 16)
    for length in (100, 9):
        found = encode(
            data, located, n_labels=2, metric="accuracy", max_length=length, n_select=0, cache_dir=tmp_path / "cache"
        )
        texts = (list(CORPUS), list(CORPUS[::-1])) if paired else (list(CORPUS),)
        assert rows(found.train) == tokenizer(*texts, truncation=True, max_length=length)["input_ids"]


@pytest.mark.parametrize(("kind", "frame"), EVERY)
def test_a_classified_text_that_brings_special_tokens_gets_none_twice(kind: str, frame: str, tmp_path: Path) -> None:
    located = saved(tmp_path / "model", kind, frame)
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    before, behind = (side.replace(" ", "") for side in FRAMES[frame][0].split("$A"))
    brought = tuple(f"{before}{text}{behind}" for text in CORPUS)
    for texts in (brought, (*CORPUS[:1], *brought[1:])):
        split = split_of(texts, None)
        data = TextData(train=split, eval=split, data_hash="0" * 16)
        found = encode(
            data, located, n_labels=2, metric="accuracy", max_length=100, n_select=0, cache_dir=tmp_path / "cache"
        )
        for text, ids in zip(texts, rows(found.train), strict=True):
            assert ids == tokenizer(text, add_special_tokens=text in CORPUS)["input_ids"]
        if found.train.type_ids is not None:
            assert len(found.train.type_ids) == len(found.train.ids)


def test_an_empty_text_cannot_tell_what_stands_where(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved(tmp_path / "model", "word_piece", "both").directory)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = frame_of(tokenizer, ["", "why"])
    assert (found.before, found.behind) == ((begin,), (end,))
    assert frame_of(tokenizer, [""]).before == (begin, end)


def test_a_begin_token_in_the_config_alone_is_not_put(tmp_path: Path) -> None:
    """SmolLM2's case: bos_token is set, the tokenizer puts none, and the chat's template begins with it."""
    located = saved(tmp_path / "model", "byte_level_bpe", "neither")
    written = json.loads((located.directory / "tokenizer_config.json").read_text())
    assert written["bos_token"] == "<s>"
    tokenizer = AutoTokenizer.from_pretrained(located.directory)
    (ids,) = rows(causal_ids(located, ("why",), ("not",)))
    assert ids == [*tokenizer("why")["input_ids"], *tokenizer("not")["input_ids"], tokenizer.eos_token_id]
