"""Conversations as token ids: against apply_chat_template, TRL's assistant masks, and masks worked out by hand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import BadInput
from bench.data import chat
from bench.data.chat import Format, TrainOn
from bench.data.splits import Encoded
from tests.support.chat_helpers import CHATML, MARKED, messages, split, tokenizer

TWO = messages("hello", "fine thanks", "how are you?", "fine.")
THREE = messages("ünï", "a b", "c", "d e f", "g", "h", system="be kind")


def encode(*conversations: Any, template: str = CHATML, train_on: TrainOn = "assistant", max_length: int = 1000) -> Any:
    form = Format(train_on=train_on)
    return chat.encode(split(*conversations), tokenizer(), form, template=template, max_length=max_length, name="train")


def trained(encoded: Encoded, i: int = 0) -> list[str]:
    """The texts of the runs of tokens that the loss is on."""
    start, end = encoded.offsets[i], encoded.offsets[i + 1]
    assert encoded.target_mask is not None
    edges = np.flatnonzero(np.diff(np.r_[0, encoded.target_mask[start:end].astype(int), 0])).reshape(-1, 2)
    return [tokenizer().decode(encoded.ids[start + first : start + last]) for first, last in edges]


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", ["a b<|im_end|>", "d e f<|im_end|>", "h<|im_end|>"]),
        ("last", ["h<|im_end|>"]),
    ],
)
def test_the_loss_is_on_the_assistants_turns_and_their_end_marks(
    template: str, train_on: TrainOn, expected: list[str]
) -> None:
    found = encode(THREE, template=template, train_on=train_on)
    ids = tokenizer().apply_chat_template(THREE, chat_template=template)["input_ids"]
    assert found.encoded.ids.tolist() == ids
    assert trained(found.encoded) == expected
    n_bytes = sum(len(said.removesuffix("<|im_end|>").encode()) for said in expected)
    assert found.encoded.target_bytes.tolist() == [n_bytes]
    asks = tokenizer().apply_chat_template(THREE[:-1], chat_template=template, add_generation_prompt=True)["input_ids"]
    assert found.encoded.prompt_lengths.tolist() == [len(asks)]
    assert tokenizer().convert_ids_to_tokens(found.end_id) == "<|im_end|>"


def test_all_is_every_token_but_the_first() -> None:
    found = encode(THREE, TWO, train_on="all").encoded
    first = found.offsets[:-1]
    assert not found.target_mask[first].any()
    assert int(found.target_mask.sum()) == len(found.ids) - 2
    assert found.target_bytes[0] == sum(len(m["content"].encode()) for m in THREE)


TRL = Path(find_spec("trl").submodule_search_locations[0]) if find_spec("trl") else None  # type: ignore[union-attr,index]
FAMILIES = ("gemma", "lfm2", "llama3", "qwen2_5", "qwen3_instruct_2507", "qwen3")


@pytest.mark.skipif(TRL is None, reason="TRL is not installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_with_marks_ids_and_masks_are_those_of_trl(family: str) -> None:
    """As its SFTTrainer asks for them with assistant_only_loss, by its own training templates."""
    assert TRL is not None
    template = (TRL / "chat_templates" / f"{family}_training.jinja").read_text("utf-8")
    for conversation in (TWO, messages("hello", "fine"), THREE[1:]):
        found = encode(conversation, template=template).encoded
        theirs = tokenizer().apply_chat_template(
            conversation, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        assert found.ids.tolist() == theirs["input_ids"]
        assert found.target_mask.astype(int).tolist() == theirs["assistant_masks"]


@pytest.mark.skipif(TRL is None, reason="TRL is not installed")
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen3"])
def test_the_prefix_method_finds_what_trl_marks_less_what_stands_around_it(family: str) -> None:
    """By the models' own templates, which have no marks; TRL's mark the line break behind an end mark as well."""
    assert TRL is not None
    own, theirs = ((TRL / "chat_templates" / f"{family}{end}.jinja").read_text("utf-8") for end in ("", "_training"))
    for conversation in (TWO, THREE[1:]):
        mine = encode(conversation, template=own).encoded
        marked = encode(conversation, template=theirs).encoded
        assert mine.ids.tolist() == marked.ids.tolist()
        assert trained(mine) == [text.strip("\n") for text in trained(marked)]


@pytest.mark.skipif(TRL is None, reason="TRL is not installed")
def test_a_template_that_rewrites_earlier_turns_is_refused_unless_the_last_one_alone_is_trained() -> None:
    """Qwen3's own template writes an empty <think> into the last turn only."""
    assert TRL is not None
    template = (TRL / "chat_templates" / "qwen3.jinja").read_text("utf-8")
    with pytest.raises(BadInput, match=r'not so at message 2 of train conversation 2; set train_on = "last", or give'):
        encode(messages("a", "b"), TWO, template=template)
    assert trained(encode(TWO, template=template, train_on="last").encoded) == [
        "<think>\n\n</think>\n\nfine.<|im_end|>"
    ]


