"""Conversations out of files and data sets: `messages` with role and content, or ShareGPT's from and value.

Each conversation is checked where it stands: roles, their order, and that every turn says something. Whatever else a
message holds (tool_calls, name, ...) goes to the chat template as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import BadInput, one_of
from bench.data import causal, chat
from bench.data.containment import distinct
from bench.data.splits import Split, TextData
from bench.tasks import _files, _load
from bench.tasks._base import CONVERSATIONS, Task

COLUMNS = ("messages", "conversations")  # the first that a row has
TOOLS = "tools"
# ShareGPT's names of roles, as LLaMA-Factory and axolotl read them
SHAREGPT = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
ROLES = ("system", "user", "assistant", "tool")
BEFORE = {  # what may stand before a message of each role; None: nothing
    "system": (None,), "user": (None, "system", "assistant"), "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}  # fmt: skip
EVAL_SHARE, MOST_EVAL = 0.1, 1000  # of the conversations are scored where no others are given
MEND = "mend the conversation or leave it out"


def data_of(
    task: Task, train: Path | str, evaluation: Path | str | None, test: Path | str | None, *, column: str | None
) -> TextData:
    """Return the data of a task of conversations; without an evaluation split a tenth of train is one.

    A path is a file, a text the name of a split of the task's Hub data set. Which tenth it is hangs on what the users
    say, up to case and punctuation, and on nothing else: conversations that begin alike go together.

    Raises:
        BadInput: with file and line, for a conversation that is none, and for files without any.
    """
    assert task.causal is not None
    first = _read(task, train, column)
    train_split, eval_split = _divided(first, str(train)) if evaluation is None else (first, None)
    if eval_split is None:
        assert evaluation is not None
        eval_split = _read(task, evaluation, column)
    data = causal.data_of(train_split, eval_split, task.causal, task.metric)
    return data if test is None else replace(data, test=_read(task, test, column))


def split_of(texts: Iterable[str]) -> Split:
    """Return conversations, each as `chat.text_of` writes it, as a split."""
    found = tuple(texts)
    return Split(texts=found, pairs=None, labels=np.zeros(len(found), dtype=np.int64))


def conversation(given: Any, tools: Any, where: str, *, empty_texts: bool = False) -> str:
    """Return a row's conversation as a split holds it.

    Raises:
        BadInput: for what is no conversation, or none that an assistant's turn ends.
    """
    if not isinstance(given, list) or not given:
        raise BadInput(where, "must be a list of messages", got=repr(given)[:80], way_out=MEND)
    messages = [_message(one, i, where) for i, one in enumerate(given, start=1)]
    _check_order([str(m["role"]) for m in messages], where)
    for i, message in enumerate(messages, start=1):
        _check_content(message, f"{where}, message {i}", empty_texts=empty_texts)
    return chat.text_of(messages, _tools(tools, where))


def _message(given: Any, number: int, where: str) -> dict[str, Any]:
    """Return a message with role and content; what is null is left out, as transformers does."""
    place = f"{where}, message {number}"
    if not isinstance(given, dict):
        raise BadInput(place, "must be an object with role and content", got=repr(given)[:80], way_out=MEND)
    message = {key: value for key, value in given.items() if value is not None}
    if "role" not in message and "from" in message:
        names = {"from": "role", "value": "content"}
        message = {names.get(key, key): value for key, value in message.items()}
    if "role" in message:
        message["role"] = SHAREGPT.get(str(message["role"]), message["role"])
    role = message.get("role")
    if role not in ROLES:
        known = one_of((*ROLES, *SHAREGPT))
        raise BadInput(
            place, "must have a role", got="none" if role is None else repr(role)[:80], way_out=f"known: {known}"
        )
    return message


def _check_order(roles: list[str], where: str) -> None:
    before: str | None = None
    for i, role in enumerate(roles, start=1):
        if before not in BEFORE[role]:
            rule = "users and assistants must take turns, a system message first and tools after an assistant"
            got = f"message {i} is of {role}, {'the first one' if before is None else f'behind one of {before}'}"
            raise BadInput(where, rule, got=got, way_out=MEND)
        before = role
    if before != "assistant":
        raise BadInput(where, "must end with an assistant's turn", got=f"one of {before}", way_out=MEND)


def _check_content(message: dict[str, Any], where: str, *, empty_texts: bool) -> None:
    if message["role"] == "assistant" and message.get("tool_calls") and "content" not in message:
        return
    content = message.get("content")
    if not isinstance(content, str) or not _files.encodable(content):
        raise BadInput(where, "the content must be a text", got=repr(content)[:80], way_out=MEND)
    calls, must_say = bool(message.get("tool_calls")), message["role"] == "assistant" or not empty_texts
    if not content.strip() and must_say and not calls and message["role"] != "tool":
        raise BadInput(where, f"the {message['role']} must say something", got=repr(content)[:80], way_out=MEND)


def _tools(given: Any, where: str) -> list[Any] | None:
    """Return the tools of a conversation: a list of JSON schemas, or the JSON of one."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else None
        except ValueError:
            given = repr(given)
    if given is None or given == []:
        return None
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise BadInput(f"{where}, tools", "must be a list of JSON schemas", got=repr(given)[:80], way_out=MEND)
    return given


