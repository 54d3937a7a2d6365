"""Causal language modelling as a kind of task: prompts and targets -> token ids, and what is read off generated ones.

A sequence is: what the tokenizer itself puts in front of a text, the prompt's tokens, the target's tokens, what it puts
behind a text, and the end token unless that is there. Nothing is put where the text has it already, so that a chat's
template may be written out with its markers (`special_tokens.prompted`). Prompt and target are tokenised apart, so
where the target begins does not depend on the tokenizer's merges. The loss is on all that follows the prompt, the end
token included, as in training on completions. numpy only, as bench/data/text.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.data import chat, special_tokens, splits, text
from bench.data.held_out import hold_out
from bench.data.splits import Encoded, EncodedData, Reading, Split, TextData

if TYPE_CHECKING:
    from bench.models import Located

KIND = "causal_lm"
GENERATED = ("char_accuracy", "exact_match")  # scores of generated text
WHOLE = (*GENERATED, "bits_per_byte")  # scores for which no evaluated target may be cut
METRICS = (*WHOLE, "perplexity", "eval_loss")
# Their transformers classes exist and look both ways: a causal loss on them would be met by reading the next token.
ENCODERS = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a causal task's rows become prompts and targets, and how what is generated is read.

    `template` is the prompt, with {prompt} where the prompt's column goes. `answer` is a regular expression: its last
    match (the first group, where it has one) is what exact_match compares in what is generated and in the target.
    """

    prompt: str | None = None  # column; None: the target is the whole text
    target: str = "target"  # column
    template: str = "{prompt}"
    answer: str | None = None
    max_new_tokens: int | None = None  # None: as many as the longest target of the split
    evaluates_train: bool = False  # memory is what is measured: the evaluation split is the training split
    max_prompt_tokens: int | None = None  # longer prompts lose their beginning; None: they are kept whole
    numeric: bool = False  # exact_match compares answers as numbers: 1,000 is 1000.0
    chat: chat.Format | None = None  # rows are conversations (bench/data/chat.py), without prompt and target columns


LATER = ("max_prompt_tokens", "numeric", "chat")  # fields of Layout that count in a data hash only where they are set


def writes(*metrics: str) -> bool:
    """Return whether any of these scores is one of generated text."""
    return any(name in GENERATED for name in metrics)


def data_of(train: Split, evaluation: Split, layout: Layout, metric: str) -> TextData:
    """Return the data of a causal task; its hash covers what the texts are read by, too."""
    fields = {name: value for name, value in asdict(layout).items() if name not in LATER or value}
    parts = [splits.hash_data(train, evaluation), metric, fields]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return TextData(train=train, eval=evaluation, data_hash=digest)


def joined(data: TextData, layout: Layout) -> TextData:
    """Return the data as it is held out: by its prompts without the template, or by its texts where there are none.

    Conversations go by what their users say.
    """
    before, after = layout.template.split("{prompt}")
    if layout.chat is not None:
        train, evaluation = (replace(s, texts=tuple(map(chat.asked, s.texts))) for s in (data.train, data.eval))
        return replace(data, train=train, eval=evaluation)

    def bare(split: Split) -> Split:
        prompts = (prompt.removeprefix(before).removesuffix(after) for prompt in split.texts)
        return replace(split, texts=tuple(prompts) if layout.prompt else split.pairs or (), pairs=None)

    return replace(data, train=bare(data.train), eval=bare(data.eval))


def split_of(rows: Iterable[tuple[str, str]], layout: Layout) -> Split:
    """Return (prompt column, target column) rows as a split: `texts` are whole prompts, `pairs` the targets."""
    found = list(rows)
    return Split(
        texts=tuple(layout.template.replace("{prompt}", prompt) if layout.prompt else "" for prompt, _ in found),
        pairs=tuple(target for _, target in found),
        labels=np.zeros(len(found), dtype=np.int64),
    )


def check(kind: str, layout: Layout | None, model_type: str, trials: Iterable[Trial]) -> None:
    """Refuse what a causal task cannot do, before anything trains.

    Raises:
        BadInput: for an encoder, and for a held-out part where the task measures memory.
    """
    if kind != KIND:
        return
    if model_type in ENCODERS:
        rule, way_out = "a causal language model must be a decoder", "use a decoder such as tiny-decoder or gpt2"
        raise BadInput("model", rule, got=model_type, way_out=way_out)
    n_select = max((trial.budget.n_select for trial in trials), default=0)
    if layout is not None and layout.evaluates_train and n_select:
        rule = "must be 0 where a task measures memory: nobody can know pairs that are held out"
        raise BadInput("n_select", rule, got=n_select, way_out="set n_select = 0")


