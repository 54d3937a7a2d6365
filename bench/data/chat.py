"""Conversations -> token ids and the turns that the loss is on, by the tokenizer's own chat template.

A conversation's ids are exactly those of `apply_chat_template`. Which of them an assistant wrote, its end mark
included, is what `{% generation %}` marks hold where the template has them, as in TRL. Where it has none, the
conversation up to a turn is rendered by itself, with and without that turn. Both must be what the whole conversation
begins with, token by token; then the turn's tokens are what lies between, up to its last special token, the end mark.
A template that writes earlier turns otherwise once more follow is refused. numpy only, as bench/data/text.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.core.errors import BadInput, one_line
from bench.data.splits import Encoded, Split

TrainOn = Literal["all", "assistant", "last"]
TRAIN_ON: tuple[TrainOn, ...] = ("all", "assistant", "last")
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for them
_OTHER_TEMPLATE = "give another chat_template in the task's TOML, with {% generation %} marks"

Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How conversations are written and trained on."""

    train_on: TrainOn = "assistant"  # every token, every assistant turn, or the last one alone
    template: str | None = None  # a chat template of the task's own; None: the tokenizer's


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """One split as token ids; `n_cut` conversations lost their first turns, `n_left_out` have none that fits."""

    encoded: Encoded
    n_cut: int
    n_left_out: int
    end_id: int  # the commonest end mark of a conversation's last turn

    def told(self, name: str) -> tuple[str, ...]:
        """Return what was cut, in words."""
        cut = f"{self.n_cut:,} {name} conversations cut from the front by whole turns" if self.n_cut else ""
        out = f"{self.n_left_out:,} {name} conversations left out, whose last turns alone are too long"
        return tuple(line for line in (cut, out if self.n_left_out else "") if line)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A conversation as ids, and where its trained assistant turns lie: [start, end) of each, the last one last."""

    ids: list[int]
    spans: list[tuple[int, int]]
    end_id: int  # the end mark of the last one


def text_of(messages: Sequence[Message], tools: Sequence[Any] | None = None) -> str:
    """Return a conversation as the text that a `Split` holds: JSON, messages and the tools that they may call."""
    content = {"messages": list(messages), **({"tools": list(tools)} if tools else {})}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def asked(text: str) -> str:
    """Return what the users of a conversation say: examples that share it are held out together."""
    return "\n".join(str(m["content"]) for m in json.loads(text)["messages"] if m["role"] == "user")


def encode(
    split: Split, tokenizer: Any, form: Format, *, template: str, max_length: int, name: str
) -> Encoding:  # fmt: skip
    """Return a split as token ids of at most max_length tokens each; what does not fit is left out.

    A conversation that is longer loses its first turns, whole ones, until it begins with a user's turn and fits; a
    system message stays. `index` holds each example's place in the split.

    Raises:
        BadInput: where the template cannot write a conversation, writes a turn without an end mark, or writes earlier
            turns otherwise once more follow; and where nothing is left.
    """
    writer = _Writer(tokenizer, form, template)
    found: list[tuple[int, _Written, int]] = []  # place, conversation, bytes
    n_cut = 0
    for place, text in enumerate(split.texts):
        where, content = f"{name} conversation {place + 1}", json.loads(text)
        messages = writer.fitting(content["messages"], content.get("tools"), max_length, where)
        if messages is None:
            continue
        n_cut += len(messages) < len(content["messages"])
        written = writer.write(messages, content.get("tools"), where)
        found.append((place, written, _bytes(messages, form.train_on)))
    if not found:
        got = f"{max_length}: none of {len(split):,} {name} conversations, whose last turns are longer"
        raise BadInput("max_length", "must hold a whole conversation", got=got, way_out="raise max_length")
    ends = Counter(written.end_id for _, written, _ in found)
    return Encoding(
        encoded=_encoded(found, form.train_on),
        n_cut=n_cut,
        n_left_out=len(split) - len(found),
        end_id=ends.most_common(1)[0][0],
    )


class _Writer:
    """Writes conversations by one template."""

    def __init__(self, tokenizer: Any, form: Format, template: str) -> None:
        self.tokenizer, self.template, self.train_on = tokenizer, template, form.train_on
        self.has_marks = MARKS.search(template) is not None
        added = tokenizer.added_tokens_decoder.items()
        self.special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}

    def fitting(
        self, messages: list[Message], tools: Any, max_length: int, where: str
    ) -> list[Message] | None:  # fmt: skip
        """Return the messages without as many of the first turns as makes them fit; None where nothing does."""
        (whole,) = self._ids([(messages, False)], tools, where)
        if len(whole) <= max_length:
            return messages
        system = messages[:1] if messages[0]["role"] == "system" else []
        starts = [i for i, message in enumerate(messages) if message["role"] == "user"][1:]
        for start in starts:
            shorter = [*system, *messages[start:]]
            (ids,) = self._ids([(shorter, False)], tools, where)
            if len(ids) <= max_length:
                return shorter
        return None

    def write(self, messages: list[Message], tools: Any, where: str) -> _Written:
        """Return a conversation's ids, and the spans of the assistant turns that are trained on (`all`: the last)."""
        ids, spans = (self._by_marks if self.has_marks else self._by_prefix)(messages, tools, where)
        ends = [self._end(ids, start, end) for start, end in spans]
        for (start, _), end in zip(spans, ends, strict=True):
            if end == start:
                rule = "must end every assistant turn with a special token, which stops what is generated"
                got = f"none in {where}: {self.tokenizer.decode(ids[start:])[:60]!r}"
                raise BadInput("chat template", rule, got=got, way_out=_OTHER_TEMPLATE)
        if not self.has_marks:
            spans = [(start, end) for (start, _), end in zip(spans, ends, strict=True)]
        return _Written(ids=ids, spans=spans, end_id=ids[ends[-1] - 1])

    def _by_marks(self, messages: list[Message], tools: Any, where: str) -> tuple[list[int], list[tuple[int, int]]]:
        with _template_errors(where):
            coded = self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.template, return_dict=True, return_assistant_tokens_mask=True
            )
        ids, mask = list(coded["input_ids"]), np.array([0, *coded["assistant_masks"], 0], dtype=np.int8)
        edges = np.flatnonzero(np.diff(mask))
        spans = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
        if not spans:
            rule = "its {% generation %} marks must hold an assistant turn"
            raise BadInput("chat template", rule, got=f"none in {where}", way_out=_OTHER_TEMPLATE)
        return ids, spans if self.train_on == "assistant" else spans[-1:]

    def _by_prefix(self, messages: list[Message], tools: Any, where: str) -> tuple[list[int], list[tuple[int, int]]]:
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = turns if self.train_on == "assistant" else turns[-1:]
        parts = [part for i in wanted for part in ((messages[:i], True), (messages[: i + 1], False))]
        whole, *ids = self._ids([(messages, False), *parts], tools, where)
        spans = []
        for turn, before, upto in zip(wanted, ids[::2], ids[1::2], strict=True):
            if whole[: len(upto)] != upto or upto[: len(before)] != before:
                rule = "must write a conversation up to a turn as it writes it within the whole, token by token"
                other = "" if self.train_on == "last" else 'set train_on = "last", or '
                got = f"not so at message {turn + 1} of {where}"
                raise BadInput("chat template", rule, got=got, way_out=f"{other}{_OTHER_TEMPLATE}")
            spans.append((len(before), len(upto)))
        return whole, spans

    def _end(self, ids: list[int], start: int, end: int) -> int:
        """Return the place behind the last special token of [start, end); `start` where there is none."""
        return next((i + 1 for i in range(end - 1, start - 1, -1) if ids[i] in self.special), start)

    def _ids(self, parts: Sequence[tuple[list[Message], bool]], tools: Any, where: str) -> list[list[int]]:
        """Return the ids of messages, each with the header of an assistant's turn behind it or without."""
        with _template_errors(where):
            texts = [
                self.tokenizer.apply_chat_template(
                    messages, tools=tools, chat_template=self.template, add_generation_prompt=opens, tokenize=False
                )
                for messages, opens in parts
            ]
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return rows