def _read(task: Task, source: Path | str, column: str | None) -> Split:
    rows, place = _rows_of_file(source, column) if isinstance(source, Path) else _rows_of_hub(task, source, column)
    return split_of(_checked(rows, place, empty_texts=task.empty_texts))


def _rows_of_file(path: Path, column: str | None) -> tuple[Iterator[_files.Row], Callable[[int], str]]:
    unit = "row" if path.suffix == ".parquet" else "line"
    if path.suffix not in CONVERSATIONS:
        rule, got = f"conversations must lie in {one_of(CONVERSATIONS)}", path.suffix or "no ending"
        raise BadInput(str(path), rule, got=got, way_out="convert the file")
    return _files.read_either(path, _wanted(column), TOOLS), lambda line: f"{path} {unit} {line}" if line else str(path)


def _rows_of_hub(task: Task, split: str, column: str | None) -> tuple[Iterator[_files.Row], Callable[[int], str]]:
    where = " ".join(filter(None, (task.hub_id, task.hub_config, split)))
    found = _load.data_set(f"task {task.name}", str(task.hub_id), task.hub_config)
    names = found[split].column_names if split in found else []
    own = next((name for name in _wanted(column) if name in names), _wanted(column)[0])
    columns = (own, TOOLS) if TOOLS in names else (own,)
    rows = _load.columns(found, split, columns, where)
    return ((n, (*v, None)[:2]) for n, v in rows), lambda row: f"{where} row {row}" if row else where


def _wanted(column: str | None) -> tuple[str, ...]:
    return COLUMNS if column is None else (column,)


def _checked(rows: Iterable[_files.Row], place: Callable[[int], str], *, empty_texts: bool) -> list[str]:
    """Return every row's conversation; of several that are none the first is named, and how many there are."""
    texts: list[str] = []
    bad: list[BadInput] = []
    for line, (given, tools) in rows:
        try:
            texts.append(conversation(given, tools, place(line), empty_texts=empty_texts))
        except BadInput as error:
            bad.append(error)
    if bad:
        first, more = bad[0], f"; {len(bad) - 1:,} more such" if len(bad) > 1 else ""
        raise BadInput(first.where, first.rule, got=f"{first.got}{more}", way_out=first.way_out)
    if not texts:
        raise BadInput(place(0), "must hold at least one conversation", got="none", way_out="give a file with some")
    return texts


def _divided(split: Split, where: str) -> tuple[Split, Split]:
    """Return train and evaluation: of the groups of conversations with the same questions, those of least hash."""
    found, groups = distinct([chat.asked(text) for text in split.texts]), dict[str, list[int]]()
    for place, key in enumerate(found.of):
        groups.setdefault(hashlib.sha256(found.keys[key].encode()).hexdigest(), []).append(place)
    wanted, chosen = max(1, min(MOST_EVAL, round(EVAL_SHARE * len(split)))), set[int]()
    for key in sorted(groups):
        if len(chosen) >= wanted:
            break
        chosen |= set(groups[key])
    if len(chosen) == len(split):
        rule = "must hold different conversations, to train on and to be scored on"
        raise BadInput(where, rule, got=f"{len(split)} that ask the same", way_out="add some, or give [files].eval")
    parts = ([text for i, text in enumerate(split.texts) if (i in chosen) is held] for held in (False, True))
    train, evaluation = (split_of(texts) for texts in parts)
    return train, evaluation