def encode(
    data: TextData, located: Located, layout: Layout, *, metric: str, max_length: int, n_select: int
) -> EncodedData:
    """Return the data as token ids, longer sequences cut to max_length tokens from their ends.

    Before that, prompts of more than the layout's max_prompt_tokens lose their beginning.

    Raises:
        BadInput: where the model cannot take max_length tokens, the tokenizer has no end token, or a cut leaves nothing
            to learn or, for a score of generated text, an evaluation target that is not whole.
    """
    from bench.models import load_tokenizer

    text.check_length(located, max_length)
    tokenizer = load_tokenizer(located)
    if layout.chat is not None:
        return _encode_chats(data, located, layout, tokenizer, metric=metric, max_length=max_length, n_select=n_select)
    if tokenizer.eos_token_id is None:
        rule = "must have an end token: it is what stops a generated text"
        raise BadInput(f"tokenizer of {located.name}", rule, way_out="add eos_token to its tokenizer_config.json")
    train = _encode_split(data.train, tokenizer, layout, max_length, "train", whole=False)
    held_out = hold_out(joined(data, layout), n_select)
    return EncodedData(
        train=text.take(train, held_out.train),
        select=text.take(train, held_out.select) if len(held_out.select) else None,
        eval=_encode_split(data.eval, tokenizer, layout, max_length, "eval", whole=metric in WHOLE),
        test=None
        if data.test is None
        else _encode_split(data.test, tokenizer, layout, max_length, "test", whole=metric in WHOLE),
        test_hash=None if data.test is None else splits.hash_data(data.test),
        n_labels=0,
        metric=metric,
        data_hash=data.data_hash,
        reading=_reading(tokenizer, layout, int(tokenizer.eos_token_id)),
    )


def chat_template_of(located: Located, layout: Layout) -> str:
    """Return the template that conversations are written by: the task's own, else the tokenizer's.

    Raises:
        BadInput: where neither has one.
    """
    from bench.models import chat_template

    own = None if layout.chat is None else layout.chat.template
    found = chat_template(located) if own is None else own
    if found is None:
        rule = "must have a chat template to write conversations by"
        way_out = "use a model tuned to chat, or give chat_template in the task's TOML"
        raise BadInput(f"tokenizer of {located.name}", rule, got="none", way_out=way_out)
    return found


def template_of(located: Located, layout: Layout | None) -> str | None:
    """Return what a row tells of the template: a prompt's in full, a chat's by its hash; None without either."""
    if layout is None:
        return None
    if layout.chat is not None:
        digest = hashlib.sha256(chat_template_of(located, layout).encode()).hexdigest()[:16]
        return f"chat template {digest}"
    return layout.template if layout.prompt is not None else None


def _encode_chats(
    data: TextData, located: Located, layout: Layout, tokenizer: Any, *, metric: str, max_length: int, n_select: int
) -> EncodedData:
    assert layout.chat is not None
    template = chat_template_of(located, layout)
    found = {
        name: chat.encode(split, tokenizer, layout.chat, template=template, max_length=max_length, name=name)
        for name, split in (("train", data.train), ("eval", data.eval), ("test", data.test))
        if split is not None
    }
    train, held_out = found["train"].encoded, hold_out(joined(data, layout), n_select)
    parts = [text.take(train, np.flatnonzero(np.isin(train.index, p))) for p in (held_out.train, held_out.select)]
    if not len(parts[0]):
        rule = "must leave conversations to train on beside those held out"
        raise BadInput("max_length", rule, got=max_length, way_out="raise max_length")
    return EncodedData(
        train=parts[0],
        select=parts[1] if len(parts[1]) else None,
        eval=found["eval"].encoded,
        test=None if data.test is None else found["test"].encoded,
        test_hash=None if data.test is None else splits.hash_data(data.test),
        n_labels=0,
        metric=metric,
        data_hash=data.data_hash,
        reading=_reading(tokenizer, layout, found["eval"].end_id),
        notes=tuple(line for name, one in found.items() for line in one.told(name)),
    )