def test_tokens_that_merge_across_the_border_of_a_turn_are_refused() -> None:
    """The header ends in `than`, the answer begins with `ks`: one token of the whole conversation is of both."""
    merging = "{% for m in messages %}{{ m['role'] + ' than' + m['content'] + '</s>' }}{% endfor %}"
    merging += "{% if add_generation_prompt %}assistant than{% endif %}"
    with pytest.raises(BadInput, match=r"token by token, but got not so at message 2 of train conversation 1"):
        encode(messages("x", "ks"), template=merging)


def test_a_turn_without_an_end_mark_is_refused() -> None:
    bare = "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}assistant\n{% endif %}"
    with pytest.raises(BadInput, match="must end every assistant turn with a special token"):
        encode(TWO, template=bare)


def test_what_a_template_will_not_write_is_one_line() -> None:
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(
        BadInput, match=r"must write train conversation 1, but got System role not supported; mend the conv"
    ):
        encode(THREE, template=refusing)
    broken = "{% for m in messages %}\n{{ m.content "
    with pytest.raises(
        BadInput, match=r"^chat template: must be a Jinja template, but got .*; mend its line 2, or give"
    ):
        encode(THREE, template=broken)


def test_long_conversations_lose_whole_turns_from_the_front_and_keep_the_system_message() -> None:
    whole = tokenizer().apply_chat_template(THREE, chat_template=CHATML)["input_ids"]
    shorter = [THREE[0], *THREE[3:]]
    ids = tokenizer().apply_chat_template(shorter, chat_template=CHATML)["input_ids"]
    short = messages("a", "b")
    found = encode(THREE, short, max_length=len(whole) - 1)
    assert found.encoded.ids[: len(ids)].tolist() == ids
    assert (found.n_cut, found.n_left_out) == (1, 0)
    assert found.told("train") == ("1 train conversations cut from the front by whole turns",)
    assert encode(THREE, max_length=len(whole)).n_cut == 0
    fits = len(tokenizer().apply_chat_template(short, chat_template=CHATML)["input_ids"])
    found = encode(THREE, short, THREE, max_length=fits)
    assert (found.n_cut, found.n_left_out, found.encoded.index.tolist()) == (0, 2, [1])
    assert found.told("eval") == ("2 eval conversations left out, whose last turns alone are too long",)
    with pytest.raises(BadInput, match="none of 1 train conversations"):
        encode(THREE, max_length=4)


def test_tool_calls_and_tools_reach_the_template() -> None:
    template = (
        "{{ tools | length }}{% for m in messages %}{{ m['role'] }}{{ m['content'] }}{% if m['tool_calls'] %}"
        "{{ m['tool_calls'][0]['name'] }}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "add"}, {"role": "assistant", "content": "", "tool_calls": [{"name": "plus"}]},
        {"role": "tool", "content": "3"}, {"role": "assistant", "content": "three"},
    ]  # fmt: skip
    text = chat.text_of(said, [{"name": "plus"}])
    data = split(said)
    found = chat.encode(
        type(data)(texts=(text,), pairs=None, labels=data.labels), tokenizer(), Format(), template=template,
        max_length=99, name="train",
    ).encoded  # fmt: skip
    assert tokenizer().decode(found.ids) == "1useradd</s>assistantplus</s>tool3</s>assistantthree</s>"
    assert trained(found) == ["plus</s>", "three</s>"]
    assert found.target_bytes.tolist() == [len('[{"name": "plus"}]') + len("three")]