class _template_errors:
    """What a template says of a conversation that it cannot write, as one line."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from jinja2 import TemplateError, TemplateSyntaxError

        if isinstance(error, TemplateError | TypeError | ValueError):
            rule, way_out = f"must write {self.where}", "mend the conversation, or give another chat_template"
            if isinstance(error, TemplateSyntaxError):
                rule, way_out = (
                    "must be a Jinja template",
                    f"mend its line {error.lineno}, or give another chat_template",
                )
            got = one_line(str(error))[:200].rstrip(".")
            raise BadInput("chat template", rule, got=got, way_out=way_out) from error


def _encoded(found: Sequence[tuple[int, _Written, int]], train_on: TrainOn) -> Encoded:
    rows = [written.ids for _, written, _ in found]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    mask = np.full(offsets[-1], train_on == "all")
    for start, (_, written, _) in zip(offsets, found, strict=False):
        for first, end in written.spans:
            mask[start + first : start + end] = True
    mask[offsets[:-1]] = False  # nothing stands before it that could predict it
    return Encoded(
        ids=np.fromiter((token for row in rows for token in row), dtype=np.int32),
        type_ids=None,
        offsets=offsets,
        labels=np.zeros(len(rows), dtype=np.int64),
        index=np.array([place for place, _, _ in found], dtype=np.int64),
        prompt_lengths=np.array([max(1, written.spans[-1][0]) for _, written, _ in found], dtype=np.int64),
        target_mask=mask,
        target_bytes=np.array([size for _, _, size in found], dtype=np.int64),
    )


def _bytes(messages: Sequence[Message], train_on: TrainOn) -> int:
    """Return the UTF-8 bytes of the contents that the loss is on, calls of tools as JSON; no marks of a template."""
    turns = [m for m in messages if train_on == "all" or m["role"] == "assistant"]
    return sum(len(part.encode()) for m in (turns[-1:] if train_on == "last" else turns) for part in _parts(m))


def _parts(message: Message) -> Iterator[str]:
    yield str(message.get("content") or "")
    if message.get("tool_calls"):
        yield json.dumps(message["tool_calls"], ensure_ascii=False)