def _reading(tokenizer: Any, layout: Layout, end_id: int) -> Reading:
    return Reading(
        decode=lambda ids: tokenizer.batch_decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ),
        end_id=end_id,
        answer=layout.answer,
        max_new_tokens=layout.max_new_tokens,
        numeric=layout.numeric,
    )


def char_accuracy(generated: str, target: str) -> float:
    """Return the share of the target's characters that stand in the same place of the generated text, 0 .. 1.

    What comes after the target's length is not counted (exact_match counts it); an empty target is met by nothing else.
    """
    if not target:
        return float(not generated)
    return sum(a == b for a, b in zip(generated, target, strict=False)) / len(target)


def answer_of(generated: str, pattern: str | None) -> str | None:
    """Return what exact_match compares: the whole text, or the pattern's last match; None where it matches nowhere."""
    if pattern is None:
        return generated
    found = [m.group(1) if m.re.groups else m.group() for m in re.finditer(pattern, generated)]
    return found[-1] if found else None


def is_match(generated: str, target: str, pattern: str | None, *, numeric: bool = False) -> bool:
    """Return whether the answers agree, to the character or as numbers; no answer agrees with nothing."""
    mine, wanted = answer_of(generated, pattern), answer_of(target, pattern)
    if numeric:
        return number_of(mine) is not None and number_of(mine) == number_of(wanted)
    return mine is not None and mine == wanted


def number_of(answer: str | None) -> Decimal | None:
    """Return the number that an answer is, without $, blanks, thousands separators and a full stop at its end."""
    if answer is None:
        return None
    try:
        number = Decimal(re.sub(r"[$,\s]", "", answer).removesuffix("."))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _encode_split(split: Split, tokenizer: Any, layout: Layout, max_length: int, name: str, *, whole: bool) -> Encoded:
    wanted = split.pairs or ()
    prompts, targets = (
        tokenizer(list(texts), add_special_tokens=False)["input_ids"] for texts in (split.texts, wanted)
    )
    _check_known(targets, wanted, tokenizer)
    frame = special_tokens.frame_of(tokenizer, wanted)
    ends = {"bos_id": tokenizer.bos_token_id, "end_id": tokenizer.eos_token_id, "max_prompt": layout.max_prompt_tokens}
    both = [special_tokens.prompted(frame, p, t, **ends) for p, t in zip(prompts, targets, strict=True)]
    rows = [row for row, _ in both]
    prompt_lengths = np.array([length for _, length in both], dtype=np.int64)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    _check_cut(lengths, prompt_lengths, max_length, name, whole=whole)
    cut = [row[:max_length] for row in rows]
    return Encoded(
        ids=np.fromiter((token for row in cut for token in row), dtype=np.int32),
        type_ids=None,
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in cut])]).astype(np.int64),
        labels=split.labels,
        index=np.arange(len(split), dtype=np.int64),
        prompt_lengths=prompt_lengths,
        # of a target that is cut nobody knows which of its bytes are left
        target_bytes=None if (lengths > max_length).any() else np.array([len(t.encode()) for t in wanted]),
    )


def _check_known(targets: Sequence[Sequence[int]], texts: Sequence[str], tokenizer: Any) -> None:
    unknown = [i for i, ids in enumerate(targets) if tokenizer.unk_token_id in ids]
    if unknown:
        got = f"{len(unknown)} that it cannot write, such as example {unknown[0]}: {texts[unknown[0]]!r}"
        where = f"tokenizer of {Path(tokenizer.name_or_path).name}"
        raise BadInput(where, "must know what the targets are made of", got=got[:300], way_out="use another model")


def _check_cut(
    lengths: npt.NDArray[np.int64], prompt_lengths: npt.NDArray[np.int64], max_length: int, name: str, *, whole: bool
) -> None:
    bad = (lengths > max_length) if whole else (prompt_lengths >= np.minimum(lengths, max_length))
    if not bad.any():
        return
    place = int(np.argmax(bad))
    rule = "an evaluated target must fit whole" if whole else "a token of every target must fit, behind its prompt"
    got = f"{int(bad.sum())} {name} examples too long, such as {place} with {int(lengths[place])} tokens"
    raise BadInput("max_length", rule, got=f"{max_length}: {got}", way_out="raise max_length or leave them out")
